"""Tables: on the terminal the verdict on a rule and lost digits, in files Markdown and CSV."""

import csv
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handgrad.audit.judge import Line, Report
from handgrad.audit.number_formats import LostDigits

# A cell that begins with one of these is a formula to a spreadsheet; the last four are full-width.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SIGNED_NUMBER = re.compile(r"[+-]([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # such as -1


def safe(text: object) -> str:
    """Quote a user's text that a spreadsheet would run as a formula, but not a number.

    It gets an apostrophe before it: OWASP, CSV injection
    (owasp.org/www-community/attacks/CSV_Injection).
    """
    # CSV writers do not quote a bare \r, which ends a row.
    name = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return f"'{name}" if name.startswith(FORMULA) and not SIGNED_NUMBER.fullmatch(name) else name


def print_report(report: Report, title: str, evidence: dict[str, dict[str, float]]) -> None:
    """Print the verdict on every line, and below it the hints about wrong ones.

    Args:
        report: the audit's.
        title: above the table.
        evidence: for each method, the relative error of each gradient; may be empty.
    """
    table = titled(title)
    table.add_column("equation", no_wrap=True)
    for name in ("residual", "tolerance", *evidence):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for line in report.lines:
        errors = (errors.get(line.name) for errors in evidence.values())
        cells = ["" if error is None else f"{error:.0e}" for error in errors]
        residual = "" if math.isnan(line.residual) else f"{line.residual:.2g}"
        table.add_row(
            escape(line.equation), residual, f"{line.tolerance:g}", *cells, _verdict(line)
        )
    _show(table, ((line.name, line.hint) for line in report.lines))


def print_losses(losses: list[LostDigits], title: str) -> None:
    """Print the relative error of each quantity in each format, and below it what underflows.

    Args:
        losses: of `number_formats.measure`.
        title: above the table.
    """
    table = titled(title)
    table.add_column("", no_wrap=True)
    for name, scale in {loss.format: loss.loss_scale for loss in losses}.items():
        times = "" if scale == 1 else f"\nS = 2^{round(math.log2(scale))}"
        table.add_column(f"{name.replace('-scaled', '')}{times}", justify="right", no_wrap=True)
    rows: dict[str, list[str]] = {}
    for loss in losses:
        rows.setdefault(loss.quantity, []).append(_cell(loss))
    for quantity, cells in rows.items():
        table.add_row(quantity, *cells)
    _show(table, ((loss.format, loss.problem) for loss in losses))


def _cell(loss: LostDigits) -> str:
    """Return the relative error, then how many entries underflow or overflow."""
    if loss.problem:
        return "[dim]none[/]"
    lines = [f"{loss.relative_error:.1e}"]
    for count, what in ((loss.underflows, "lost"), (loss.overflows, "overflow")):
        if count:
            lines += [f"[red]{count} {what}[/]", f"[red]{count / loss.entries:.1%}[/]"]
    return "\n".join(lines)


def titled(title: str) -> Table:
    """Return an empty table in this project's style."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )


def _show(table: Table, notes: Iterable[tuple[str, str]]) -> None:
    """Print a table, and below it each new note, after the name of what it is about."""
    console = Console()
    console.print(table)
    told = {""}
    for name, note in notes:
        if note not in told:
            told.add(note)
            console.print(f"{name}: {escape(note)}", soft_wrap=True, highlight=False)


def _verdict(line: Line) -> str:
    """Return the verdict on a line in one or two words, coloured."""
    if line.angle is not None:
        return "[yellow]deviates[/]"
    if not line.judged:
        return "[dim]not judged[/]"
    return "[green]right[/]" if line.ok else "[bold red]WRONG[/]"


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str] = ()
) -> str:
    """Return a Markdown table, without a line break at its end.

    A bar within a cell is escaped, because it would end the cell.

    Args:
        header: the name of each column.
        rows: a cell for each column; None is left empty.
        right: the columns that are aligned to the right.
    """
    body = [["" if cell is None else str(cell) for cell in row] for row in rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (header, *body)]
    rule = ["---:" if name in right else "---" for name in header]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


def write_csv(
    path: Path,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    as_is: Collection[str] = (),
) -> None:
    """Write a CSV file in which no text is a formula to a spreadsheet (see `safe`).

    Args:
        path: of the file.
        header: the name of each column.
        rows: a cell for each column: a text, a number, or None for an empty one.
        as_is: columns whose texts are this program's own, such as +- 0.7, and stay as they are.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in (header, *rows):
            cells = zip(header, row, strict=True)
            writer.writerow(
                [
                    safe(cell) if isinstance(cell, str) and name not in as_is else cell
                    for name, cell in cells
                ]
            )

"""The verdict on a backward rule, on the terminal."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handgrad.audit import Line, Report


def print_report(report: Report, title: str, evidence: dict[str, dict[str, float]]) -> None:
    """Print the verdict on every line, then what is to be said about the wrong ones.

    Args:
        report: the audit's.
        title: above the table.
        evidence: for each method, the relative error of each gradient; may be empty.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("equation", no_wrap=True)
    for name in ("residual", "tolerance", *evidence):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for line in report.lines:
        errors = (errors.get(line.name) for errors in evidence.values())
        cells = ["" if error is None else f"{error:.0e}" for error in errors]
        residual = "" if math.isnan(line.residual) else f"{line.residual:.2g}"
        table.add_row(escape(line.equation), residual, f"{line.tolerance:g}", *cells, verdict(line))
    console = Console()
    console.print(table)
    told: set[str] = set()
    for line in report.lines:
        if line.hint and line.hint not in told:
            told.add(line.hint)
            console.print(f"{line.name}: {escape(line.hint)}", soft_wrap=True, highlight=False)


def verdict(line: Line) -> str:
    """One word, coloured."""
    if line.angle is not None:
        return "[yellow]deviates[/]"
    if not line.judged:
        return "[dim]not judged[/]"
    return "[green]right[/]" if line.ok else "[bold red]WRONG[/]"

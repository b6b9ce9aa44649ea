"""Results of a replay: a table on the terminal, results.md and results.csv."""

import math
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from handgrad.runs import tables
from handgrad.runs.folder import made_on
from handgrad.tasks.replay.verdict import Comparison, in_percent

COLUMNS = ("run", "figure", "published", "accepted", "ours", "median of seeds (all)", "verdict")
COLOURS = {"PASS": "[bold green]PASS[/]", "FAIL": "[bold red]FAIL[/]", "": "[dim]none[/]"}
PHRASES = {"best_of_3": "best of {}", "mean": "mean of {}", "median": "median of {}"}


def table(title: str, rows: list[Comparison]) -> Table:
    """Return the rows as a table for the terminal."""
    made = tables.titled(title)
    for column in COLUMNS:
        name, number = column.removesuffix(" of seeds (all)"), column in ("published", "ours")
        made.add_column(name, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        made.add_row(*map(escape, _cells(row)), COLOURS[row.verdict])
    return made


def markdown(
    name: str, config: dict[str, Any], overrides: list[str], rows: list[Comparison]
) -> str:
    """Return the whole result as a page, without the folders of this machine."""
    replay = config["replay"]
    lines = [f"# {name}", "", f"Source: {replay['source']}", ""]
    lines += [f"What differs: {replay['differs']}", ""] if replay["differs"] else []
    lines += [
        tables.markdown_table(COLUMNS, ([*_cells(row), row.verdict or "none"] for row in rows)),
        "",
    ]
    given = [each for each in overrides if not each.startswith(("data.root=", "data.download="))]
    lines += [f"`python train.py {' '.join(given)}`", ""]
    lines += [f"Made on {', '.join(made_on().values())}.", ""]
    return "\n".join(lines)


def write_csv(name: str, config: dict[str, Any], rows: list[Comparison], path: Path) -> None:
    """Write one line for each figure, with the values of all seeds."""
    facts = made_on()
    header = ["experiment", *COLUMNS[:5], "median", "least", "most", "verdict", "values", "source"]
    lines: list[list[object]] = []
    for row in rows:
        run, statistic, _, accepted, *_ = _cells(row)
        numbers = [row.figure.published, accepted, row.ours, row.median, row.least, row.most]
        values = " ".join(f"{value:.10g}" for value in row.values)
        end = [row.verdict, values, config["replay"]["source"], *facts.values()]
        lines.append([name, run, statistic, *numbers, *end])
    tables.write_csv(path, [*header, *facts], lines, as_is=("accepted", "values"))


def _cells(row: Comparison) -> list[str]:
    """Return all columns but the verdict, as they are read."""
    figure, value = row.figure, row.figure.value
    several = min(3, len(row.values)) if figure.seeds == "best_of_3" else len(row.known)
    bounds = (("+-", figure.within), ("at least", figure.at_least), ("at most", figure.at_most))
    median, least, most = (_spelt(each, value) for each in (row.median, row.least, row.most))
    return [
        (figure.run or "") + (f" - {figure.minus}" if figure.minus else ""),
        f"{value}, {PHRASES[figure.seeds].format(several)}",
        _spelt(figure.published, value),
        ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None),
        _spelt(row.ours, value),
        f"{median} ({least} to {most})" if row.known else "",
    ]


def _spelt(number: float | None, value: str) -> str:
    """Return a number as the sources spell it."""
    if number is None or math.isnan(number):
        return ""
    return f"{number:.2f}%" if in_percent(value) else f"{number:.4g}"

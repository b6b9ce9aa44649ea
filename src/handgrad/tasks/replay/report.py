"""The replay as a table on the terminal, as results.md and as results.csv."""

import csv
import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from handgrad.runs.folder import made_on
from handgrad.runs.tables import safe
from handgrad.tasks.replay.verdict import Row, is_share

COLUMNS = ("run", "figure", "published", "accepted", "ours", "median of seeds (all)", "verdict")
SPREAD = ("median", "least", "most")
COLOURS = {"PASS": "[bold green]PASS[/]", "FAIL": "[bold red]FAIL[/]", "": "[dim]none[/]"}
PHRASES = {"best_of_3": "best of {}", "mean": "mean of {}", "median": "median of {}"}


def table(title: str, rows: list[Row]) -> Table:
    """The rows as a table for the terminal."""
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    made.pad_edge, made.collapse_padding = False, True
    for column in COLUMNS:
        name, number = column.removesuffix(" of seeds (all)"), column in ("published", "ours")
        made.add_column(name, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        made.add_row(*map(escape, cells(row)), COLOURS[row.verdict])
    return made


def cells(row: Row) -> list[str]:
    """All columns but the verdict, as they are read."""
    value = row.figure.value
    median, least, most = (spelt(number, value) for number in spread(row))
    return [
        (row.figure.run or "") + (f" - {row.figure.minus}" if row.figure.minus else ""),
        f"{value}, {phrase(row)}",
        spelt(row.figure.published, value),
        accepted(row),
        spelt(row.ours, value),
        f"{median} ({least} to {most})" if row.known else "",
    ]


def spread(row: Row) -> tuple[float, float, float]:
    """The median, the least and the most over the seeds."""
    known = row.known or [math.nan]
    return row.median, min(known), max(known)


def phrase(row: Row) -> str:
    """The statistic over the seeds."""
    several = min(3, len(row.values)) if row.figure.seeds == "best_of_3" else len(row.known)
    return PHRASES[row.figure.seeds].format(several)


def accepted(row: Row) -> str:
    """What is close enough, as it is read; empty where there is no verdict."""
    figure = row.figure
    bounds = (("+-", figure.within), ("at least", figure.at_least), ("at most", figure.at_most))
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def spelt(number: float | None, value: str) -> str:
    """A number as the sources spell it."""
    if number is None or math.isnan(number):
        return ""
    return f"{number:.2f}%" if is_share(value) else f"{number:.4g}"


def markdown(name: str, config: dict[str, Any], overrides: list[str], rows: list[Row]) -> str:
    """The whole result as a page; what only this machine has, its folders, is left out."""
    replay = config["replay"]
    lines = [f"# {name}", "", f"Source: {replay['source']}", ""]
    lines += [f"What differs: {replay['differs']}", ""] if replay["differs"] else []
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join([*cells(row), row.verdict or 'none'])} |" for row in rows]
    given = [each for each in overrides if not each.startswith(("data.root=", "data.download="))]
    lines += [
        "",
        f"`python train.py {' '.join(given)}`",
        "",
        f"Made on {', '.join(made_on().values())}.",
        "",
    ]
    return "\n".join(lines)


def write_csv(name: str, config: dict[str, Any], rows: list[Row], path: Path) -> None:
    """One line for each figure, with the values of all seeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        head, facts = COLUMNS[:5], made_on()
        lines.writerow(["experiment", *head, *SPREAD, "verdict", "values", "source", *facts])
        for row in rows:
            run, statistic, _, bounds, *_ = cells(row)
            numbers = [row.figure.published, bounds, row.ours, *spread(row)]
            values = " ".join(f"{value:.10g}" for value in row.values)
            told = [values, safe(config["replay"]["source"]), *facts.values()]
            lines.writerow([safe(name), safe(run), statistic, *numbers, row.verdict, *told])

"""Runs side by side: one line a run, the best first, and the spread over their seeds."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from handgrad.runs.tables import safe, titled
from handgrad.tasks.sweep.job import Outcome

FIGURES = (
    *("accuracy/val", "cost/val", "accuracy/test", "cost/test", "accuracy/train", "cost/train"),
    *("run/updates", "run/fit_seconds"),
)
SHOWN = ("accuracy/val", "accuracy/test", "cost/test", "run/fit_seconds")  # on the terminal
MOST_ROWS = 40  # on the terminal; results.md and results.csv hold all


class Row(NamedTuple):
    """One run: its name, what was set for it alone, how it ended, and its final figures."""

    name: str
    settings: dict[str, str]
    outcome: Outcome
    figures: dict[str, float]


class Group(NamedTuple):
    """Runs that differ in their seeds alone."""

    settings: dict[str, str]
    rows: list[Row]  # that have the metric
    runs: int  # in all


def order_key(rows: Sequence[Row], wanted: str) -> str:
    """The figure by which runs are ordered: the wanted one, if any run has it."""
    known = {name for row in rows for name in row.figures}
    return next((name for name in (wanted, *FIGURES) if name in known), wanted)


def larger_is_better(metric: str) -> bool:
    """Whether a figure is to be large; all but accuracies are to be small."""
    return metric.startswith("accuracy/")


def value(row: Row, metric: str) -> float:
    """A run's figure; NaN where it has none, or did not end well."""
    counts = row.outcome.how in ("done", "pruned")
    return row.figures.get(metric, math.nan) if counts else math.nan


def ordered(rows: Iterable[Row], metric: str) -> list[Row]:
    """The best first; at the end what has no figure."""
    sign = -1 if larger_is_better(metric) else 1

    def rank(row: Row) -> tuple[bool, float]:
        figure = sign * value(row, metric)
        return (True, 0.0) if math.isnan(figure) else (False, figure)

    return sorted(rows, key=rank)


def over_seeds(rows: Sequence[Row], metric: str) -> list[Group]:
    """Runs that differ in their seeds alone, as groups, the best median first.

    Returns:
        Nothing, where the seed was not among what was set.
    """
    if len({row.settings.get("seed") for row in rows}) < 2:
        return []
    members: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        others = tuple(item for item in row.settings.items() if item[0] != "seed")
        members.setdefault(others, []).append(row)
    groups = [
        Group(dict(key), [row for row in each if not math.isnan(value(row, metric))], len(each))
        for key, each in members.items()
    ]
    sign = -1 if larger_is_better(metric) else 1
    return sorted(groups, key=lambda group: (not group.rows, sign * spread(group, metric)[0]))


def spread(group: Group, metric: str) -> tuple[float, float, float]:
    """The median, the least and the most over the seeds."""
    values = [value(row, metric) for row in group.rows] or [math.inf]
    return median(values), min(values), max(values)


def spelt(figure: float | None, name: str) -> str:
    """A figure as it is read: shares in percent."""
    if figure is None or not math.isfinite(figure):
        return "" if figure is None else "not finite"
    if name.startswith("accuracy/"):
        return f"{figure:.2%}"
    return f"{figure:.1f}" if name == "run/fit_seconds" else f"{figure:.4g}"


def columns(rows: Sequence[Row], metric: str) -> list[str]:
    """The figures that any run has, the one that orders them first."""
    known = {name for row in rows for name in row.figures}
    return [name for name in dict.fromkeys((metric, *FIGURES)) if name in known]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """A run's name, figures, and how it ended where that needs a word."""
    ended = f"{word(row)}: {row.outcome.why}" if row.outcome.why else word(row)
    return [row.name, *(spelt(row.figures.get(name), name) for name in names), ended]


def word(row: Row) -> str:
    """How a run ended, where that was not well."""
    return "" if row.outcome.how == "done" else row.outcome.how


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why runs did not end well, each reason once, with the first run that it holds for."""
    first = {row.outcome.why: row.name for row in reversed(rows) if row.outcome.why}
    return [f"{name}: {why}" for why, name in reversed(first.items())]


def group_cells(group: Group, metric: str) -> list[str]:
    """What was set, how many runs have the figure, its median and its spread."""
    told = ",".join(f"{key.rpartition('.')[2]}={text}" for key, text in group.settings.items())
    figures = [spelt(each, metric) for each in spread(group, metric)] if group.rows else [""] * 3
    return [told or "all", f"{len(group.rows)} of {group.runs}", *figures]


GROUP_COLUMNS = ("over seeds", "runs", "median", "least", "most")


def tables(rows: Sequence[Row], metric: str, title: str) -> list[Table]:
    """The runs, and what they are over seeds, for the terminal; why one failed is told below."""
    shown = [name for name in columns(rows, metric) if name in (metric, *SHOWN)]
    runs = table(
        ("run", *shown, "ended"),
        [[*cells(row, shown)[:-1], word(row)] for row in rows[:MOST_ROWS]],
        title,
    )
    if len(rows) > MOST_ROWS:
        runs.caption = f"and {len(rows) - MOST_ROWS} more"
    groups = over_seeds(rows, metric)
    if not groups:
        return [runs]
    told = [group_cells(group, metric) for group in groups[:MOST_ROWS]]
    return [runs, table(GROUP_COLUMNS, told, f"{metric} over seeds")]


def differences(rows: Sequence[Row]) -> Table:
    """What was set for each run alone, one line a key, for the terminal."""
    head = ("what differs", *(row.name for row in rows))
    return table(head, setting_lines(rows) or [["nothing", *[""] * len(rows)]], "")


def settings_page(rows: Sequence[Row]) -> list[str]:
    """The same, as Markdown."""
    return grid(("what differs", *(row.name for row in rows)), setting_lines(rows))


def setting_lines(rows: Sequence[Row]) -> list[list[str]]:
    """For each key its value in every run."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    return [[key, *(row.settings.get(key, "") for row in rows)] for key in keys]


def table(head: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> Table:
    """Text in columns; an empty column at the end is left out."""
    made = titled(title)
    needless = head[-1] == "ended" and not any(line[-1] for line in lines)
    width = len(head) - needless
    for number, name in enumerate(head[:width]):
        text = number == 0 or name == "ended"
        made.add_column(
            escape(name).replace("/", "/\n"),  # narrow, so that the whole table fits
            justify="left" if text else "right",
            no_wrap=name != "ended",
            overflow="fold",
        )
    for line in lines:
        made.add_row(*map(escape, line[:width]))
    return made


def markdown(rows: Sequence[Row], metric: str, title: str, notes: Sequence[str]) -> str:
    """The whole result as a page."""
    names = columns(rows, metric)
    lines = [f"# {title}", "", f"Ordered by {metric}, the best first.", ""]
    lines += grid(("run", *names, "ended"), [cells(row, names) for row in rows])
    if groups := over_seeds(rows, metric):
        lines += ["", f"## {metric} over seeds", ""]
        lines += grid(GROUP_COLUMNS, [group_cells(group, metric) for group in groups])
    return "\n".join([*lines, *(text for note in notes for text in ("", note)), ""])


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; a bar within a cell would end it."""
    body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def write_csv(rows: Sequence[Row], metric: str, path: Path) -> None:
    """One line a run: name, what was set for it, its figures, how it ended."""
    names = columns(rows, metric)
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["run", *map(safe, keys), *names, "ended", "overrides"])
        for row in rows:
            set_here = [safe(row.settings.get(key, "")) for key in keys]
            numbers = [row.figures.get(name, "") for name in names]
            overrides = " ".join(f"{key}={text}" for key, text in row.settings.items())
            told = [safe(row.outcome), safe(overrides)]
            lines.writerow([safe(row.name), *set_here, *numbers, *told])

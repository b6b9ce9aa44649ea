"""Results of a replay: a table on the terminal, results.md, results.csv and results.png."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from handgrad.config.schema import PublishedFigure
from handgrad.runs import tables
from handgrad.runs.folder import made_on
from handgrad.tasks.replay.runs import ALONE, TrainedRun
from handgrad.tasks.replay.verdict import Comparison, in_percent

COLUMNS = ("run", "figure", "published", "accepted", "ours", "median of seeds (all)", "verdict")
COLOURS = {"PASS": "[bold green]PASS[/]", "FAIL": "[bold red]FAIL[/]", "": "[dim]none[/]"}
PHRASES = {"best_of_3": "best of {}", "mean": "mean of {}", "median": "median of {}"}
SPREAD = ["median", "min", "max"]
PUBLISHED = {"color": "black", "marker": "x", "linestyle": "none", "markersize": 6, "zorder": 5}


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
    said = [f"# {name}", f"Source: {replay['source']}"]
    if replay["differs"]:
        said.append(f"What differs: {replay['differs']}")
    lines = [[*_cells(row), row.verdict or "none"] for row in rows]
    given = [each for each in overrides if not each.startswith(("data.root=", "data.download="))]
    said += [tables.markdown_table(COLUMNS, lines), f"`python train.py {' '.join(given)}`"]
    said.append(f"Made on {', '.join(made_on().values())}.")
    return "\n\n".join(said) + "\n"


def write_csv(name: str, config: dict[str, Any], rows: list[Comparison], path: Path) -> None:
    """Write one line for each figure, with the values of all seeds."""
    facts = made_on()
    header = ["experiment", *COLUMNS[:5], "median", "least", "most", "verdict", "values", "source"]
    lines: list[list[object]] = []
    for row in rows:
        run, statistic, _, accepted, *_ = _cells(row)
        numbers = [row.figure.published, accepted, row.ours, *row.known.agg(SPREAD)]
        values = " ".join(f"{value:.10g}" for value in row.values)
        end = [row.verdict, values, config["replay"]["source"], *facts.values()]
        lines.append([name, run, statistic, *numbers, *end])
    tables.write_csv(path, [*header, *facts], lines, as_is=("accepted", "values"))


def _cells(row: Comparison) -> list[str]:
    """Return all columns but the verdict, as they are read."""
    figure, value = row.figure, row.figure.value
    several = min(3, len(row.values)) if figure.seeds == "best_of_3" else len(row.known)
    bounds = (("+-", figure.within), ("at least", figure.at_least), ("at most", figure.at_most))
    median, least, most = (_spelt(each, value) for each in row.known.agg(SPREAD))
    return [
        (figure.run or "") + (f" - {figure.minus}" if figure.minus else ""),
        f"{value}, {PHRASES[figure.seeds].format(several)}",
        _spelt(figure.published, value),
        ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None),
        _spelt(row.ours, value),
        f"{median} ({least} to {most})" if len(row.known) else "",
    ]


def _spelt(number: float | None, value: str) -> str:
    """Return a number as the sources spell it."""
    if number is None or math.isnan(number):
        return ""
    return f"{number:.2f}%" if in_percent(value) else f"{number:.4g}"


def draw(
    name: str, replay: dict[str, Any], trained: list[TrainedRun], rows: list[Comparison]
) -> Figure:
    """Draw a panel of curves, if one is configured, and a panel of the figures in percent."""
    shares = [row for row in rows if in_percent(row.figure.value) and not row.figure.minus]
    panels = [panel for panel, wanted in (("curves", replay["curve"]), ("rows", shares)) if wanted]
    figure = Figure(figsize=(6.5 * max(1, len(panels)), 4.8), layout="constrained", dpi=110)
    for position, panel in enumerate(panels, start=1):
        axis = figure.add_subplot(1, len(panels), position)
        if panel == "curves":
            _draw_curves(axis, replay, trained)
        else:
            _draw_rows(axis, shares)
    figure.suptitle(f"{name}: published and ours")
    return figure


def _draw_curves(axis: Axes, replay: dict[str, Any], trained: list[TrainedRun]) -> None:
    """Draw the median, the range over the seeds and the published points of each run."""
    column = replay["curve"]
    percent = in_percent(column)
    for name in dict.fromkeys(run.name for run in trained):
        curves = [run.curve.set_index("epoch")[column] for run in trained if run.name == name]
        values = pd.concat(curves, axis=1) * (100 if percent else 1)  # (epochs, seeds)
        ours, published = ("ours", "published") if name == ALONE else (name, f"{name}, published")
        colour = axis.plot(values.median(axis=1), label=ours)[0].get_color()
        least, most = values.min(axis=1), values.max(axis=1)
        axis.fill_between(values.index, least, most, alpha=0.2, color=colour)
        points = published_points(replay, name, int(values.index.max()))
        if points:
            axis.plot(*zip(*points, strict=True), **{**PUBLISHED, "color": colour}, label=published)
    axis.set(xlabel="epoch", ylabel=f"{column} in percent" if percent else column)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)


def published_points(replay: dict[str, Any], name: str, last: int) -> list[list[float]]:
    """Return the published curve of a run, or else its published first and last values.

    Args:
        replay: the keys of replay.*.
        name: of the run.
        last: our last epoch.
    """
    recorded = [
        point
        for curve in replay["published_curves"]
        if (curve.get("run") or ALONE) == name
        for point in curve["points"]
    ]
    epochs = {f"first {replay['curve']}": 0, f"last {replay['curve']}": last}
    figures = [PublishedFigure.model_validate(node) for node in replay["figures"]]
    return recorded or [
        [epochs[each.value], each.published]
        for each in figures
        if (each.run or ALONE) == name and each.value in epochs and each.published is not None
    ]


def _draw_rows(axis: Axes, rows: list[Comparison]) -> None:
    """Draw each figure on a line of its own: the seeds, our statistic, the published value."""
    for place, row in enumerate(reversed(rows)):
        axis.plot(row.values, [place] * len(row.values), ".", color="#00798c", alpha=0.5)
        axis.plot(row.ours, place, "o", color="#d1495b", label=None if place else "ours")
        if row.figure.published is not None:
            label = None if place else "published"
            axis.plot(row.figure.published, place, label=label, **PUBLISHED)
    names = [f"{row.figure.run or ''} {row.figure.value}".strip() for row in reversed(rows)]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set(xlabel="percent (dots: all seeds)")
    axis.margins(y=0.15)
    axis.grid(axis="x", alpha=0.25)
    axis.legend(frameon=False, fontsize=8)

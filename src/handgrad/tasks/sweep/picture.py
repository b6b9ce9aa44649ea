"""One picture of many runs: who is best, and what each setting does to the metric."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from handgrad.tasks.sweep.results import Group, Row, larger_is_better, over_seeds, spread, value

# FOLDED from sweep/curves.py: 'The curves of several runs in one picture: costs on the left, accuracies on the right.'
Curves = dict[str, tuple[list[int], list[float]]]
STYLES = {"val": "-", "train": ":"}


def draw_curves(runs: dict[str, Curves]) -> Figure:
    """One colour a run; the validation as a line, the training dotted.

    Args:
        runs: by their names, the updates and values of each curve.
    """
    figure = Figure(figsize=(12, 5), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    colours = matplotlib.colormaps["tab10" if len(runs) <= 10 else "viridis"]
    for number, (name, curves) in enumerate(runs.items()):
        colour = colours(number if len(runs) <= 10 else number / (len(runs) - 1))
        draw_curves_of(left, "cost", name, curves, colour)
        draw_curves_of(right, "accuracy", name, curves, colour)
    left.set(xlabel="updates", ylabel="cost", yscale="log")
    right.set(xlabel="updates", ylabel="accuracy in percent")
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.set_title("line: validation; dotted: training", fontsize=9)
    if right.lines:
        right.legend(frameon=False, fontsize=8)
    return figure


def draw_curves_of(axis: Axes, kind: str, name: str, curves: Curves, colour: object) -> None:
    """One run's curves of one kind; the first that it has carries its name."""
    label: str | None = name
    for part, style in STYLES.items():
        if f"{kind}/{part}" in curves:
            updates, values = curves[f"{kind}/{part}"]
            scale = 100 if kind == "accuracy" else 1
            shown = [scale * value for value in values]
            axis.plot(updates, shown, style, color=colour, lw=1.4, label=label)  # pyright: ignore[reportArgumentType]
            label = None


MOST_LINES = 25  # of runs, the best ones; more could not be read
MOST_PANELS = 5  # of settings
DOT = {"marker": "o", "linestyle": "none", "color": "#00798c", "alpha": 0.55, "markersize": 5}
MEDIAN = {"color": "#d1495b", "marker": "D", "markersize": 5, "zorder": 4}


def draw(rows: Sequence[Row], metric: str, title: str) -> Figure:
    """The runs from best to worst, or their groups over seeds; then one panel for each setting.

    Args:
        rows: ordered, the best first.
        metric: what they are ordered by.
        title: above all.
    """
    shown = [row for row in rows if not math.isnan(value(row, metric))]
    keys = [key for key in varied(shown) if key != "seed"][:MOST_PANELS]
    groups = [group for group in over_seeds(rows, metric) if group.rows]
    groups = groups or [Group({"": row.name}, [row], 1) for row in shown]
    lines = min(len(groups), MOST_LINES)
    size = (6.4 + 3.6 * len(keys), max(3.6, 1.6 + 0.28 * lines))
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.subplots(1, 1 + len(keys), squeeze=False, width_ratios=[6, *[4] * len(keys)])[0]
    draw_order(axes[0], groups[:MOST_LINES], metric)
    for axis, key in zip(axes[1:], keys, strict=True):
        draw_setting(axis, shown, key, metric)
    left_out = len(groups) - lines
    figure.suptitle(title + (f" (the best {lines} of {len(groups)})" if left_out else ""))
    return figure


def varied(rows: Sequence[Row]) -> list[str]:
    """The settings that have more than one value."""
    keys = dict.fromkeys(key for row in rows for key in row.settings)
    return [key for key in keys if len({row.settings.get(key) for row in rows}) > 1]


def in_unit(figure: float, metric: str) -> float:
    """A figure as it is drawn: shares in percent."""
    return 100 * figure if metric.startswith("accuracy/") else figure


def label(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric} in percent" if metric.startswith("accuracy/") else metric


def draw_order(axis: Axes, groups: Sequence[Group], metric: str) -> None:
    """Each group on a line of its own, the best on top: its runs as dots, their median."""
    several = any(group.runs > 1 for group in groups)
    for place, group in enumerate(reversed(groups)):
        numbers = [in_unit(value(row, metric), metric) for row in group.rows]
        axis.plot(numbers, [place] * len(numbers), label=None if place else "a run", **DOT)
        if several:
            middle = in_unit(spread(group, metric)[0], metric)
            axis.plot(middle, place, ls="none", label=None if place else "median", **MEDIAN)
    axis.set_yticks(range(len(groups)), [told(group) for group in reversed(groups)], fontsize=8)
    axis.set(xlabel=label(metric))
    axis.margins(y=0.08)
    axis.grid(axis="x", alpha=0.25)
    if several:
        axis.legend(frameon=False, fontsize=8)


def told(group: Group) -> str:
    """What tells a group from the others."""
    parts = [f"{key.rpartition('.')[2]}={text}" for key, text in group.settings.items() if key]
    return ",".join(parts) or group.settings.get("", "all")


def draw_setting(axis: Axes, rows: Sequence[Row], key: str, metric: str) -> None:
    """All runs over one setting's values, and the median of each value."""
    texts = [row.settings.get(key, "") for row in rows]
    places, names = positions(texts)
    numbers = [in_unit(value(row, metric), metric) for row in rows]
    axis.plot(places, numbers, **DOT)
    if names:
        axis.set_xticks(range(len(names)), names, fontsize=8, rotation=30 if len(names) > 4 else 0)
    elif min(places) > 0 and max(places) > 20 * min(places):
        axis.set_xscale("log")
    by_place = {
        place: sorted(n for p, n in zip(places, numbers, strict=True) if p == place)
        for place in sorted(set(places))
    }
    if len(by_place) * 2 <= len(rows):
        middle = [
            (each[(len(each) - 1) // 2] + each[len(each) // 2]) / 2 for each in by_place.values()
        ]
        axis.plot(list(by_place), middle, ls="-" if not names else "none", lw=1, **MEDIAN)
    best = (max if larger_is_better(metric) else min)(numbers)
    axis.axhline(best, color="black", lw=0.6, ls=":", alpha=0.6)
    axis.set(xlabel=key, ylabel=label(metric))
    axis.grid(alpha=0.25)


def positions(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Where values stand on their axis, and the names of places where they are no numbers."""
    try:
        return [float(text) for text in texts], []
    except ValueError:
        names = list(dict.fromkeys(texts))
        return [float(names.index(text)) for text in texts], names

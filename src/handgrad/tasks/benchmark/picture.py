"""benchmark.png: a panel of bars for each shape, and how the time grows."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from handgrad.tasks.benchmark.measure import Measured
from handgrad.tasks.benchmark.report import TITLES

COLOURS = {"trainer": "#d1495b", "bare": "#edae49", "products": "#8d99ae"}
OTHERS = "#00798c"
COLUMNS = 2


def draw(measured: list[Measured]) -> Figure:
    """Draw the time of an update: a panel of bars for each shape, and one for the growth."""
    panels: dict[str, list[Measured]] = {}
    for each in measured:
        if each.values and each.median > 0 and each.part in ("update", "growth"):
            panels.setdefault(each.row if each.part == "update" else "growth", []).append(each)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = Figure(figsize=(13, 3.4 * rows), layout="constrained", dpi=110)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (title, found) in zip(axes, panels.items(), strict=False):
        axis.set_title(title)
        (_draw_growth if title == "growth" else _draw_bars)(axis, found)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle("Time of an update (whiskers: all repeats)")
    return figure


def _draw_bars(axis: Axes, measured: list[Measured]) -> None:
    """Draw one bar for each contender, the fastest at the bottom."""
    ordered = sorted(measured, key=lambda each: each.median)
    names = [TITLES[each.contender].strip("*") for each in ordered]
    medians = [each.median for each in ordered]
    below = [each.median - max(min(each.values), 0.0) for each in ordered]
    above = [max(each.values) - each.median for each in ordered]
    colours = [COLOURS.get(each.contender, OTHERS) for each in ordered]
    axis.barh(names, medians, xerr=[below, above], color=colours, ecolor="#555555", height=0.7)
    for place, median in enumerate(medians):
        axis.annotate(f" {median:,.0f}", (median, place), va="bottom", fontsize=8)
    axis.set_xlabel("microseconds an update")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(axis="x", alpha=0.25)


def _draw_growth(axis: Axes, measured: list[Measured]) -> None:
    """Draw the time of each contender over the shapes, in the order of measurement."""
    for name in dict.fromkeys(each.contender for each in measured):
        found = [each for each in measured if each.contender == name]
        rows, medians = [each.row for each in found], [each.median for each in found]
        title, colour = TITLES[name].strip("*"), COLOURS.get(name, OTHERS)
        axis.plot(rows, medians, "o", label=title, color=colour)
    axis.set(yscale="log", ylabel="microseconds an update")
    axis.tick_params(axis="x", rotation=30, labelsize=7)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)

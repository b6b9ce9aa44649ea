"""Pictures of many runs: who is best, what each setting does to the metric, and their curves."""

import math
import statistics
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from handgrad.tasks.sweep.results import Row, larger_is_better, over_seeds

Curves = dict[str, tuple[list[int], list[float]]]  # updates and values of each tag
STYLES = {"val": "-", "train": ":"}
MOST_LINES = 25  # of runs, the best ones; more could not be read
MOST_PANELS = 5  # of settings
DOT = {"marker": "o", "linestyle": "none", "color": "#00798c", "alpha": 0.55, "markersize": 5}
MEDIAN = {"color": "#d1495b", "marker": "D", "markersize": 5, "zorder": 4}


def draw(rows: Sequence[Row], metric: str, title: str) -> Figure:
    """Draw the runs or their groups over seeds from best to worst, then a panel for each setting.

    Args:
        rows: ordered, the best first.
        metric: what they are ordered by.
        title: above all.
    """
    shown = [row for row in rows if not math.isnan(row.value(metric))]
    settings = pd.DataFrame([row.settings for row in shown]).drop(columns="seed", errors="ignore")
    keys = [key for key in settings if settings[key].nunique(dropna=False) > 1][:MOST_PANELS]
    groups = over_seeds(rows, metric).query("known > 0")
    in_all = len(groups) or len(shown)
    lines = min(in_all, MOST_LINES)
    size = (6.4 + 3.6 * len(keys), max(3.6, 1.6 + 0.28 * lines))
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.subplots(1, 1 + len(keys), squeeze=False, width_ratios=[6, *[4] * len(keys)])[0]
    values: dict[str, list[float]] = {}  # of each line
    for row in shown:
        name = row.besides_seed if len(groups) else row.name
        values.setdefault(name, []).append(_in_unit(row.value(metric), metric))
    names = list(groups.index if len(groups) else values)[:lines]
    several = groups["runs"].head(lines).max() > 1
    _draw_lines(axes[0], {name: values[name] for name in names}, median=bool(several))
    axes[0].set(xlabel=_label(metric))
    for axis, key in zip(axes[1:], keys, strict=True):
        _draw_setting(axis, shown, key, metric)
    figure.suptitle(title + (f" (the best {lines} of {in_all})" if in_all > lines else ""))
    return figure


def _draw_lines(axis: Axes, values: dict[str, list[float]], *, median: bool) -> None:
    """Draw the runs of each name on a line of its own, the first on top, and any median."""
    lines = list(reversed(values.values()))
    for place, numbers in enumerate(lines):
        axis.plot(numbers, [place] * len(numbers), label=None if place else "a run", **DOT)
    if median:
        medians = [statistics.median(numbers) for numbers in lines]
        axis.plot(medians, range(len(medians)), ls="none", label="median", **MEDIAN)
        axis.legend(frameon=False, fontsize=8)
    axis.set_yticks(range(len(values)), list(reversed(values)), fontsize=8)
    axis.margins(y=0.08)
    axis.grid(axis="x", alpha=0.25)


def _draw_setting(axis: Axes, rows: Sequence[Row], key: str, metric: str) -> None:
    """Draw all runs over one setting's values, and the median of each value."""
    texts = [row.settings.get(key, "") for row in rows]
    numbers = [_in_unit(row.value(metric), metric) for row in rows]
    try:
        places, names = [float(text) for text in texts], []
    except ValueError:
        names = list(dict.fromkeys(texts))
        places = [float(names.index(text)) for text in texts]
    axis.plot(places, numbers, **DOT)
    if names:
        axis.set_xticks(range(len(names)), names, fontsize=8, rotation=30 if len(names) > 4 else 0)
    elif min(places) > 0 and max(places) > 20 * min(places):
        axis.set_xscale("log")
    medians = pd.Series(numbers).groupby(places).median()
    if len(medians) * 2 <= len(rows):
        axis.plot(medians.index, medians, ls="-" if not names else "none", lw=1, **MEDIAN)
    best = (max if larger_is_better(metric) else min)(numbers)
    axis.axhline(best, color="black", lw=0.6, ls=":", alpha=0.6)
    axis.set(xlabel=key, ylabel=_label(metric))
    axis.grid(alpha=0.25)


def _in_unit(figure: float, metric: str) -> float:
    """Return a figure as it is drawn, shares in percent."""
    return 100 * figure if metric.startswith("accuracy/") else figure


def _label(metric: str) -> str:
    """Return the metric with its unit."""
    return f"{metric} in percent" if metric.startswith("accuracy/") else metric


def draw_curves(runs: dict[str, Curves]) -> Figure:
    """Draw the costs of several runs on the left, their accuracies on the right.

    Each run has a color; the validation is a line, the training dotted.

    Args:
        runs: by their names, the updates and values of each curve.
    """
    figure = Figure(figsize=(12, 5), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    colors = matplotlib.colormaps["tab10" if len(runs) <= 10 else "viridis"]
    for number, (name, curves) in enumerate(runs.items()):
        color = colors(number if len(runs) <= 10 else number / (len(runs) - 1))
        _draw_run(left, "cost", name, curves, color)
        _draw_run(right, "accuracy", name, curves, color)
    left.set(xlabel="updates", ylabel="cost", yscale="log")
    right.set(xlabel="updates", ylabel="accuracy in percent")
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.set_title("line: validation; dotted: training", fontsize=9)
    if right.lines:
        right.legend(frameon=False, fontsize=8)
    return figure


def _draw_run(axis: Axes, kind: str, name: str, curves: Curves, color: object) -> None:
    """Draw one run's curves of one kind, of which the first carries its name."""
    label: str | None = name
    for split, style in STYLES.items():
        if f"{kind}/{split}" in curves:
            updates, values = curves[f"{kind}/{split}"]
            shown = [_in_unit(value, f"{kind}/{split}") for value in values]
            axis.plot(updates, shown, style, color=color, lw=1.4, label=label)  # pyright: ignore[reportArgumentType]
            label = None

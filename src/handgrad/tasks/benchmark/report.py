"""benchmark.md, .csv and .png: the measurements, and the machine they were made on."""

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from handgrad.devices.cpu import WORTH_SHARING
from handgrad.runs import tables
from handgrad.runs.folder import processor
from handgrad.tasks.benchmark.measure import IMPORT, TOLERANCE, Measured
from handgrad.tasks.benchmark.workload import PASSES

PACKAGES = ("torch", "lightning", "scikit-learn", "numpy", "jax")
TITLES = {
    "trainer": "**handgrad, as users run it**",
    "bare": "handgrad, bare loop",
    "autograd": "PyTorch autograd, bare loop",
    "compiled": "PyTorch autograd, torch.compile",
    "lightning": "Lightning, automatic optimization, DataLoader",
    "scikit_learn": "scikit-learn, MLPClassifier",
    "numpy": "NumPy, bare loop",
    "jax": "JAX, compiled scan",
    "products": "the five matrix products alone",
    "two_processes": "handgrad, as users run it, two processes",
}
OURS = "trainer"
PARTS = {
    "memory": "Peak memory of an update, beyond data and parameters",
    "checkpoint": "Writing a checkpoint",
    "growth": "Growth with m, n_h, n_x and N",
    "processes": "One process against two",
    "startup": "The command line",
}
COLOURS = {"trainer": "#d1495b", "bare": "#edae49", "products": "#8d99ae"}
OTHERS = "#00798c"
COLUMNS = 2  # of panels
REFERENCES = ("autograd", "scikit_learn", "jax", "products")
EXPLANATION = f"""\
An update is timed as the difference between a long run and one with a quarter of its updates,
divided by the difference in updates. Every contender has a process of its own. They take turns, and
every run starts from the same weights and sees the same batches. Cells show the median with the
smallest and the largest of the repeats; ratios are of medians. "Weights off" compares the weights
after the long run with those of autograd in float64: their distance, divided by the distance that
the weights moved, is {TOLERANCE:g} at most. handgrad as users run it is task=train with logger,
progress bar, checkpoints and live check, timed by its run/fit_seconds; the other loops do none of
this. It computes products of up to {WORTH_SHARING:,} multiplications on one thread, as does its
bare loop. Lightning runs without logger, progress bar and checkpoints. scikit-learn also computes
the cost of each batch. JAX gathers each batch within a compiled scan over the pass. Full-batch
descent makes {PASSES:,} passes in an epoch. The peak is the most memory that PyTorch's allocator
held at once in three updates on one batch."""


def markdown(measured: list[Measured]) -> str:
    """Return the whole result as a page."""
    machine = [f"| {name} | {value} |" for name, value in _machine().items()]
    said = ["# Benchmark", "\n".join(["| machine | |", "|---|---|", *machine]), EXPLANATION]
    updates = [each for each in measured if each.part == "update"]
    if ours := [each for each in updates if each.contender == OURS]:
        said += ["## At a glance", table(ours, measured)]
        said += ["![Time of an update of each contender](benchmark.png)"]
    for row in dict.fromkeys(each.row for each in updates):
        found = [each for each in updates if each.row == row]
        said += [f"## {row}: an update", table(found, measured)]
    for part, title in PARTS.items():
        if found := [each for each in measured if each.part == part]:
            said += [f"## {title}", table(found, measured)]
    return "\n\n".join(said) + "\n"


def _machine() -> dict[str, str]:
    """Return the machine and the versions that the figures were made with."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads of PyTorch": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        **versions,
    }


def table(some: list[Measured], measured: list[Measured]) -> str:
    """Return some measurements as a Markdown table, without its empty columns."""
    columns: dict[str, list[str]] = {
        "": [each.row for each in some],
        "contender": [TITLES.get(each.contender, each.contender) for each in some],
        "median (least to most)": [_spread(each) for each in some],
    }
    for name in (*REFERENCES, IMPORT):
        to = [each.ratio_to(name, measured) for each in some]
        columns[f"/ {name}"] = ["" if each is None else f"{each:.2f}" for each in to]
    errors = [each.weight_error for each in some]
    columns["weights off"] = ["" if error is None else f"{error:.0e}" for error in errors]
    columns["updates"] = [str(each.updates or "") for each in some]
    columns["note"] = [each.note for each in some]
    if len(set(columns[""])) == 1:
        del columns[""]
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    right = [name for name in kept if name not in ("", "contender", "note")]
    return tables.markdown_table([*kept], zip(*kept.values(), strict=True), right)


def _spread(each: Measured) -> str:
    """Return the median with its unit, and the least and the most if there are several values."""
    if not each.values:
        return ""
    text = f"{each.median:.3g}" if each.median < 1000 else f"{each.median:,.0f}"
    if len(each.values) > 1:
        text += f" ({min(each.values):.3g} to {max(each.values):.3g})"
    return f"{text} {each.unit}"


def write_csv(measured: list[Measured], path: Path) -> None:
    """Write one line for each measurement."""
    header = ["part", "row", "contender", "unit", "median", "min", "max", "repeats"]
    header += [*(f"to_{name}" for name in REFERENCES), "updates", "weight_error", "note"]
    rows: list[list[object]] = []
    for each in measured:
        values = each.values
        numbers = [each.median, min(values), max(values)] if values else [None] * 3
        ratios = [each.ratio_to(name, measured) for name in REFERENCES]
        row = [each.part, each.row, each.contender, each.unit, *numbers, len(values), *ratios]
        rows.append([*row, each.updates, each.weight_error, each.note])
    tables.write_csv(path, header, rows)


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

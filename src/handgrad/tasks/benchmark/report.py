"""The measurements as Markdown, CSV and a figure, with the machine they were made on."""

import csv
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from handgrad.devices.cpu import WORTH_SHARING
from handgrad.runs.folder import processor
from handgrad.tasks.benchmark import startup
from handgrad.tasks.benchmark.measure import TOLERANCE, Measured
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
REFERENCES = ("autograd", "scikit_learn", "jax", "products")
EXPLANATION = f"""\
An update is timed as the difference between a long run and one of a quarter of its updates, over
the difference in updates. Every contender has a process of its own; they take turns, and every run
starts from the same weights and sees the same batches. Cells are the median with the smallest and
the largest of the repeats; ratios are of medians. "Weights off" compares the weights after the long
run with autograd's in float64: the distance over the way they went, {TOLERANCE:g} at most.
handgrad as users run it is task=train with logger, progress bar, checkpoints and live check, timed
by its run/fit_seconds; the other loops do none of this. It makes products of up to
{WORTH_SHARING:,} multiplications on one thread, as does its bare loop. Lightning runs without
logger, progress bar and checkpoints. scikit-learn computes each batch's cost too. JAX gathers each
batch within a compiled scan over the pass. Full-batch descent has {PASSES:,} passes in an epoch.
The peak is what PyTorch's allocator held at once in three updates on one batch."""


def machine() -> dict[str, str]:
    """What the figures were made on."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads of PyTorch": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
    }


def installed(name: str) -> str:
    """A package's version."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write_csv(measured: list[Measured], path: Path) -> None:
    """One line for each measurement."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        ratios = [f"to_{name}" for name in REFERENCES]
        spread = ["median", "min", "max", "repeats"]
        rows.writerow(
            [
                "part",
                "row",
                "contender",
                "unit",
                *spread,
                *ratios,
                "updates",
                "weight_error",
                "note",
            ]
        )
        for each in measured:
            values = each.values
            numbers = [each.median, min(values), max(values)] if values else [""] * 3
            to = [ratio(each, name, measured) for name in REFERENCES]
            rows.writerow(
                [each.part, each.row, each.contender, each.unit, *numbers, len(values)]
                + ["" if each is None else each for each in (*to, each.updates, each.weight_error)]
                + [each.note]
            )


def ratio(one: Measured, reference: str, measured: list[Measured]) -> float | None:
    """The medians' ratio to the reference in the same part and row; None where there is none."""
    for other in measured:
        same = (other.part, other.row, other.contender) == (one.part, one.row, reference)
        if same and one.values and other.median > 0:
            return one.median / other.median
    return None


def markdown(measured: list[Measured]) -> str:
    """The whole result as a page."""
    lines = ["# Benchmark", "", "| machine | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine().items()]
    lines += ["", EXPLANATION, ""]
    updates = [each for each in measured if each.part == "update"]
    ours = [each for each in updates if each.contender == OURS]
    if ours:
        lines += ["## At a glance", "", *table(ours, measured), ""]
        lines += ["![Time of an update of each contender](benchmark.png)", ""]
    for row in dict.fromkeys(each.row for each in updates):
        lines += [f"## {row}: an update", ""]
        lines += [*table([each for each in updates if each.row == row], measured), ""]
    for part, title in PARTS.items():
        found = [each for each in measured if each.part == part]
        if found:
            lines += [f"## {title}", "", *table(found, measured), ""]
    return "\n".join(lines)


def table(some: list[Measured], measured: list[Measured]) -> list[str]:
    """Some measurements as a Markdown table; columns without an entry are left out."""
    columns: dict[str, list[str]] = {
        "": [each.row for each in some],
        "contender": [TITLES.get(each.contender, each.contender) for each in some],
        "median (least to most)": [spread(each) for each in some],
    }
    for name in (*REFERENCES, startup.IMPORT):
        to = [ratio(each, name, measured) for each in some]
        columns[f"/ {name}"] = ["" if each is None else f"{each:.2f}" for each in to]
    errors = [each.weight_error for each in some]
    columns["weights off"] = ["" if error is None else f"{error:.0e}" for error in errors]
    columns["updates"] = [str(each.updates or "") for each in some]
    columns["note"] = [each.note.replace("|", "/") for each in some]
    if len(set(columns[""])) == 1:
        del columns[""]
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [kept, ["---" if n in ("", "contender", "note") else "---:" for n in kept]]
    return [f"| {' | '.join(line)} |" for line in (*lines, *zip(*kept.values(), strict=True))]


def spread(each: Measured) -> str:
    """The median with its unit, and the spread where there is one."""
    if not each.values:
        return ""
    text = f"{each.median:.3g}" if each.median < 1000 else f"{each.median:,.0f}"
    if len(each.values) > 1:
        text += f" ({min(each.values):.3g} to {max(each.values):.3g})"
    return f"{text} {each.unit}"

"""Train with every planted mistake and write the table of lessons.md.

    python tests/tools/lessons.py

Each run is one of train.py on the digits, with the defaults and the overrides of `COMMON`.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from handgrad.rules.planted import MISTAKES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".github" / "docs" / "lessons.md"
BEGIN, END = "<!-- python tests/tools/lessons.py -->\n", "<!-- end -->"
SEEDS = (0, 1, 2)
QUADRATIC = ("cross_entropy_delta",)  # no mistake under cross-entropy
COMMON = (
    "check.on_failure=warn",
    "check.audit_every_n_updates=500",
    "trainer.enable_progress_bar=false",
)
CURVES = ("cost/train", "accuracy/train", "cost/val", "accuracy/val")
COST_FACTOR, ACCURACY_POINTS = 1.5, 0.02  # how far from every right run a chart stands out


class LessonRun(NamedTuple):
    """Holds the results of one run, with infinity in place of NaN."""

    accuracy: float  # of the best checkpoint on the test split
    curves: dict[str, float]  # where each ends: the mean of its last tenth
    checks: dict[str, float]  # the highest point of each


def sweep(folder: Path, *overrides: str) -> list[Path]:
    """Run `python train.py -m`, and return the folders of its runs in the order of its jobs."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *COMMON, *overrides]
    done = subprocess.run(
        [*command, f"hydra.sweep.dir={folder}"],
        cwd=folder.parent,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")
    jobs = (path for path in folder.iterdir() if path.is_dir())
    return sorted(jobs, key=lambda job: int(job.name))


def metrics(job: Path) -> dict[str, Any]:
    """Return the final figures of a run."""
    return json.loads((job / "metrics.json").read_text())


def read(job: Path) -> LessonRun:
    """Return the figures and curves of a training."""
    events = EventAccumulator(str(job), size_guidance={"scalars": 0}).Reload()
    points = {
        tag: [math.inf if math.isnan(point.value) else point.value for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    tails = {tag: points[tag][-max(1, len(points[tag]) // 10) :] for tag in CURVES}
    return LessonRun(
        metrics(job)["accuracy/test"],
        {tag: sum(tail) / len(tail) for tag, tail in tails.items()},
        {tag: max(values) for tag, values in points.items() if tag.startswith("check/")},
    )


def stands_out(tag: str, runs: list[LessonRun], right: list[LessonRun]) -> bool:
    """Return whether the curve of every run ends clearly outside those of all right runs."""
    ends = [run.curves[tag] for run in right]
    low, high = min(ends), max(ends)
    if tag.startswith("cost/"):
        low, high = low / COST_FACTOR, high * COST_FACTOR
    else:
        low, high = low - ACCURACY_POINTS, high + ACCURACY_POINTS
    return not any(low <= run.curves[tag] <= high for run in runs)


def learns(runs: list[LessonRun], right: list[LessonRun]) -> str:
    """Compare the test accuracy with that of the right run with the same seed."""
    if any(math.isinf(run.curves["cost/train"]) for run in runs):
        return "diverges"
    if median(run.accuracy for run in runs) < 0.5:
        return "no"
    lost = median(good.accuracy - run.accuracy for run, good in zip(runs, right, strict=True))
    return "yes" if lost < 0.01 else "less"


def figures(runs: list[LessonRun]) -> str:
    """Return test accuracy and final cost: medians over the seeds, and the range of accuracies."""
    accuracies = [run.accuracy for run in runs]
    lowest, middle, highest = min(accuracies), median(accuracies), max(accuracies)
    cost = median(run.curves["cost/train"] for run in runs)
    shown = f"{cost:.2g}" if cost < 1000 else "NaN" if math.isinf(cost) else f"{cost:,.0f}"
    return f"{middle:.1%} ({100 * lowest:.1f} to {100 * highest:.1f}) | {shown}"


def row(name: str, wrong: list[str], runs: list[LessonRun], right: list[LessonRun]) -> str:
    """Return one line of the table."""
    lines = "<br>".join(f"`{left} = {wrong}`" for left, wrong in MISTAKES[name].items())
    curves = [tag for tag in CURVES if stands_out(tag, runs, right)]
    checks = [tag for tag in runs[0].checks if all(run.checks[tag] > 0 for run in runs)]
    shown = [" ".join(f"`{tag}`" for tag in tags) or "none" for tags in (curves, checks)]
    cells = (f"`{name}`", lines, ", ".join(wrong), learns(runs, right), figures(runs), *shown)
    return f"| {' | '.join(cells)} |"


def table(cost: str, names: list[str]) -> list[str]:
    """Return the lines of the table for the mistakes under one cost, the right equations first."""
    common = (f"cost={cost}", f"seed={','.join(map(str, SEEDS))}")
    mistakes = ("backward=mistake", f"backward.mistake={','.join(names)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checked = sweep(folder / "check", "task=check", f"cost={cost}", *mistakes)
        named = [metrics(job)["check/wrong"] for job in checked]
        right = [read(job) for job in sweep(folder / "right", *common)]
        wrong = [read(job) for job in sweep(folder / "wrong", *mistakes, *common)]
    first = f"| none, `cost={cost}` | the equations | | yes | {figures(right)} | | none |"
    by_name = [wrong[i : i + len(SEEDS)] for i in range(0, len(wrong), len(SEEDS))]
    return [first, *(row(*each, right) for each in zip(names, named, by_name, strict=True))]


def main() -> None:
    """Measure, and replace the table between the two marks of the page."""
    names = [name for name in MISTAKES if name not in QUADRATIC]
    lines = [
        "| mistake | the wrong line | named | learns | test accuracy | `cost/train` |"
        " curves that stand out | checks above 0 |",
        "|---|---|---|---|---|---|---|---|",
        *table("cross_entropy", names),
        *table("quadratic", list(QUADRATIC)),
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n\n{END}{after}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()

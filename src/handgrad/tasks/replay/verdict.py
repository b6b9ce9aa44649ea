"""The source's statistic over the seeds, beside the published figure: PASS or FAIL."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from handgrad.config.schema import PublishedFigure
from handgrad.tasks.replay.runs import ALONE, Trained

# FOLDED from replay/values.py: 'What one run gives: a value of its learning curve, or of its last weights.'
CLOSE = 0.1  # how far weights may be from a pattern, relative to their size
RATIOS = (1.0, 2.0, 4.0)  # of the published weights for symmetry


def value_of(value: str, curve: pd.DataFrame, folder: Path, solved_within: float) -> float:
    """A run's value, in the unit in which it is published.

    Args:
        value: "best", "first" or "last" and a column of the curve; "solved" (100 or 0);
            "sweeps" (updates until solved); "antisymmetric" or "weights 1:2:4" (100 or 0).
        curve: one row for each epoch.
        folder: of the run.
        solved_within: how close every output must be to its target.

    Returns:
        The value, percent where it is a share; NaN where an unsolved run has none.
    """
    if " " in value and "/" in value:
        epoch, column = value.split()
        return pick(epoch, column, curve) * scale_of(value)
    solved = curve.index[curve["deviation/train"] <= solved_within].tolist()
    if value == "solved":
        return 100.0 * bool(solved)
    if not solved:
        return math.nan
    if value == "sweeps":
        return float(curve["updates"].tolist()[solved[0]])
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    pattern = {"antisymmetric": antisymmetric, "weights 1:2:4": in_ratio}[value]
    return 100.0 * pattern(weights["W1"])


def pick(epoch: str, column: str, curve: pd.DataFrame) -> float:
    """The best, first or last value of a column; best is the highest accuracy or the least cost."""
    values = curve[column]
    if epoch == "best":
        return float(values.max() if column.startswith("accuracy/") else values.min())
    return float(values.iloc[0 if epoch == "first" else -1])


def scale_of(value: str) -> float:
    """What a value is multiplied by to be in its published unit: accuracies are in percent."""
    return 100.0 if "accuracy/" in value else 1.0


def is_share(value: str) -> bool:
    """Whether a value is in percent."""
    return "accuracy/" in value or value in ("solved", "antisymmetric", "weights 1:2:4")


def antisymmetric(weights: Tensor) -> bool:
    """Whether weights of mirrored inputs are opposite, for every hidden unit.

    Args:
        weights: of the hidden layer, (hidden, inputs).
    """
    left, right = halves(weights)
    size = (left.abs() + right.abs()) / 2  # (hidden, inputs / 2)
    return bool(((left + right).abs() <= CLOSE * size).all())


def in_ratio(weights: Tensor) -> bool:
    """Whether each hidden unit's weights are as 1:2:4 in size, in any order.

    Rumelhart, Hinton, Williams, Nature 323 (1986), figure 1: with such weights, no two halves of a
    pattern cancel unless they mirror each other.

    Args:
        weights: of the hidden layer, (hidden, 6).
    """
    left, right = halves(weights)
    sizes = ((left - right).abs() / 2).sort(dim=1).values  # (hidden, 3)
    if sizes.shape[1] != len(RATIOS):
        return False
    wanted = sizes[:, :1] * sizes.new_tensor(RATIOS)
    return bool(((sizes - wanted).abs() <= CLOSE * wanted).all())


def halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the left inputs, and those of their mirror images."""
    pairs = weights.shape[1] // 2
    return weights[:, :pairs], weights.flip(1)[:, :pairs]


FIRST = 3  # runs of which the source reports the best


class Row(NamedTuple):
    """One published figure and ours."""

    figure: PublishedFigure
    values: list[float]  # of each seed; NaN where an unsolved one has none

    @property
    def known(self) -> list[float]:
        """The values of the seeds that have one."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def ours(self) -> float:
        """The source's statistic over our seeds; NaN where none has a value."""
        return STATISTICS[self.figure.seeds](self) if self.known else math.nan

    @property
    def median(self) -> float:
        """The median over all seeds that have a value."""
        return statistics.median(self.known) if self.known else math.nan

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or nothing where the figure is shown without a verdict."""
        figure, ours = self.figure, self.ours
        held = []
        if figure.within is not None and figure.published is not None:
            held.append(abs(ours - figure.published) <= figure.within)
        if figure.at_least is not None:
            held.append(ours >= figure.at_least)
        if figure.at_most is not None:
            held.append(ours <= figure.at_most)
        return "" if not held else "PASS" if all(held) else "FAIL"


def best(row: Row) -> float:
    """The best of the first three runs: the highest accuracy, or the least of anything else."""
    first = [value for value in row.values[:FIRST] if not math.isnan(value)]
    return (max if is_share(row.figure.value) else min)(first, default=math.nan)


STATISTICS: dict[str, Callable[[Row], float]] = {
    "best_of_3": best,
    "mean": lambda row: statistics.fmean(row.known),
    "median": lambda row: row.median,
}


def rows(figures: list[PublishedFigure], trained: list[Trained], solved_within: float) -> list[Row]:
    """The rows of the table, one for each figure."""

    def values(name: str | None, value: str) -> list[float]:
        return [
            value_of(value, run.curve, run.folder, solved_within)
            for run in trained
            if run.name == (name or ALONE)
        ]

    made = []
    for figure in figures:
        found = values(figure.run, figure.value)
        if figure.minus is not None:
            other = values(figure.minus, figure.value)
            found = [one - two for one, two in zip(found, other, strict=True)]
        made.append(Row(figure, found))
    return made

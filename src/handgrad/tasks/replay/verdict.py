"""Verdicts: the value of each run, and the statistic over the seeds beside the published figure.

A value comes from the learning curve of a run, or from its last weights.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from handgrad.config.schema import PublishedFigure
from handgrad.tasks.replay.runs import ALONE, TrainedRun

FIRST = 3  # runs of which the source reports the best
CLOSE = 0.1  # tolerance of weights around a pattern, relative to their size
RATIOS = (1.0, 2.0, 4.0)  # of the published weights for symmetry


class Comparison(NamedTuple):
    """Holds one published figure beside ours."""

    figure: PublishedFigure
    values: list[float]  # of each seed; NaN where an unsolved one has none

    @classmethod
    def of(
        cls, figure: PublishedFigure, trained: list[TrainedRun], solved_within: float
    ) -> "Comparison":
        """Compare a figure, which may be a difference of two runs, with the runs of all seeds."""

        def values(name: str | None) -> list[float]:
            runs = [run for run in trained if run.name == (name or ALONE)]
            return [value_of(figure.value, run.curve, run.folder, solved_within) for run in runs]

        found = values(figure.run)
        if figure.minus is not None:
            other = values(figure.minus)
            found = [one - two for one, two in zip(found, other, strict=True)]
        return cls(figure, found)

    @property
    def known(self) -> pd.Series:
        """Return the values of the seeds that have one."""
        return pd.Series(self.values, dtype=float).dropna()

    @property
    def ours(self) -> float:
        """Return the source's statistic over our seeds, or NaN if none has a value."""
        if self.figure.seeds == "mean":
            return statistics.fmean(self.known) if len(self.known) else math.nan
        if self.figure.seeds == "median":
            return self.known.median()
        first = pd.Series(self.values[:FIRST], dtype=float)
        return first.max() if in_percent(self.figure.value) else first.min()

    @property
    def verdict(self) -> str:
        """Return PASS or FAIL, or nothing if the figure is shown without a verdict."""
        figure, ours = self.figure, self.ours
        held = []
        if figure.within is not None and figure.published is not None:
            held.append(abs(ours - figure.published) <= figure.within)
        if figure.at_least is not None:
            held.append(ours >= figure.at_least)
        if figure.at_most is not None:
            held.append(ours <= figure.at_most)
        return "" if not held else "PASS" if all(held) else "FAIL"


def value_of(value: str, curve: pd.DataFrame, folder: Path, solved_within: float) -> float:
    """Return the value of a run, in the unit in which it is published.

    Args:
        value: "best", "first" or "last" and a column of the curve; "solved" (100 or 0);
            "sweeps" (updates until solved); "antisymmetric" or "weights 1:2:4" (100 or 0). The
            best is the highest accuracy, or the least of anything else.
        curve: one row for each epoch.
        folder: of the run.
        solved_within: how close every output must be to its target.

    Returns:
        The value, accuracies and shares in percent; NaN if an unsolved run has none.
    """
    if " " in value and "/" in value:
        epoch, column = value.split()
        values = curve[column] * (100 if in_percent(column) else 1)
        if epoch == "best":
            return float(values.max() if column.startswith("accuracy/") else values.min())
        return float(values.iloc[0 if epoch == "first" else -1])
    solved = curve.index[curve["deviation/train"] <= solved_within].tolist()
    if value == "solved":
        return 100.0 * bool(solved)
    if not solved:
        return math.nan
    if value == "sweeps":
        return float(curve["updates"].tolist()[solved[0]])
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return 100.0 * PATTERNS[value](weights["W1"])


def in_percent(value: str) -> bool:
    """Return whether a value, or a column of the curve, is published in percent."""
    return "accuracy/" in value or value == "solved" or value in PATTERNS


def _is_antisymmetric(weights: Tensor) -> bool:
    """Return whether weights of mirrored inputs are opposite, for every hidden unit.

    Args:
        weights: of the hidden layer, (hidden, inputs).
    """
    left, right = _halves(weights)
    size = (left.abs() + right.abs()) / 2  # (hidden, inputs / 2)
    return bool(((left + right).abs() <= CLOSE * size).all())


def _is_in_ratio(weights: Tensor) -> bool:
    """Return whether the weights of each hidden unit are as 1:2:4 in size, in any order.

    Rumelhart, Hinton, Williams, Nature 323 (1986), figure 1: with such weights, no two halves of a
    pattern cancel unless they mirror each other.

    Args:
        weights: of the hidden layer, (hidden, 6).
    """
    left, right = _halves(weights)
    sizes = ((left - right).abs() / 2).sort(dim=1).values  # (hidden, 3)
    if sizes.shape[1] != len(RATIOS):
        return False
    wanted = sizes[:, :1] * sizes.new_tensor(RATIOS)
    return bool(((sizes - wanted).abs() <= CLOSE * wanted).all())


def _halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the left inputs, and those of their mirror images."""
    pairs = weights.shape[1] // 2
    return weights[:, :pairs], weights.flip(1)[:, :pairs]


PATTERNS: dict[str, Callable[[Tensor], bool]] = {
    "antisymmetric": _is_antisymmetric,
    "weights 1:2:4": _is_in_ratio,
}

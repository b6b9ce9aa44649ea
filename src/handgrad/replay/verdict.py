"""The source's statistic over the seeds, beside the published figure: PASS or FAIL."""

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

from handgrad.replay.runs import ALONE, Trained
from handgrad.replay.values import is_share, value_of
from handgrad.task_schema import PublishedFigure

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

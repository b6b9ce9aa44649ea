"""Results of runs side by side: the best first, and the spread over their seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from handgrad.runs import loading
from handgrad.tasks.sweep.job import Outcome


class Row(NamedTuple):
    """Holds one run: its name, what was set for it alone, how it ended, and its final figures."""

    name: str
    settings: dict[str, str]
    outcome: Outcome
    figures: dict[str, float]

    @classmethod
    def of(cls, folder: Path, name: str, settings: dict[str, str]) -> "Row":
        """Read what the run in a folder left."""
        return cls(name, settings, Outcome.of(folder), figures(folder))

    def value(self, metric: str) -> float:
        """Return a figure, or NaN where the run has none or did not end well."""
        counts = self.outcome.how in ("done", "pruned")
        return self.figures.get(metric, math.nan) if counts else math.nan

    @property
    def besides_seed(self) -> str:
        """Settings without the seed, in short."""
        told = [f"{k.rpartition('.')[2]}={v}" for k, v in self.settings.items() if k != "seed"]
        return ",".join(told) or "all"


def figures(folder: Path) -> dict[str, float]:
    """Read the final figures of a run that are numbers."""
    final = loading.figures(folder)
    return {name: figure for name, figure in final.items() if isinstance(figure, int | float)}


def larger_is_better(metric: str) -> bool:
    """Return whether a figure is to be large, as accuracies alone are."""
    return metric.startswith("accuracy/")


def ordered(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the rows with the best first, and those without the figure last."""
    values = pd.Series([row.value(metric) for row in rows], dtype=float)
    best_first = values.sort_values(ascending=not larger_is_better(metric), kind="stable")
    return [rows[place] for place in best_first.index]


def over_seeds(rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Gather the runs that differ in their seeds alone, the best median first.

    Returns:
        By the other settings: how many runs there are, how many of them have the metric, and its
        median, least and most. No line where the seed was not among what was set.
    """
    several = len({row.settings.get("seed") for row in rows}) > 1
    table = pd.DataFrame(
        {
            "settings": [row.besides_seed for row in rows if several],
            "value": pd.Series([row.value(metric) for row in rows if several], dtype=float),
        }
    )
    groups = pd.DataFrame(
        table.groupby("settings", sort=False)["value"].agg(
            runs="size", known="count", median="median", least="min", most="max"
        )
    )
    return groups.sort_values("median", ascending=not larger_is_better(metric), kind="stable")


def spelt(figure: float | None, name: str) -> str:
    """Return a figure as text, shares in percent."""
    if figure is None or not math.isfinite(figure):
        return "" if figure is None else "not finite"
    if name.startswith("accuracy/"):
        return f"{figure:.2%}"
    return f"{figure:.1f}" if name == "run/fit_seconds" else f"{figure:.4g}"

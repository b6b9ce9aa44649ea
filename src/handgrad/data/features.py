"""What a feature must be: a finite number. Also worth a warning: constant, or huge."""

import warnings
from collections.abc import Callable

import numpy as np

from handgrad.data.examples import listed

HUGE = 1e9  # a sigmoid unit that sees it unscaled is saturated and learns nothing
VALUES_AT_ONCE = 4_000_000  # of a memory-mapped array: 32 MB in float64


def row_pieces(shape: tuple[int, ...]) -> list[slice]:
    """Slices of rows of a 2-D array, at most VALUES_AT_ONCE values each (one row at least)."""
    step = max(1, VALUES_AT_ONCE // max(1, shape[1]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def check_features(
    features: np.ndarray,
    names: tuple[str, ...],
    title: str,
    place: Callable[[int], str],
    warn: bool = True,
) -> None:
    """Refuses NaN and infinite values; warns of constant and huge features.

    Args:
        features: (N, n_x), real; read in pieces where memory-mapped.
        names: of the features, (n_x,).
        title: the file's name, for the messages.
        place: how a row's index is called in the file.
        warn: whether to warn; a small file to predict on has constant features as a rule.

    Raises:
        ValueError: with the first place and the count of values that are not finite.
    """
    lowest = np.full(len(names), np.inf)
    highest = np.full(len(names), -np.inf)
    first, count = None, 0
    for rows in row_pieces(features.shape):
        values = np.asarray(features[rows])
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            first = first or (rows.start + int(row), int(column), values[row, column])
            count += int(bad.sum())
        lowest = np.minimum(lowest, values.min(axis=0))
        highest = np.maximum(highest, values.max(axis=0))
    if first is not None:
        row, column, value = first
        what = "is missing" if np.isnan(value) else f"is {value}"
        raise ValueError(
            f"{title}, {place(row)}: feature '{names[column]}' {what} (empty, NaN or infinite "
            f"cells in all: {count}); fill them or leave these rows out"
        )
    if warn:
        _warn(lowest, highest, names, title)


def _warn(lowest: np.ndarray, highest: np.ndarray, names: tuple[str, ...], title: str) -> None:
    constant = [name for name, same in zip(names, lowest == highest, strict=True) if same]
    sizes = np.maximum(np.abs(lowest), np.abs(highest))
    huge = [name for name, size in zip(names, sizes, strict=True) if size > HUGE]
    if constant:
        warnings.warn(
            f"{title}: the same value in every row, so nothing to learn from: {listed(constant)}",
            UserWarning,
            stacklevel=4,
        )
    if huge:
        warnings.warn(
            f"{title}: values up to {sizes.max():.3g} in {listed(huge)}; "
            "train with data.scale=standard or minmax",
            UserWarning,
            stacklevel=4,
        )

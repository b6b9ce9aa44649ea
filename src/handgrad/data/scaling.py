"""Scaling of features: (value - offset) / divisor, with statistics of the training split alone."""

import math
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from handgrad.data.on_disk import Features, row_slices


def _division(scale: str) -> float:
    """Return the number after the slash, or 1 for none.

    Raises:
        ValueError: unless it is none or a division such as /255.
    """
    if scale == "none":
        return 1.0
    with suppress(ValueError):
        if isinstance(scale, str) and scale[:1] == "/" and 0 < float(scale[1:]) < math.inf:
            return float(scale[1:])
    raise ValueError(f"data.scale={scale}: must be auto, none, standard, minmax or /NUMBER")


class Scaling:
    """(value - offset) / divisor, one pair for each feature or one for all.

    Args:
        scale: the value of data.scale it stands for.
        offset: (n_x,), or (1,) where all features share it.
        divisor: likewise; 1 for a feature that is constant in the training split.
    """

    def __init__(self, scale: str, offset: np.ndarray, divisor: np.ndarray) -> None:
        """Keep the three, the last two in float64."""
        self.scale = scale
        self.offset = np.asarray(offset, dtype=np.float64)
        self.divisor = np.asarray(divisor, dtype=np.float64)

    @classmethod
    def fit(cls, scale: str, features: Features, indices: np.ndarray | None = None) -> "Scaling":
        """Return the scaling of the examples at `indices`, read in slices where in a file.

        Args:
            scale: none, standard (mean 0, deviation 1), minmax (0 to 1) or a division as /255.
            features: unscaled, (N, n_x).
            indices: the training split; None: all.

        Raises:
            ValueError: if the scale is unknown, there is no example, or a statistic overflows.
        """
        if scale not in ("standard", "minmax"):
            return cls(scale, np.zeros(1), np.array([_division(scale)]))
        indices = np.arange(len(features)) if indices is None else indices
        if not len(indices):
            raise ValueError(f"data.scale={scale}: there is no example to take the statistics from")
        return cls(scale, *_statistics(features, scale, indices))

    def state(self) -> dict[str, Any]:
        """Return plain containers that hold it exactly, for a checkpoint."""
        return {
            "scale": self.scale,
            "offset": self.offset.tolist(),
            "divisor": self.divisor.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Scaling":
        """Return the scaling that `state()` describes, to the bit."""
        return cls(state["scale"], state["offset"], state["divisor"])

    def check(self, features: Features) -> None:
        """Refuse features that float32 cannot hold once they are scaled.

        Args:
            features: unscaled, (N, n_x).

        Raises:
            ValueError: if there is another number of features, or one is too large.
        """
        self._check_number(features)
        if features.dtype.kind == "f":
            pieces = [np.abs(features[rows]).max(axis=0) for rows in row_slices(features.shape)]
            largest = np.max(pieces, axis=0).astype(np.float64)
        else:
            largest = np.float64(1 if features.dtype == bool else np.iinfo(features.dtype).max)
        with np.errstate(over="ignore"):
            scaled = (largest + np.abs(self.offset)) / self.divisor
        if not (scaled < np.finfo(np.float32).max).all():
            raise ValueError(f"data.scale={self.scale}: a feature is too large for float32")

    def _check_number(self, features: Features) -> None:
        if len(features.shape) != 2 or len(self.offset) not in (1, features.shape[1]):
            raise ValueError(
                f"features are {features.shape}, the scaling is for {len(self.offset)} features"
            )

    def apply(self, features: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Return scaled features, computed in float64, rounded once.

        Args:
            features: unscaled, (m, n_x), of any real dtype.
            dtype: of the result, as NumPy names it.

        Raises:
            ValueError: if there is another number of features, or a value overflows the dtype.
        """
        self._check_number(features)
        scaled = np.empty(features.shape, dtype)
        try:
            with np.errstate(over="raise"):
                for rows in row_slices(features.shape):
                    exact = np.asarray(features[rows], dtype=np.float64)
                    scaled[rows] = (exact - self.offset) / self.divisor
        except FloatingPointError as error:
            raise ValueError(
                f"data.scale={self.scale}: a feature is too large for {scaled.dtype}"
            ) from error
        return scaled


def _statistics(
    features: Features, scale: str, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and divisor of every feature, (n_x,) each."""
    scaler = StandardScaler() if scale == "standard" else MinMaxScaler()
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in row_slices((len(indices), features.shape[1])):
            scaler.partial_fit(np.asarray(features[indices[rows]], dtype=np.float64))
    if isinstance(scaler, StandardScaler):
        offset, divisor = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
        divisor = np.where(np.isfinite(np.asarray(scaler.var_)), divisor, np.inf)  # it says 1
    else:
        offset, spread = np.asarray(scaler.data_min_), np.asarray(scaler.data_range_)
        divisor = np.where(spread == 0, 1.0, spread)
    bad = np.flatnonzero(~np.isfinite(offset) | ~np.isfinite(divisor))
    if bad.size:
        raise ValueError(f"data.scale={scale}: feature {bad[0]} is too large, its spread overflows")
    return offset, divisor

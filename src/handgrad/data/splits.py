"""Splits of a data set: training, validation and test examples, stratified by class."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from handgrad.data.examples import TEST, TRAIN, VALIDATION, Examples, listed
from handgrad.data.on_disk import OnDisk
from handgrad.data.scaling import Scaling


class Split:
    """Holds the examples at `indices`, inputs scaled, targets as one-hot rows or a column.

    Data in memory are scaled once and kept on the device. An array in a file stays there: its
    rows are read, scaled and encoded when they are taken.

    Args:
        examples: the whole data.
        indices: which examples belong to this split, (m,).
        scaling: fitted on the training split.
        dtype: of inputs and targets.
        device: on which they are used.
    """

    def __init__(
        self,
        examples: Examples,
        indices: np.ndarray,
        scaling: Scaling,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.examples, self.indices, self.scaling = examples, indices, scaling
        self.dtype, self.device = dtype, device
        self.labelled = examples.target is not None
        self.kept = None if isinstance(examples.X, OnDisk) else self.read(indices)

    def __len__(self) -> int:
        """Count its examples."""
        return len(self.indices)

    @property
    def bytes_per_example(self) -> int:
        """Return the bytes of one example's inputs."""
        return self.examples.X.shape[1] * self.dtype.itemsize

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs (m, n_x) and targets (m, n_y) of the examples at `indices` of all."""
        wide = np.float64 if self.dtype == torch.float64 else np.float32
        inputs = torch.from_numpy(self.scaling.apply(self.examples.X[indices], wide))
        targets = (
            torch.from_numpy(self.examples.encode(indices)) if self.labelled else inputs[:, :0]
        )
        return inputs.to(self.device, self.dtype), targets.to(self.device, self.dtype)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets at `positions` (int64) within this split, gathered."""
        if self.kept is None:
            return self.read(self.indices[positions.numpy()])
        positions = positions.to(self.device)
        inputs, targets = self.kept
        return inputs.index_select(0, positions), targets.index_select(0, positions)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of consecutive rows: views, where they are kept in memory."""
        if self.kept is None:
            return self.read(self.indices[rows])
        inputs, targets = self.kept
        return inputs[rows], targets[rows]


class _Indices(NamedTuple):
    """Indices of the examples of each split, ascending, none for an empty split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(examples: Examples, validation: float | None, test: float | None, seed: int) -> _Indices:
    """Draw disjoint splits that together hold every example once.

    Classes keep their proportions in all splits. Where a class is too small for that, and for
    multi-label targets, the split is a plain shuffle (a UserWarning names the class).

    Args:
        examples: what to split; where its source fixes the splits, they are taken.
        validation: fraction of all examples, in [0, 1); None where the source fixes the splits.
        test: likewise; validation + test < 1.
        seed: of the shuffle; 0 to 2**32 - 1.

    Raises:
        ValueError: if a fraction is out of range, or no example is left for training.
    """
    if examples.splits is not None:
        for key, fraction in (("validation", validation), ("test", test)):
            if fraction is not None:
                raise ValueError(
                    f"data.{key}={fraction}: this dataset has official splits; use null"
                )
        return _Indices(*(np.flatnonzero(examples.splits == s) for s in (TRAIN, VALIDATION, TEST)))
    sizes = _sizes(len(examples), validation, test)
    rest = np.arange(len(examples))
    held_out = {}
    for name in ("test", "validation"):
        held_out[name] = rest[:0]
        if size := sizes[name]:
            classes = _classes_to_keep_in_step(examples, rest, size)
            parts = train_test_split(rest, test_size=size, random_state=seed, stratify=classes)
            rest, held_out[name] = map(np.sort, parts)
    return _Indices(rest, held_out["validation"], held_out["test"])


def _sizes(n_examples: int, validation: float | None, test: float | None) -> dict[str, int]:
    sizes = {}
    for key, fraction in (("validation", validation), ("test", test)):
        if fraction is None or isinstance(fraction, bool) or not 0 <= fraction < 1:
            raise ValueError(
                f"data.{key}={fraction}: must be a fraction of the data, 0 or more and below 1"
            )
        sizes[key] = max(round(fraction * n_examples), int(fraction > 0))
    if sum(sizes.values()) >= n_examples:
        raise ValueError(
            f"data.validation={validation} and data.test={test} leave no training "
            f"data: there are {n_examples} examples"
        )
    return sizes


def _classes_to_keep_in_step(examples: Examples, rest: np.ndarray, size: int) -> np.ndarray | None:
    """Return the classes of `rest`, or None where stratification is impossible or meaningless."""
    if examples.target is None or examples.multi_label:
        return None
    classes = np.asarray(examples.target[rest])
    counts = np.bincount(classes, minlength=len(examples.class_names))
    small = [examples.class_names[i] for i in np.flatnonzero(counts < 2)]
    if not small and min(size, len(rest) - size) >= np.count_nonzero(counts):
        return classes
    reason = f"fewer than two examples of {listed(small)}"
    if not small:
        present, smaller = np.count_nonzero(counts), min(size, len(rest) - size)
        reason = f"{present} classes do not fit into a split of size {smaller}"
    warnings.warn(
        f"the split is a plain shuffle, not stratified by class: {reason}",
        UserWarning,
        stacklevel=4,
    )
    return None

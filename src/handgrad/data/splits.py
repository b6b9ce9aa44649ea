"""Training, validation and test parts of a data set."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

from handgrad.data.examples import TEST, TRAIN, VALIDATION, Examples, listed


class Split(NamedTuple):
    """Indices of the examples of each part, ascending; a part may be empty."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(examples: Examples, validation: float | None, test: float | None, seed: int) -> Split:
    """Disjoint parts that together hold every example once.

    Classes keep their shares in all parts. Where a class is too small for that, and for
    multi-label targets, the split is a plain shuffle (a UserWarning names the class).

    Args:
        examples: what to split; where its source fixes the parts, they are taken.
        validation: fraction of all examples, in [0, 1); None where the source fixes the parts.
        test: likewise; validation + test < 1.
        seed: of the shuffle; 0 to 2**32 - 1.

    Raises:
        ValueError: if a fraction is out of range, or no example is left for training.
    """
    if examples.parts is not None:
        return _fixed(examples.parts, validation, test)
    sizes = _sizes(len(examples), validation, test)
    rest = np.arange(len(examples))
    held_out = {}
    for name in ("test", "validation"):
        rest, held_out[name] = _take(examples, rest, sizes[name], seed)
    return Split(rest, held_out["validation"], held_out["test"])


def _fixed(parts: np.ndarray, validation: float | None, test: float | None) -> Split:
    for key, fraction in (("validation", validation), ("test", test)):
        if fraction is not None:
            raise ValueError(f"data.{key}={fraction}: these data have an official split; use null")
    return Split(*(np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST)))


def _sizes(n_examples: int, validation: float | None, test: float | None) -> dict[str, int]:
    sizes = {}
    for key, fraction in (("validation", validation), ("test", test)):
        if fraction is None or isinstance(fraction, bool) or not 0 <= fraction < 1:
            raise ValueError(f"data.{key}={fraction}: a fraction of the data, 0 or more, below 1")
        sizes[key] = max(round(fraction * n_examples), int(fraction > 0))
    if sum(sizes.values()) >= n_examples:
        raise ValueError(
            f"data.validation={validation} and data.test={test} leave none of the "
            f"{n_examples} examples for training"
        )
    return sizes


def _take(
    examples: Examples, rest: np.ndarray, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """What stays of `rest`, and the `size` examples taken from it."""
    if size == 0:
        return rest, rest[:0]
    classes = _classes_to_keep_in_step(examples, rest, size)
    stay, taken = train_test_split(rest, test_size=size, random_state=seed, stratify=classes)
    return np.sort(stay), np.sort(taken)


def _classes_to_keep_in_step(examples: Examples, rest: np.ndarray, size: int) -> np.ndarray | None:
    """The classes of `rest`, or None where a stratified split is impossible or has no meaning."""
    if examples.target is None or examples.multi_label:
        return None
    classes = np.asarray(examples.target[rest])
    counts = np.bincount(classes, minlength=len(examples.class_names))
    small = [examples.class_names[i] for i in np.flatnonzero(counts < 2)]
    if not small and min(size, len(rest) - size) >= np.count_nonzero(counts):
        return classes
    reason = (
        f"fewer than two examples of {listed(small)}" if small else f"{size} examples in a part"
    )
    warnings.warn(
        f"the split is a plain shuffle, not stratified by class: {reason}",
        UserWarning,
        stacklevel=4,
    )
    return None

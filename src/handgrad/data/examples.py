"""Examples that every data source gives, and the questions it answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from handgrad.data.on_disk import Features

TRAIN, VALIDATION, TEST = 0, 1, 2  # the values of Examples.splits


@dataclass(frozen=True)
class Known:
    """Holds what training knew of its data, so that another file is read in the same way.

    Plain containers only, so that it can lie in a checkpoint.
    """

    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...] = ()  # the target's column or columns, where the file names them
    multi_label: bool = False


@dataclass(frozen=True)
class Examples:
    """Unscaled examples with their target.

    Raises:
        ValueError: where the shapes do not fit each other.
    """

    X: Features  # (N, n_x), real
    target: np.ndarray | None  # (N,) int64 classes, or (N, n_y) float in [0, 1]; None: not in file
    class_names: tuple[str, ...]  # of the classes, or of the outputs where multi_label
    feature_names: tuple[str, ...]
    splits: np.ndarray | None = (
        None  # (N,) int8 TRAIN, VALIDATION, TEST where the source fixes them
    )
    image_shape: tuple[int, int] | None = None  # (rows, columns) where an example is a picture
    multi_label: bool = False  # the outputs are independent, each in [0, 1]
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        if self.X.ndim != 2 or self.X.shape[1] != len(self.feature_names):
            raise ValueError(f"X is {self.X.shape}, feature names are {len(self.feature_names)}")
        for name, values in (("target", self.target), ("splits", self.splits)):
            if values is not None and len(values) != len(self.X):
                raise ValueError(f"X has {len(self.X)} rows, {name} {len(values)}")
        if self.target is not None and self.target.ndim != 1 + self.multi_label:
            raise ValueError(f"target is {self.target.shape} with multi_label={self.multi_label}")

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.X)

    @property
    def n_outputs(self) -> int:
        """Return n_y: one output for two classes, else one for each class or label."""
        two_classes = len(self.class_names) == 2 and not self.multi_label
        return 1 if two_classes else len(self.class_names)

    @property
    def known(self) -> Known:
        """Return what a checkpoint keeps of these examples."""
        return Known(self.class_names, self.feature_names, self.target_names, self.multi_label)

    def encode(self, indices: np.ndarray) -> np.ndarray:
        """Return the target of some examples as the network's Y.

        Args:
            indices: which examples, (m,).

        Returns:
            (m, n_outputs) float32: one-hot rows; one 0/1 column for two classes.

        Raises:
            ValueError: if the examples have no target.
        """
        if self.target is None:
            raise ValueError("these examples have no target")
        target = np.asarray(self.target[indices])
        if self.multi_label:
            return target.astype(np.float32)
        if self.n_outputs == 1:
            return target.astype(np.float32)[:, None]
        return (target[:, None] == np.arange(self.n_outputs)).astype(np.float32)


class Source(ABC):
    """A place that examples come from. Its constructor takes its own keys of conf/data/NAME.yaml.

    A subclass sets `default_scale`, what `data.scale=auto` means for it.
    """

    default_scale: ClassVar[str] = "standard"

    def prepare(self) -> None:  # noqa: B027 - most sources need nothing
        """Fetch what is missing, once and on one process."""

    @abstractmethod
    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """Return the examples, in memory or in a file.

        Args:
            known: what training knew; features and labels then take its order.
            target_required: whether a file without the target is refused.

        Raises:
            ValueError: if the content is wrong or does not fit `known`; one line with the place.
            OSError: if a file cannot be read; one line with its name.
        """


def check_known(examples: Examples, known: Known | None, title: str) -> Examples:
    """Return the same examples, if training knew the same features and classes.

    Args:
        examples: of a source whose features and classes are fixed.
        known: what training knew; None: nothing yet.
        title: how the source is called in the error.

    Raises:
        ValueError: if they differ.
    """
    if known is None:
        return examples
    if examples.feature_names != known.feature_names:
        mine, its = len(examples.feature_names), len(known.feature_names)
        detail = f"{mine} features, the model {its}" if mine != its else "other features"
        raise ValueError(f"data={title} does not fit the model: it has {detail}")
    if examples.class_names != known.class_names:
        raise ValueError(
            f"data={title} does not fit the model: its classes are "
            f"{listed(examples.class_names)}, the model's {listed(known.class_names)}"
        )
    return examples


def listed(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    """Return names in one readable line: the first few, then how many more."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def numbered(row: int) -> str:
    """Return how a row is called in a file without lines."""
    return f"row {row} (the first is 0)"


def pixel_names(image_shape: tuple[int, int]) -> tuple[str, ...]:
    """Return the feature names of a picture, row by row: pixel_0_0, pixel_0_1, ..."""
    rows, columns = image_shape
    return tuple(f"pixel_{row}_{column}" for row in range(rows) for column in range(columns))

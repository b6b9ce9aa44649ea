"""Data that need no file: shipped with scikit-learn, or generated."""

import math
from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import numpy as np
from sklearn import datasets

from handgrad.data.examples import Examples, Known, Source, check_known


class _TruthTable(Source):
    """All 2^bits rows of 0 and 1, in the order of binary numbers, with one output.

    D. Rumelhart, G. Hinton, R. Williams, Parallel Distributed Processing 1 (1986), chapter 8.

    Args:
        bits: inputs, 2 to 16.
        targets: of the output where the function is false, and where it is true; each in [0, 1].

    Raises:
        ValueError: if there are fewer or more bits, or the targets are not two such numbers.
    """

    default_scale = "none"
    title: ClassVar[str]

    def __init__(self, *, bits: int, targets: list[float]) -> None:
        if not isinstance(bits, int) or not 2 <= bits <= 16:
            raise ValueError(f"data.bits={bits}: must be a whole number from 2 to 16")
        if len(targets) != 2 or not all(0 <= target <= 1 for target in targets):
            raise ValueError(
                f"data.targets={targets}: must be two numbers in [0, 1], for false and for true"
            )
        self.bits, self.targets = bits, np.asarray(targets, dtype=np.float64)

    @abstractmethod
    def function(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the function is true of each row, (N,) bool, of bits (N, n_x)."""

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """Return the whole table, as Source.read says."""
        rows = np.arange(2**self.bits)[:, None] >> np.arange(self.bits)[::-1] & 1
        examples = Examples(
            X=rows.astype(np.float64),
            target=self.targets[self.function(rows).astype(int)][:, None],
            class_names=(self.title,),
            feature_names=tuple(f"bit{position}" for position in range(1, self.bits + 1)),
            multi_label=True,
        )
        return check_known(examples, known, self.title)


class Parity(_TruthTable):
    """True where the number of ones is odd, which is XOR for two bits."""

    title = "parity"

    def function(self, rows: np.ndarray) -> np.ndarray:
        """See _TruthTable.function."""
        return rows.sum(axis=1) % 2 == 1


class Symmetry(_TruthTable):
    """True where the bits read the same backwards."""

    title = "symmetry"

    def function(self, rows: np.ndarray) -> np.ndarray:
        """See _TruthTable.function."""
        return (rows == rows[:, ::-1]).all(axis=1)


class _Shipped(Source):
    """Data shipped with scikit-learn, which `load` reads."""

    title: ClassVar[str]
    load: ClassVar[Any]
    image_shape: ClassVar[tuple[int, int] | None] = None

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """Return all of them, as Source.read says."""
        bunch = self.load()
        examples = Examples(
            X=bunch.data,
            target=bunch.target.astype(np.int64),
            class_names=tuple(str(name) for name in bunch.target_names),
            feature_names=tuple(str(name) for name in bunch.feature_names),
            image_shape=self.image_shape,
        )
        return check_known(examples, known, self.title)


class Digits(_Shipped):
    """1797 handwritten digits of 8 x 8 pixels in 0..16 (UCI, Alpaydin and Kaynak 1998)."""

    title, load = "digits", staticmethod(datasets.load_digits)
    default_scale, image_shape = "/16", (8, 8)


class BreastCancer(_Shipped):
    """569 tumours with 30 measurements, malignant or benign (UCI, Wolberg 1995)."""

    title, load = "breast_cancer", staticmethod(datasets.load_breast_cancer)


class Iris(_Shipped):
    """150 flowers with 4 measurements in cm, three species (Fisher 1936)."""

    title, load = "iris", staticmethod(datasets.load_iris)


class Wine(_Shipped):
    """178 wines with 13 measurements, three growers (UCI, Aeberhard, Forina 1991)."""

    title, load = "wine", staticmethod(datasets.load_wine)


class _Generated(Source):
    """Points in the plane, two classes, drawn anew by `seed`.

    Args:
        examples: number of points.
        noise: standard deviation of the Gaussian noise on both coordinates, in their unit.
        seed: of the points and their noise.

    Raises:
        ValueError: if there are fewer than 4 points, or the noise is negative or not finite.
    """

    title: ClassVar[str]

    def __init__(self, *, examples: int, noise: float, seed: int) -> None:
        if not isinstance(examples, int) or examples < 4:
            raise ValueError(f"data.examples={examples}: must be a whole number, 4 or more")
        if not (isinstance(noise, (int, float)) and math.isfinite(noise) and noise >= 0):
            raise ValueError(f"data.noise={noise}: must be a finite number, 0 or more")
        self.examples, self.noise, self.seed = examples, float(noise), seed

    @abstractmethod
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates (N, 2) and classes (N,)."""

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """Return the points, as Source.read says."""
        coordinates, classes = self.points()
        examples = Examples(coordinates, classes.astype(np.int64), ("0", "1"), ("x", "y"))
        return check_known(examples, known, self.title)


class _OfScikitLearn(_Generated):
    """Points that scikit-learn's `make` draws."""

    make: ClassVar[Any]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """See _Generated.points."""
        return self.make(self.examples, noise=self.noise, random_state=self.seed)


class Moons(_OfScikitLearn):
    """Two interleaving half circles of radius 1."""

    title, make = "moons", staticmethod(datasets.make_moons)


class Circles(_OfScikitLearn):
    """A circle of radius 1 (class 0) around one of radius 1/2 (class 1)."""

    title, make = "circles", staticmethod(partial(datasets.make_circles, factor=0.5))


class Spirals(_Generated):
    """Two interleaved arms of one turn, radius 0.1 to 1."""

    title = "spirals"

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """See _Generated.points."""
        rng = np.random.default_rng(self.seed)
        classes = np.arange(self.examples) % 2
        along = rng.uniform(size=self.examples)  # 0 in the middle, 1 at the arm's end
        angle = 2 * np.pi * along + np.pi * classes
        radius = 0.1 + 0.9 * along
        arms = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        return arms + rng.normal(scale=self.noise, size=arms.shape), classes


class Xor(_Generated):
    """Clouds around the corners of the unit square, class 1 where exactly one coordinate is 1.

    `examples: 4` without noise is the bare truth table (0,0) (0,1) (1,0) (1,1).
    """

    title = "xor"

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """See _Generated.points."""
        rng = np.random.default_rng(self.seed)
        corner = np.arange(self.examples) % 4
        bits = np.column_stack([corner // 2, corner % 2])
        return bits + rng.normal(scale=self.noise, size=bits.shape), bits[:, 0] ^ bits[:, 1]

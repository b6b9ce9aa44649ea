"""Boolean functions of bits: whole truth tables, as the papers of the 1980s learned them."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from handgrad.data.examples import Examples, Known, Source, check_known


class TruthTable(Source):
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
        """Checks the two keys."""
        if not isinstance(bits, int) or not 2 <= bits <= 16:
            raise ValueError(f"data.bits={bits}: a whole number from 2 to 16")
        if len(targets) != 2 or not all(0 <= target <= 1 for target in targets):
            raise ValueError(f"data.targets={targets}: two numbers in 0..1, for false and for true")
        self.bits, self.targets = bits, np.asarray(targets, dtype=np.float64)

    @abstractmethod
    def function(self, rows: np.ndarray) -> np.ndarray:
        """Whether the function is true of each row, (N,) bool, of bits (N, n_x)."""

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """The whole table; see Source.read."""
        rows = np.arange(2**self.bits)[:, None] >> np.arange(self.bits)[::-1] & 1
        examples = Examples(
            X=rows.astype(np.float64),
            target=self.targets[self.function(rows).astype(int)][:, None],
            class_names=(self.title,),
            feature_names=tuple(f"bit{position}" for position in range(1, self.bits + 1)),
            multi_label=True,
        )
        return check_known(examples, known, self.title)


class Parity(TruthTable):
    """True where the number of ones is odd; of two bits, this is XOR."""

    title = "parity"

    def function(self, rows: np.ndarray) -> np.ndarray:
        """See TruthTable.function."""
        return rows.sum(axis=1) % 2 == 1


class Symmetry(TruthTable):
    """True where the bits read the same backwards."""

    title = "symmetry"

    def function(self, rows: np.ndarray) -> np.ndarray:
        """See TruthTable.function."""
        return (rows == rows[:, ::-1]).all(axis=1)

"""Arrays that stay in their file, and are read by rows."""

import math
import os
import weakref
from pathlib import Path

import numpy as np

from handgrad.config.errors import Failed

GAP = 1024  # bytes between two rows that are read at once: faster than to ask twice
READ_BYTES = 2**30  # at once, at most: systems refuse more than twice that
VALUES_AT_ONCE = 4_000_000  # of an array in a file: 32 MB in float64


class OnDisk:
    """Holds an array of rows that stay in a file, and are read when they are taken.

    A memory map would do the same, but where the file is cut the system kills its process. Here
    the file that was opened is read to the end, also where its name is given to another one.

    Args:
        file: of the array.
        dtype: of its numbers.
        shape: of the array, (rows, ...), the last axis the closest in the file.
        start: bytes before its first number.
    """

    def __init__(self, file: Path, dtype: np.dtype, shape: tuple[int, ...], start: int) -> None:
        self.file, self.dtype, self.shape, self.start = file, dtype, shape, start
        self.ndim, self.size = len(shape), math.prod(shape)
        self.nbytes = self.size * dtype.itemsize
        self.opened = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self.opened)
        self.written = self._written()

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole array."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def reshape(self, *shape: int) -> "OnDisk":
        """Return the same numbers in rows of another shape, of which -1 stands for the rest."""
        known = -math.prod(shape)
        full = tuple(self.size // known if each == -1 else each for each in shape)
        return OnDisk(self.file, self.dtype, full, self.start)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Read some rows: those of a slice, or those at indices (m,).

        Raises:
            Failed: if the file was cut or written to since it was opened, or cannot be read.
        """
        indices = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        if not len(indices):
            return np.empty((0, *self.shape[1:]), self.dtype)
        width = self.nbytes // len(self)
        order = np.argsort(indices, kind="stable")
        ascending = indices[order]
        steps = np.diff(ascending) * width > GAP
        steps |= np.diff(ascending * width // READ_BYTES) > 0
        firsts = np.concatenate([[0], np.flatnonzero(steps) + 1])
        counts = np.diff(firsts, append=len(ascending))
        begins = ascending[firsts]
        lengths = ascending[firsts + counts - 1] + 1 - begins
        content = self._read(self.start + width * begins, width * lengths)
        places = np.empty_like(indices)  # of the rows within what was read
        places[order] = ascending + np.repeat(np.cumsum(lengths) - lengths - begins, counts)
        return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])[places]

    def _read(self, offsets: np.ndarray, sizes: np.ndarray) -> bytes:
        """Return the bytes at some places of the file, joined."""
        wanted = zip(sizes.tolist(), offsets.tolist(), strict=True)
        try:
            content = b"".join([os.pread(self.opened, *each) for each in wanted])
        except OSError as error:
            raise Failed(f"{self.file} cannot be read ({error.strerror})") from error
        if len(content) < sizes.sum() or self._written() != self.written:
            raise Failed(
                f"{self.file} was cut or written to while it was used; put back the file as it was"
            )
        return content

    def _written(self) -> tuple[int, int]:
        """Return the file's size, and when it was last written to."""
        state = os.fstat(self.opened)
        return state.st_size, state.st_mtime_ns


Features = np.ndarray | OnDisk  # of all examples, unscaled, (N, n_x)


def row_slices(shape: tuple[int, ...]) -> list[slice]:
    """Return slices of rows of a 2-D array, each of VALUES_AT_ONCE values at most, or one row."""
    step = max(1, VALUES_AT_ONCE // max(1, shape[1]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]

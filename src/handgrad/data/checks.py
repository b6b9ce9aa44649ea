"""Checks of a data file (there, readable, not empty, smaller than the memory) and of its features.

A feature must be a finite number; a constant or a huge one is worth a warning.
"""

import gzip
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from handgrad.data.examples import listed
from handgrad.data.on_disk import Features, row_slices

HUGE = 1e9  # a sigmoid unit that sees it unscaled is saturated and learns nothing


def check_features(
    features: Features,
    names: tuple[str, ...],
    title: str,
    place: Callable[[int], str],
    warn: bool = True,
) -> None:
    """Refuse NaN and infinite values, and warn of constant and huge features.

    Args:
        features: (N, n_x), real; read in slices where they are in a file.
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
    for rows in row_slices(features.shape):
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
        cells = "cell" if count == 1 else "cells"
        raise ValueError(
            f"{title}, {place(row)}: feature '{names[column]}' {what} ({count:,} empty, NaN or "
            f"infinite {cells}); fill them or leave these rows out"
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


CONTAINER = (  # files with the bytes that a container may take, and takes: cgroups 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def existing_file(path: str | Path | None, key: str = "data.path") -> Path:
    """Return the path of a file that can be opened and is not empty.

    Args:
        path: as the user wrote it; `~` is expanded.
        key: of the configuration, for the error.

    Raises:
        ValueError: if no path is given, or the file is empty.
        OSError: if it is missing, a folder, or cannot be read.
    """
    if path is None or str(path) == "":
        raise ValueError(f"{key} is not set: the file with the data")
    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"{key}={path}: no such file (working directory: {Path.cwd()})")
    if file.is_dir():
        raise IsADirectoryError(f"{key}={path} is a folder; a file is required")
    if not file.is_file():
        raise OSError(f"{key}={path} is a device or a pipe; a file is required")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise type(error)(f"{key}={path} cannot be read: {error.strerror}") from error
    if empty:
        raise ValueError(f"{key}={path} is empty (0 bytes)")
    return file


def unpacked(file: Path) -> IO[bytes]:
    """Return the file's bytes, unpacked where it begins like gzip, whatever it is called."""
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if zipped else file.open("rb")  # pyright: ignore[reportReturnType]


def refuse_larger_than_memory(file: Path, size: int | None = None) -> None:
    """Refuse a file that would be read whole and fills over half of the free memory.

    Args:
        file: to be read.
        size: bytes that its content takes; None: as many as the file has.

    Raises:
        ValueError: with both sizes, and what to use instead.
    """
    size, memory = file.stat().st_size if size is None else size, available_memory()
    if memory is not None and size > memory / 2:
        raise ValueError(
            f"{file} takes {size / 2**30:.1f} GiB, too much to read into {memory / 2**30:.1f} GiB "
            "of free memory; a pair of .npy files (data=npz data.path=X.npy data.target=y.npy) "
            "stays on the disk"
        )


def available_memory() -> int | None:
    """Return how much memory this process may still take, in bytes, or None where unknown.

    It is what the machine has left, or the container, if that is less.
    """
    found: list[int] = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    for limit, used in CONTAINER:
        with suppress(OSError, ValueError):  # "max" is not a number
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(found)) if found else None


def first_line(error: Exception) -> str:
    """Return what a library said, in one line of at most 120 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

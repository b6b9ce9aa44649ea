"""What a data file must be: there, readable, not empty, smaller than the memory."""

import os
from pathlib import Path


def existing_file(path: str | Path | None, key: str = "data.path") -> Path:
    """The path of a file that can be opened and is not empty.

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
    if not file.is_file():
        raise IsADirectoryError(f"{key}={path} is a folder; a file is needed")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise type(error)(f"{key}={path} cannot be read: {error.strerror}") from error
    if empty:
        raise ValueError(f"{key}={path} is empty (0 bytes)")
    return file


def refuse_larger_than_memory(file: Path, size: int | None = None) -> None:
    """Refuses a file that would be read whole and fills over half of this machine's memory.

    Args:
        file: to be read.
        size: bytes that its content takes; None: as many as the file has.

    Raises:
        ValueError: with both sizes, and what to use instead.
    """
    size, memory = file.stat().st_size if size is None else size, _memory()
    if memory is not None and size > memory / 2:
        raise ValueError(
            f"{file} has {size / 2**30:.1f} GiB, too much to read into {memory / 2**30:.1f} GiB of "
            "memory; a pair of .npy files (data=npz data.path=X.npy data.target=y.npy) is "
            "memory-mapped"
        )


def _memory() -> int | None:
    """Bytes of physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def first_line(error: Exception) -> str:
    """What a library said, in one line of at most 120 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

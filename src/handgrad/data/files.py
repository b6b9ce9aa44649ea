"""What a data file must be: there, readable, not empty, smaller than the memory."""

import os
from contextlib import suppress
from pathlib import Path

CONTAINER = (  # files with the bytes that a container may take, and takes: cgroups 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


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
    if file.is_dir():
        raise IsADirectoryError(f"{key}={path} is a folder; a file is needed")
    if not file.is_file():
        raise OSError(f"{key}={path} is a device or a pipe; a file is needed")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise type(error)(f"{key}={path} cannot be read: {error.strerror}") from error
    if empty:
        raise ValueError(f"{key}={path} is empty (0 bytes)")
    return file


def refuse_larger_than_memory(file: Path, size: int | None = None) -> None:
    """Refuses a file that would be read whole and fills over half of the free memory.

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
            "of free memory; a pair of .npy files (data=npz data.path=X.npy data.target=y.npy) is "
            "memory-mapped"
        )


def available_memory() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not tell.

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
        with suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(found)) if found else None


def first_line(error: Exception) -> str:
    """What a library said, in one line of at most 120 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

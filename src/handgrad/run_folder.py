"""A run's folder belongs to one run at a time, and can be written to before anything begins."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handgrad.errors import BadInput, in_bytes

LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)  # some file systems of a network


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it however the process ends.

    Once it is held, temporary files in it are of a run that is dead: they are removed.

    Raises:
        BadInput: if another run holds it, or it cannot be written to.
    """
    path = folder / LOCK
    descriptor = acquire(path)
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def acquire(path: Path) -> int:
    """The locked file's descriptor.

    Raises:
        BadInput: if another process holds it, or it cannot be made.
    """
    while True:
        descriptor = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BadInput(
                f"hydra.run.dir={path.parent}: another run is writing there; name another folder"
            ) from None
        except OSError as error:
            if descriptor < 0 or error.errno not in WITHOUT_LOCKS:
                raise unwritable(path.parent, error) from None
        if is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # a run that ended just now removed it: try the new one


def is_still(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def sweep(folder: Path) -> None:
    """Remove the temporary files of a run that did not come to rename them."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        path.unlink(missing_ok=True)


def probe(folder: Path, needed: int = 1) -> None:
    """Try whether a folder takes a file.

    Args:
        folder: made, if it is not there.
        needed: bytes.

    Raises:
        BadInput: one line that says why not.
    """
    path = folder / ".probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(bytes(needed))
    except OSError as error:
        raise unwritable(folder, error, needed) from None
    finally:
        with suppress(OSError):
            path.unlink()


def unwritable(folder: Path, error: OSError, needed: int = 1) -> BadInput:
    """Why nothing can be written to a folder, as one line."""
    room = f"; a checkpoint needs {in_bytes(needed)}" if error.errno == errno.ENOSPC else ""
    return BadInput(
        f"hydra.run.dir={folder}: cannot be written to ({error.strerror}{room}); "
        "name another folder"
    )

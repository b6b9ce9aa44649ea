"""A folder of this machine in which the processes of one run find each other."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "handgrad-meeting-"


@contextmanager
def meeting_place() -> Iterator[Path]:
    """A new folder, removed at the end; those of runs that were killed are removed too.

    It is locked for as long as this process lives, which is how others know that it does.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, or not ours
            os.close(lock(left))
            shutil.rmtree(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(OSError):  # another run may remove it before it is locked
            descriptor = lock(folder)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def lock(folder: Path) -> int:
    """The descriptor of a folder that no other process has locked.

    Raises:
        OSError: if one has, or the folder is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

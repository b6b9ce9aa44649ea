"""Exceptions and warnings for users: wrong input, a failed run, and probable mistakes.

An error about the files of a run becomes one line here. A screen or a log file that takes no more
output does not end a run: its results matter more, and whoever reads `python train.py | head -1`
does not mean to end a training.
"""

import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import Buffer, override

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; make room"),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR, errno.ENOTDIR), "; move it away"),
}
STREAMS = ("stdin", "stdout", "stderr")  # by their descriptors
LONGEST = 1000  # characters of a line; a name in the user's file may have more


class BadInput(Exception):
    """Signals wrong input from the user, in one clear line. Exit code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class Failed(Exception):
    """Signals that the run went wrong in a way that its output explains. Exit code 1."""


class WrongGradient(Failed):
    """Signals that the check found wrong lines of the backward rule.

    Args:
        wrong: their names, in the order in which they are computed.
        when: at which moment of the run.
    """

    def __init__(self, wrong: list[str], when: str) -> None:
        super().__init__(f"the gradient is wrong in {', '.join(wrong)} ({when})")
        self.wrong = wrong


def warn(text: str) -> None:
    """Warn in one line of input that is accepted but looks like a mistake."""
    print(f"train.py: warning: {printable(text)}")


def in_bytes(size: int) -> str:
    """Return a number of bytes in the largest unit of which there is at least one."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def printable(text: str) -> str:
    """Return the text as one line without control characters, cut in the middle if it is long.

    A file may contain characters that move the cursor or are invisible: their escapes are shown.
    """
    line = " ".join(text.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return visible(line)


def visible(text: str) -> str:
    """Return the text with control characters as their escapes."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@contextmanager
def files_in_one_line(folder: Path) -> Iterator[None]:
    """Turn an error about the files of a run into one line.

    Args:
        folder: of the run.

    Raises:
        Failed: in place of an error about a file there, or of a full, broken or read-only disk.
    """
    try:
        yield
    except (BadInput, Failed):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # a callback that tidies up may fail for the same reason
            if isinstance(cause, OSError) and (line := _about_file(cause, folder.absolute())):
                raise Failed(printable(line)) from error
            cause = cause.__cause__ or cause.__context__
        raise


def _about_file(error: OSError, folder: Path) -> str:
    """Return a line about a file in a folder, or about the disk; "" for any other error."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
    file = Path(names[-1]).absolute() if names else folder
    if not (names and file.is_relative_to(folder)) and error.errno not in OF_THE_DISK:
        return ""
    line = f"{file} cannot be written to ({error.strerror})"
    if isinstance(error, FileNotFoundError):
        gone = next((each for each in reversed((file, *file.parents)) if not each.exists()), file)
        line = f"{gone} was removed or moved while the run needed it"
    if any(folder.glob("checkpoints/*.ckpt")):
        line = f"{line}; the checkpoints in {folder} are whole"
    return line + ADVICE.get(error.errno or 0, "")


def expect(path: Path, beginning: bytes = b"") -> None:
    """Refuse to continue without a file that the run wrote before.

    Args:
        path: of the file.
        beginning: a part of its first bytes, which a file that was made anew would lack.

    Raises:
        FileNotFoundError: if it is gone, or was.
    """
    with path.open("rb") as file:
        if beginning not in file.read(64):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


class _Output(io.FileIO):
    """Writes to a stream until nobody takes it, and from then on nowhere."""

    @override
    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            if error.errno != errno.EPIPE:  # whose reader left on purpose
                print(
                    f"train.py: warning: {STREAMS[self.fileno()]} cannot be written to "
                    f"({error.strerror}); the run continues without it",
                    file=sys.stderr,
                )
            return memoryview(data).nbytes


def survive_output() -> None:
    """Let no output end this process, whatever becomes of it, and no thread print a trace twice.

    A stream that is closed (`>&-`) goes nowhere: the next file opened would take its place.
    """
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            free = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(free, True)  # by the processes of other devices
        was = getattr(sys, name)
        if number and was is getattr(sys, f"__{name}__"):  # not one of Jupyter or of pytest
            stream = io.TextIOWrapper(
                io.BufferedWriter(_Output(number, "wb", closefd=False)),
                encoding=getattr(was, "encoding", "utf-8"),
                errors=getattr(was, "errors", "backslashreplace"),
                line_buffering=getattr(was, "line_buffering", False),
                write_through=getattr(was, "write_through", False),
            )
            setattr(sys, name, stream)
    threading.excepthook = _raised_elsewhere


def _raised_elsewhere(failed: threading.ExceptHookArgs) -> None:
    """Print the trace of a thread, unless its error is kept and raised where it is waited for."""
    if getattr(failed.thread, "exception", None) is not failed.exc_value:
        threading.__excepthook__(failed)  # pyright: ignore[reportAttributeAccessIssue]

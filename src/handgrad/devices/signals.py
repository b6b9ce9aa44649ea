"""Signals that end a process in order: at once, or during training between two updates.

The handler only notes the signal, and never communicates with other devices: Lightning's does, and
hangs until the timeout where not all devices received the signal (its issue 20806). Within a SLURM
job, SIGUSR1 says that the time is over: the run is saved and the job queued again. SIGTERM does not
queue it again, because that is also how a job is cancelled.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from handgrad.devices import ranks

ENDING = tuple(  # Windows has the first two
    each for each in signal.Signals if each.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
)
EXIT_CODES = tuple(128 + number for number in ENDING)


@dataclass
class _State:
    """Holds what this process knows of its signals.

    Attributes:
        received: the first one that asked this process to end; 0 for none.
        held: whether signals wait for training, which checks `received` between two updates; else
            they end the process at once.
        watched: whether another process decides when to stop waiting.
    """

    received: int = 0
    held: bool = False
    watched: bool = False


STATE = _State()


def leave_if_asked() -> None:
    """Exit if a signal waited, or if the exit that it caused was swallowed."""
    if STATE.received:
        sys.exit(128 + STATE.received)


def _note(number: int, _: FrameType | None) -> None:
    """Exit on a signal or let it wait, but on a second Ctrl-C exit immediately."""
    impatient = STATE.received and number == signal.SIGINT and not STATE.watched
    if STATE.received and not impatient:
        return
    if impatient and not STATE.held:
        os._exit(128 + STATE.received)  # it is exiting already, and takes too long
    STATE.received = STATE.received or number
    if impatient or not STATE.held:
        STATE.held = False
        sys.exit(128 + STATE.received)


def handled_numbers() -> list[signal.Signals]:
    """Return the signals that end a run: SIGUSR1 within a SLURM job, SIGHUP except under nohup."""
    in_job = "SLURM_JOB_ID" in os.environ
    return [
        each
        for each in ENDING
        if (in_job or each.name != "SIGUSR1")
        and (each.name != "SIGHUP" or signal.getsignal(each) is not signal.SIG_IGN)
    ]


@contextmanager
def handled(*, watched: bool = False) -> Iterator[None]:
    """End this process in order on a signal, with 128 plus its number as exit code.

    Args:
        watched: whether another process started this one and decides when to stop waiting.
    """
    global STATE
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    STATE = _State(watched=watched or ranks.launched_by() is not None)
    before = {number: signal.signal(number, _note) for number in handled_numbers()}
    _mask("SIG_UNBLOCK", before)
    try:
        try:
            yield
        except Exception as error:
            if isinstance(error.__context__, SystemExit):
                # The code that it interrupted then failed to tidy up.
                leave_if_asked()
            raise
        leave_if_asked()
    except SystemExit as stop:
        asked = stop.code in EXIT_CODES and signal.Signals(stop.code - 128).name == "SIGUSR1"
        if asked and not watched and ranks.is_first():
            _queue_again()
        raise
    finally:
        if not watched:  # its end must not be disturbed by signals that are passed on
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Block signals while a process is started, which inherits that until it handles them."""
    before = _mask("SIG_BLOCK", handled_numbers())
    try:
        yield
    finally:
        _mask("SIG_SETMASK", before)


def _mask(how: str, numbers: Iterable[int]) -> set[signal.Signals | int]:
    """Change the mask of signals and return the one before; Windows has none."""
    if not hasattr(signal, "pthread_sigmask"):
        return set()
    return signal.pthread_sigmask(getattr(signal, how), numbers)


def _queue_again() -> None:
    """Ask SLURM to start this job again, and print one line on standard error about it."""
    job = os.environ["SLURM_JOB_ID"]
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    if array and task:
        job = f"{array}_{task}"
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = str(error)
    said = f"failed: {problem}" if problem else "done"
    print(f"{' '.join(command)}: {said}", file=sys.stderr)

"""SIGINT and SIGTERM end a process in order: at once, or in a training between two updates.

A handler here only notes the signal, and never talks to other devices: Lightning's does, and hangs
until the timeout where not all devices were signalled (its issue 20806). Within a job of SLURM,
SIGUSR1 says that the time is over: the run is saved, and the job queued again. SIGTERM does not
queue it again, because it is also how a job is cancelled.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from handgrad.devices import ranks

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EXIT_CODES = tuple(128 + number for number in ENDING)


@dataclass
class State:
    """What is known of this process's signals.

    Attributes:
        received: the first one; 0 for none.
        held: whether somebody looks at it between two updates, so that nothing is to end before.
        watched: whether another process decides when to wait no longer.
    """

    received: int = 0
    held: bool = False
    watched: bool = False


STATE = State()


def received() -> int:
    """The first signal that asked this process to end; 0 for none."""
    return STATE.received


def hold() -> None:
    """Let signals wait from here on for somebody who looks at `received`."""
    STATE.held = True


def release() -> None:
    """Let signals end the process at once again."""
    STATE.held = False


def leave_if_asked() -> None:
    """Leave because of a signal that waited, or whose end somebody swallowed."""
    if STATE.received:
        sys.exit(128 + STATE.received)


def note(number: int, _: FrameType | None) -> None:
    """The handler: end, or wait; whoever presses Ctrl-C twice waits no longer."""
    impatient = STATE.received and number == signal.SIGINT and not STATE.watched
    if STATE.received and not impatient:
        return
    if impatient and not STATE.held:
        os._exit(128 + STATE.received)  # it is ending already, and takes too long
    STATE.received = STATE.received or number
    if impatient or not STATE.held:
        STATE.held = False
        sys.exit(128 + STATE.received)


def handled_numbers() -> list[signal.Signals]:
    """The signals that end a run; SIGUSR1 is one of them within a job of SLURM."""
    return list(ENDING if "SLURM_JOB_ID" in os.environ else ENDING[:2])


@contextmanager
def handled(*, watched: bool = False) -> Iterator[None]:
    """End this process in order on a signal, with exit code 128 and its number.

    Args:
        watched: whether another process started this one and decides when to wait no longer.
    """
    global STATE
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    STATE = State(watched=watched or ranks.launched_by() is not None)
    before = {number: signal.signal(number, note) for number in handled_numbers()}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
    try:
        try:
            yield
        except Exception as error:
            if isinstance(error.__context__, SystemExit):  # what was left then failed to tidy up
                leave_if_asked()
            raise
        leave_if_asked()
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGUSR1 and not watched and ranks.is_first():
            queue_again()
        raise
    finally:
        if not watched:  # whose end is not to be disturbed by signals that are passed on
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Let signals wait while a process is started; it inherits that, until it handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled_numbers())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def queue_again() -> None:
    """Ask SLURM to start this job again; one line on standard error where it cannot."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        problem = str(error)
    said = f"failed: {problem}" if problem else "done"
    print(f"{' '.join(command)}: {said}", file=sys.stderr)

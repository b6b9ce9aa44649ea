"""`python train.py` as a process of its own, forked from one that has imported everything.

Importing torch and Lightning takes seconds, and a sweep starts hundreds of runs. From the command
line on, a forked run takes the path of any other; but its devices' processes are forked too, where
the launcher spawns them.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest

from handgrad.devices import launch

DOOR = Path(__file__).parent.parent / "train.py"
PRELOADED = [  # what a run imports, some of it by name only
    *("forked", "handgrad.tasks.cli", "handgrad.tasks.sweep.job", "handgrad.tasks.train"),
    *("handgrad.tasks.test", "handgrad.config.validate", "handgrad.dashboard.pictures.gallery"),
    *("handgrad.data.sources", "sklearn.datasets", "filelock"),
    *("hydra.core.plugins", "hydra.experimental.callback", "omegaconf._impl", "rich._emoji_codes"),
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
]


class Run(NamedTuple):
    """A run that was started."""

    process: BaseProcess
    saves: Connection  # gets "begins" and "ends" of each save on the first device
    folder: Path

    @property
    def out(self) -> str:
        """What it wrote to standard output so far."""
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return (self.folder / "err").read_text()

    def wait(self, seconds: float = 90) -> int:
        """Its exit code."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"it still runs after {seconds} s: {self.out}{self.err}")
        return code


def serve(
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    prepare: Callable[[], None],
    saves: Connection,
) -> None:
    """Be `python train.py ARGUMENTS`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the fork server's is to ignore it
    os.chdir(folder)
    os.environ.update(environment)
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    fork = multiprocessing.get_context("fork")
    launch.multiprocessing.get_context = lambda _: fork  # pyright: ignore - of this process alone
    save = L.Trainer.save_checkpoint

    def announced(*arguments: Any, **options: Any) -> None:
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        if first:
            saves.send("begins")
        save(*arguments, **options)
        if first:
            saves.send("ends")

    L.Trainer.save_checkpoint = announced
    prepare()
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(DOOR), run_name="__main__")


def server() -> ForkServerContext:
    """Get what starts processes that have everything imported, once for all that do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def replace_spawn(patch: pytest.MonkeyPatch) -> None:
    """Let the processes that this one would spawn come from the server."""
    context = server()
    patch.setattr(multiprocessing, "get_context", lambda _: context)


def nothing() -> None:
    """Prepare nothing."""


def start(
    *arguments: str,
    folder: Path,
    environment: dict[str, str] | None = None,
    prepare: Callable[[], None] = nothing,
) -> Run:
    """Start a run in a folder.

    Args:
        arguments: of train.py.
        folder: the current one of the run; its output is kept there too.
        environment: variables beside those of this process.
        prepare: changes what a test needs changed, in the run's processes.
    """
    for name in ("out", "err"):  # of a run before: they tell when this one has begun
        (folder / name).unlink(missing_ok=True)
    context = server()
    saves, announcing = context.Pipe(duplex=False)
    process = context.Process(
        target=serve, args=(arguments, folder, environment or {}, prepare, announcing)
    )
    process.start()
    announcing.close()
    return Run(process, saves, folder)


def children(pid: int) -> list[int]:
    """The processes that one has started, in their order."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait for something, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)
    return found

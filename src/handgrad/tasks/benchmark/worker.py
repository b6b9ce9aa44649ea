"""Each contender in a process of its own, so that none has another's allocator or threads."""

import importlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from handgrad.config.errors import Failed
from handgrad.tasks.benchmark.workload import Shape

HERE = "handgrad.tasks.benchmark"
CONTENDERS = {  # by name: where the class is, which only its own process imports
    "trainer": ("whole", "AsUsersRunIt"),
    "bare": ("loops", "HandWritten"),
    "autograd": ("loops", "Autograd"),
    "compiled": ("loops", "Compiled"),
    "lightning": ("libraries", "LightningAutomatic"),
    "scikit_learn": ("libraries", "ScikitLearn"),
    "numpy": ("loops", "NumPy"),
    "jax": ("libraries", "Jax"),
    "products": ("loops", "Products"),
    "two_processes": ("whole", "TwoProcesses"),
    "truth": ("loops", "Truth"),
}
ENVIRONMENT = {
    "FORCE_COLOR": "1",  # the progress bar is drawn, though nobody sees it
    "JAX_PLATFORMS": "cpu",
}


PATIENCE = 5.0  # seconds in which an idle process ends


class Unfit(Failed):
    """A contender cannot do what it was asked to; the message says why."""


class Answer(NamedTuple):
    """A contender's result, or why there is none."""

    value: Any
    failure: str | None = None


class Worker:
    """A contender's process, asked from here.

    Args:
        name: of `CONTENDERS`.
        config: of the whole benchmark.
        folder: in which the process works.
    """

    def __init__(self, name: str, config: dict[str, Any], folder: Path) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.requests, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, config, folder, theirs))
        self.process.start()
        theirs.close()  # so that the process's end is seen here

    def ask(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the contender, or of `prepare`.

        Raises:
            Unfit: if it failed, its package is not installed, or its process died.
        """
        try:
            self.requests.send((method, arguments))
            answer: Answer = self.requests.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Unfit(f"its process ended with exit code {self.process.exitcode}") from None
        if answer.failure is not None:
            raise Unfit(answer.failure)
        return answer.value

    def close(self) -> None:
        """Ask no more, which ends an idle process; one that is still at work is stopped."""
        self.requests.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()


def serve(name: str, config: dict[str, Any], folder: Path, requests: Connection) -> None:
    """Be a contender until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    os.environ |= ENVIRONMENT
    os.chdir(folder)
    server = Server(name, config)
    while True:
        try:
            method, arguments = requests.recv()
        except EOFError:
            return
        requests.send(server.answer(method, arguments))


class Server:
    """A contender as its own process sees it.

    Args:
        name: of `CONTENDERS`.
        config: of the whole benchmark.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name, self.config = name, config
        self.contender: Any = None

    def prepare(self, shape: Shape, path: Path) -> None:
        """Read one shape's data."""
        from handgrad.tasks.benchmark.workload import Workload

        module, name = CONTENDERS[self.name]
        contender = getattr(importlib.import_module(f"{HERE}.{module}"), name)
        self.contender = None  # its data first
        self.contender = contender(Workload(shape, path, self.config, contender.dtype))

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Answer:
        """Do what is asked; whatever goes wrong is this contender's alone."""
        try:
            value = getattr(self if method == "prepare" else self.contender, method)(*arguments)
        except ModuleNotFoundError as error:
            return Answer(None, f"not installed: {error.name}")
        except Exception as error:
            return Answer(None, f"{type(error).__name__}: {error}".splitlines()[0][:200])
        if method == "run":
            weights = value.weights and [w.detach().numpy() for w in value.weights]
            return Answer((value.seconds, weights))
        return Answer(value)

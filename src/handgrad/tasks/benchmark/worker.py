"""Processes of the contenders: each has its own, so that none shares allocator or threads."""

import importlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from handgrad.config.errors import Failed
from handgrad.tasks.benchmark.workload import Shape

CONTENDERS = {  # by name: module and class, which only the contender's own process imports
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
    "FORCE_COLOR": "1",  # draws the progress bar, although the output is discarded
    "JAX_PLATFORMS": "cpu",
}
PATIENCE = 5.0  # seconds until a process that does not end is killed


class Unfit(Failed):
    """Reports why a contender cannot do what it was asked."""


class Worker:
    """Starts the process of a contender, and asks it from the first process.

    Args:
        name: of `CONTENDERS`.
        config: of the whole benchmark.
        folder: in which the process works.
    """

    def __init__(self, name: str, config: dict[str, Any], folder: Path) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.requests, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(name, config, folder, theirs))
        self.process.start()
        theirs.close()  # so that the end of the process is noticed

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return the result of a method of the contender, or of `Server.prepare`.

        Raises:
            Unfit: if it failed, its package is not installed, or its process died.
        """
        try:
            self.requests.send((method, arguments))
            answer = self.requests.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Unfit(f"its process ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Unfit):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, or kill it if it is still at work."""
        self.requests.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()


def _serve(name: str, config: dict[str, Any], folder: Path, requests: Connection) -> None:
    """Answer requests for a contender until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the first process ends this one
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
    """Answers requests for a contender, in its own process.

    Args:
        name: of `CONTENDERS`.
        config: of the whole benchmark.
    """

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name, self.config = name, config
        self.contender: Any = None

    def prepare(self, shape: Shape, path: Path) -> None:
        """Read the data of a shape."""
        from handgrad.tasks.benchmark.workload import Workload

        module, name = CONTENDERS[self.name]
        contender = getattr(importlib.import_module(f"handgrad.tasks.benchmark.{module}"), name)
        self.contender = None  # frees the previous data first
        self.contender = contender(Workload(shape, path, self.config, contender.dtype))

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method, and return its result, or as Unfit any failure of this contender alone."""
        try:
            value = getattr(self if method == "prepare" else self.contender, method)(*arguments)
        except ModuleNotFoundError as error:
            return Unfit(f"not installed: {error.name}")
        except Exception as error:
            return Unfit(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        if method == "run":
            weights = value.weights and [w.detach().numpy() for w in value.weights]
            return value.seconds, weights
        return value

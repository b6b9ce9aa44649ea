"""Repeated measurements, in turns: contenders on one shape, and commands of the command line."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handgrad.tasks.benchmark.worker import Unfit, Worker
from handgrad.tasks.benchmark.workload import Shape

LONGEST = 2**15  # run: updates at most
WHOLE = {"trainer": 8, "two_processes": 8}  # times longer runs, because their start-up varies more
GROWTH = 8  # factor between the trial runs that choose the length of the long run
SHORTER = 4  # updates of the long run over those of the short one
ONCE = {"memory": ("peak_bytes", "MiB", 2**-20), "checkpoint": ("checkpoint_seconds", "ms", 1e3)}
TOLERANCE = 0.01  # distance of final weights from float64, over the distance they moved
SLOW_REPEATS = 2  # of the whole default run at most
IMPORT = 'python -c "import torch"'  # what the others are compared with
WHOLE_RUN = "train.py, the whole default run"
COMMANDS = {  # by name: the arguments of python; each runs in a process of its own
    'python -c "pass"': ["-c", "pass"],
    IMPORT: ["-c", "import torch"],
    "train.py --help": ["train.py", "--help"],
    "train.py --cfg job": ["train.py", "--cfg", "job"],
    "train.py, one update": ["train.py", "trainer.max_epochs=-1", "trainer.max_steps=1"],
    WHOLE_RUN: ["train.py"],
}


class Measured(NamedTuple):
    """Holds one line of the result."""

    part: str  # update, memory, checkpoint, growth, processes, startup
    row: str
    contender: str
    unit: str
    values: list[float]  # one for each repeat
    updates: int | None = None  # of the long run
    weight_error: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Return the median of the repeats, or NaN if there are none."""
        return statistics.median(self.values) if self.values else float("nan")

    def ratio_to(self, contender: str, measured: "list[Measured]") -> float | None:
        """Return the ratio of medians to a contender in the same part and row, or None."""
        wanted = (self.part, self.row, contender)
        same = (each.median for each in measured if each[:3] == wanted and each.median > 0)
        base = next(same, None)
        return self.median / base if self.values and base else None


class Contest(ExitStack):
    """Measures contenders on one shape after the other, and ends their processes at its own end.

    Args:
        config: of the whole benchmark.
        folder: for the data and the files of the contenders.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        self.path = folder / "data.npz"  # of the current shape
        self.workers: dict[str, Worker] = {}

    def worker(self, name: str) -> Worker:
        """Return the process of a contender, started if it is not running."""
        if name not in self.workers or not self.workers[name].process.is_alive():
            self.workers[name] = Worker(name, self.config, self.folder)
            self.callback(self.workers[name].close)
        return self.workers[name]

    def updates(
        self, part: str, row: str, names: Iterable[str], repeats: int, seconds: float
    ) -> list[Measured]:
        """Measure the time of an update of each contender.

        Args:
            part: of the result: update, growth or processes.
            row: a shape as `Shape.parse` takes it.
            names: of `worker.CONTENDERS`.
            repeats: in each of them every contender has its turn.
            seconds: of the long run at most, unless four updates take longer; those of `WHOLE`
                take eight times as many.
        """
        shape = Shape.parse(row, self.config["benchmark"]["examples"])
        shape.write_data(self.config["seed"], self.path)
        entries = [Entry(self.worker(name)) for name in names]
        for entry in entries:
            entry.prepare(shape, self.path, seconds)
        for _ in range(repeats):
            for entry in entries:
                entry.repeat()
        self._compare(entries, shape)
        return [entry.measured(part, row) for entry in entries]

    def _compare(self, entries: list["Entry"], shape: Shape) -> None:
        """Measure how far the final weights of each contender are from those in float64."""
        truth = self.worker("truth")
        truth.ask("prepare", shape, self.path)
        start = truth.ask("run", 0)[1]
        exact = {n: truth.ask("run", n)[1] for n in {e.long for e in entries if e.weights}}
        for entry in entries:
            if entry.weights:
                entry.weight_error = distance(entry.weights, exact[entry.long], start)

    def once(self, part: str, row: str, names: Iterable[str]) -> list[Measured]:
        """Measure memory or checkpoints once, after `updates` on the same row.

        Args:
            part: "memory", the peak of an update, or "checkpoint", the time to write one.
            row: the shape that was measured last.
            names: of `worker.CONTENDERS`.
        """
        method, unit, factor = ONCE[part]
        found: list[Measured] = []
        for name in names:
            with suppress(Unfit):  # its line among the updates gives the reason
                value = self.worker(name).ask(method)
                if value is not None:
                    found.append(Measured(part, row, name, unit, [value * factor]))
        return found


class Entry:
    """Measures one contender, which is not asked again after a failure."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.long = SHORTER
        self.per_update: list[float] = []  # seconds
        self.weights: list[np.ndarray] | None = None
        self.weight_error: float | None = None
        self.failure = ""

    def prepare(self, shape: Shape, path: Path, seconds: float) -> None:
        """Read the data, warm up, and choose the number of updates of the long run."""
        try:
            self.worker.ask("prepare", shape, path)
            self.long = self._fitting(seconds * WHOLE.get(self.worker.name, 1))
        except Unfit as error:
            self.failure = str(error)

    def _fitting(self, seconds: float) -> int:
        """Return the largest power of two of updates that takes `seconds` at most, from 4 on."""
        self.worker.ask("run", 2)  # triggers late compilation
        updates, first, took = 1, self.worker.ask("run", 1)[0], 0.0
        while took < max(seconds, first) and updates < LONGEST:
            before, updates = took, updates * GROWTH
            took = self.worker.ask("run", updates)[0] - first
            if took > seconds / 4 and 0 < 2 * before < took:  # start-up no longer matters
                break
        wanted = seconds * (updates - 1) / max(took, 1e-9)
        return min(LONGEST, max(SHORTER, 2 ** int(np.log2(max(wanted, 1)))))

    def repeat(self) -> None:
        """Time one short and one long run, whose difference is free of start-up."""
        if self.failure:
            return
        try:
            short, _ = self.worker.ask("run", self.long // SHORTER)
            long, self.weights = self.worker.ask("run", self.long)
        except Unfit as error:
            self.failure = str(error)
            return
        self.per_update.append((long - short) / (self.long - self.long // SHORTER))

    def measured(self, part: str, row: str) -> Measured:
        """Return the line of the result."""
        note, error = self.failure, self.weight_error
        if error is not None and not error <= TOLERANCE:
            note = f"its weights are {error:.1e} of the way off"
        values = [] if self.failure else [seconds * 1e6 for seconds in self.per_update]
        updates = None if self.failure else self.long
        return Measured(part, row, self.worker.name, "us", values, updates, error, note)


def distance(weights: list[np.ndarray], exact: list[np.ndarray], start: list[np.ndarray]) -> float:
    """Return |weights - exact| / |exact - start| over all parameters together."""
    off = sum(float(((w - e) ** 2).sum()) for w, e in zip(weights, exact, strict=True))
    way = sum(float(((e - s) ** 2).sum()) for e, s in zip(exact, start, strict=True))
    return (off / way) ** 0.5


def startup(train: Path, repeats: int) -> list[Measured]:
    """Time each command of the command line, in turns.

    Args:
        train: the path of train.py.
        repeats: of each; the whole run is repeated twice at most.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    notes = dict.fromkeys(COMMANDS, "")
    for repeat in range(repeats):
        for name, arguments in COMMANDS.items():
            if name == WHOLE_RUN and repeat >= SLOW_REPEATS:
                continue
            given = [str(train) if each == "train.py" else each for each in arguments]
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                done = subprocess.run([sys.executable, *given], cwd=folder, capture_output=True)
                seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                notes[name] = f"exit code {done.returncode}"
    return [
        Measured("startup", "", name, "s", values, note=notes[name])
        for name, values in seconds.items()
    ]

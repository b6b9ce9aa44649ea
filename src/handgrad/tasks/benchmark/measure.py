"""Interleaved, repeated measurements of several contenders on one shape."""

import statistics
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handgrad.tasks.benchmark.worker import Unfit, Worker
from handgrad.tasks.benchmark.workload import Shape, write_data

LONGEST = 2**15  # updates of one run at most
WHOLE = {"trainer": 8, "two_processes": 8}  # longer runs, because their start-up varies more
FASTER = 8  # how the runs grow that find out how many updates the long run is to have
SHORTER = 4  # the long run has so many times the updates of the short one
ONCE = {"memory": ("peak_bytes", "MiB", 2**-20), "checkpoint": ("checkpoint_seconds", "ms", 1e3)}
TOLERANCE = 0.01  # of the way that the weights went, between a contender and float64


class Measured(NamedTuple):
    """One line of the result."""

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
        """The middle one of the repeats."""
        return statistics.median(self.values) if self.values else float("nan")


class Contest:
    """Contenders on one shape after the other.

    Args:
        config: of the whole benchmark.
        folder: for the data, and for what the contenders leave.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.config, self.folder = config, folder
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> "Contest":
        """Nothing is started before it is needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.close()

    def worker(self, name: str) -> Worker:
        """The process of a contender, started when it is first asked for, or when it died."""
        if name not in self.workers or not self.workers[name].process.is_alive():
            self.workers[name] = Worker(name, self.config, self.folder)
        return self.workers[name]

    def updates(
        self, part: str, row: str, names: Iterable[str], repeats: int, seconds: float
    ) -> list[Measured]:
        """The time of an update of each contender.

        Args:
            part: of the result that this belongs to.
            row: a shape as `Shape.parse` takes it.
            names: of `worker.CONTENDERS`.
            repeats: how often; within one, each contender has its turn.
            seconds: of the long run, at most (of a whole run eight times as many), unless four
                updates take longer.
        """
        shape = self.prepare_data(row)
        entries = [Entry(self.worker(name)) for name in names]
        for entry in entries:
            entry.prepare(shape, self.path, seconds)
        for _ in range(repeats):
            for entry in entries:
                entry.repeat()
        self.compare(entries, shape)
        return [entry.measured(part, row) for entry in entries]

    @property
    def path(self) -> Path:
        """Where the data of the present shape lie."""
        return self.folder / "data.npz"

    def prepare_data(self, row: str) -> Shape:
        """Draw the data of a shape."""
        shape = Shape.parse(row, self.config["benchmark"]["examples"])
        write_data(shape, self.config["seed"], self.path)
        return shape

    def compare(self, entries: list["Entry"], shape: Shape) -> None:
        """Measure how far each contender's final weights are from those in float64."""
        truth = self.worker("truth")
        truth.ask("prepare", shape, self.path)
        start = truth.ask("run", 0)[1]
        exact = {n: truth.ask("run", n)[1] for n in {e.long for e in entries if e.weights}}
        for entry in entries:
            if entry.weights:
                entry.weight_error = distance(entry.weights, exact[entry.long], start)

    def once(self, part: str, row: str, names: Iterable[str]) -> list[Measured]:
        """What needs no repeats, after `updates` on this row, of the contenders that have it.

        Args:
            part: "memory", the peak of an update, or "checkpoint", the time to write one.
            row: the shape that was measured last.
            names: of `worker.CONTENDERS`.
        """
        method, unit, factor = ONCE[part]
        found: list[Measured] = []
        for name in names:
            with suppress(Unfit):  # its line among the updates says why
                value = self.worker(name).ask(method)
                if value is not None:
                    found.append(Measured(part, row, name, unit, [value * factor]))
        return found


class Entry:
    """A contender's part in one contest; after a failure it stands aside."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.long = SHORTER
        self.per_update: list[float] = []  # seconds
        self.weights: list[np.ndarray] | None = None
        self.weight_error: float | None = None
        self.failure = ""

    def prepare(self, shape: Shape, path: Path, seconds: float) -> None:
        """Read the data, warm up, and choose how many updates the long run has."""
        try:
            self.worker.ask("prepare", shape, path)
            self.long = self.fitting(seconds * WHOLE.get(self.worker.name, 1))
        except Unfit as error:
            self.failure = str(error)

    def fitting(self, seconds: float) -> int:
        """The largest power of two of updates that takes so many seconds at most; 4 at least."""
        self.worker.ask("run", 2)  # compiles what is compiled late
        updates, first, took = 1, self.seconds(1), 0.0
        while took < max(seconds, first) and updates < LONGEST:
            before, updates = took, updates * FASTER
            took = self.seconds(updates) - first
            if took > seconds / 4 and 0 < 2 * before < took:  # it grows: no start-up that lags
                break
        wanted = seconds * (updates - 1) / max(took, 1e-9)
        return min(LONGEST, max(SHORTER, 2 ** int(np.log2(max(wanted, 1)))))

    def seconds(self, updates: int) -> float:
        """How long a run of so many updates takes, its start-up included."""
        return self.worker.ask("run", updates)[0]

    def repeat(self) -> None:
        """One short and one long run; their difference holds no start-up."""
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
        """The entry as a line of the result."""
        note, error = self.failure, self.weight_error
        if error is not None and not error <= TOLERANCE:
            note = f"its weights are {error:.1e} of the way off"
        values = [] if self.failure else [seconds * 1e6 for seconds in self.per_update]
        updates = None if self.failure else self.long
        return Measured(part, row, self.worker.name, "us", values, updates, error, note)


def distance(weights: list[np.ndarray], exact: list[np.ndarray], start: list[np.ndarray]) -> float:
    """|weights - exact| / |exact - start| over all parameters together."""
    off = sum(float(((w - e) ** 2).sum()) for w, e in zip(weights, exact, strict=True))
    way = sum(float(((e - s) ** 2).sum()) for e, s in zip(exact, start, strict=True))
    return (off / way) ** 0.5

"""Contenders: one way to train each, and the memory that an update needs."""

import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.tasks.benchmark.workload import Workload

PROFILED_UPDATES = 3  # the second already holds the gradients of the first


class Timing(NamedTuple):
    """Holds how long a run of a contender took, and the parameters that it ended with."""

    seconds: float
    weights: Parameters | None  # None for the floor, which trains nothing


class Contender(ABC):
    """One way to train, whose constructor does all that is not repeated for each run.

    Args:
        work: the data, the batches and the first parameters.
    """

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, work: Workload) -> None:
        self.work = work

    @abstractmethod
    def run(self, updates: int) -> Timing:
        """Make this many updates, starting from the first parameters."""

    def peak_bytes(self) -> int | None:
        """Return the bytes that an update needs beyond data and parameters, or None if unknown."""
        return None

    def checkpoint_seconds(self) -> float | None:
        """Return how long writing a checkpoint takes, or None if the contender writes none."""
        return None


class Loop(Contender):
    """A bare PyTorch loop over the batches."""

    @abstractmethod
    def train(self, params: Parameters, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Update the parameters once with each batch."""

    @override
    def run(self, updates: int) -> Timing:
        params = self.work.first_parameters()
        start = time.perf_counter()
        self.train(params, self.work.batches(updates))
        return Timing(time.perf_counter() - start, params)

    @override
    def peak_bytes(self) -> int:
        params, batch = self.work.first_parameters(), next(self.work.batches(1))
        self.train(params, [batch])  # so that nothing is compiled while memory is traced
        with allocations() as peak:
            self.train(params, [batch] * PROFILED_UPDATES)
        return peak[0]


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Trace PyTorch's allocator.

    Yields:
        A list that holds one number after the context: the largest number of bytes that were
        allocated in it and not yet freed.
    """
    peak: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        yield peak
        profiler.stop()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        peak.append(_peak_of(json.loads(path.read_text())["traceEvents"]))


def _peak_of(events: list[dict]) -> int:
    """Return the most bytes held at once, without those allocated before the trace."""
    held: dict[int, int] = {}
    now = peak = 0
    memory = (event for event in events if event.get("name") == "[memory]")
    for event in sorted(memory, key=lambda event: event["args"]["Ev Idx"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
            now += size
        else:
            now -= held.pop(address, 0)
        peak = max(peak, now)
    return peak

"""What a contender is, and the bytes that its updates need."""

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

from handgrad.backprop import Parameters
from handgrad.tasks.benchmark.workload import Workload

PROFILED_UPDATES = 3  # the second already holds the gradients of the first


class Run(NamedTuple):
    """What a contender did: how long it took, and which parameters it ended with."""

    seconds: float
    weights: Parameters | None  # None for the floor, which trains nothing


class Contender(ABC):
    """One way to train. Its constructor does what need not be repeated for each run.

    Args:
        work: the data, the batches, the first parameters.
    """

    dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, work: Workload) -> None:
        self.work = work

    @abstractmethod
    def run(self, updates: int) -> Run:
        """Make so many updates from the first parameters on."""

    def peak_bytes(self) -> int | None:
        """Bytes that an update needs beyond data and parameters; None where it cannot be told."""
        return None

    def checkpoint_seconds(self) -> float | None:
        """How long writing the state takes; None where the contender keeps none."""
        return None


class Loop(Contender):
    """A bare loop over the batches in PyTorch."""

    @abstractmethod
    def train(self, params: Parameters, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Make one update of the parameters with each batch."""

    def run(self, updates: int) -> Run:
        """Make so many updates from the first parameters on."""
        params = self.work.first_parameters()
        start = time.perf_counter()
        self.train(params, self.work.batches(updates))
        return Run(time.perf_counter() - start, params)

    def peak_bytes(self) -> int:
        """Bytes that an update needs beyond data and parameters, from the allocator itself."""
        params, batch = self.work.first_parameters(), next(self.work.batches(1))
        self.train(params, [batch])  # so that nothing is compiled while it is watched
        with allocations() as peak:
            self.train(params, [batch] * PROFILED_UPDATES)
        return peak[0]


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Watch PyTorch's allocator.

    Yields:
        A list that afterwards holds the largest number of bytes that were allocated within and
        not yet freed.
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
        peak.append(largest_sum(json.loads(path.read_text())["traceEvents"]))


def largest_sum(events: list[dict]) -> int:
    """The peak of a trace's allocations; what was allocated before the trace does not count."""
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

"""Contenders, and the workload of one shape that they share: data, batches, first parameters."""

import json
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.data.batches import BatchPlan, TrainingBlocks
from handgrad.data.examples import Examples
from handgrad.data.scaling import Scaling
from handgrad.data.splits import Split
from handgrad.training.initialization import initialize

DATA_BYTES = 160 * 2**20  # of a shape's inputs at most: the process of every contender holds them
SQUARED_NORM = 100.0  # mean over the examples, as in MNIST divided by 255
STEADY = 30.0  # learning rate times hidden units at most: beyond it rounding errors grow
PASSES = 10_000  # over the data in one epoch of full-batch descent
PROFILED_UPDATES = 3  # the second already holds the gradients of the first


class Shape(NamedTuple):
    """Holds the sizes of one row of the benchmark, such as 64x784-100-10."""

    batch_size: int
    in_features: int
    hidden_features: int
    out_features: int
    examples: int  # in the training split; as many as batch_size is full-batch descent

    @classmethod
    def parse(cls, row: str, examples: int) -> "Shape":
        """Parse BATCHxINPUTS-HIDDEN-OUTPUTS, then nothing, `:full` or `:EXAMPLES`.

        The examples are a whole number of batches, so that every batch has the same size.

        Args:
            row: such as 64x784-100-10, 569x30-16-1:full or 64x784-100-10:5000.
            examples: in the training split, unless the row says otherwise.
        """
        sizes, _, suffix = row.partition(":")
        batch_size, inputs, hidden, outputs = (int(size) for size in re.split("[x-]", sizes))
        wanted = min(examples, DATA_BYTES // (4 * inputs))
        if suffix:
            wanted = batch_size if suffix == "full" else int(suffix)
        whole_batches = batch_size * max(1, wanted // batch_size)
        return cls(batch_size, inputs, hidden, outputs, whole_batches)

    @property
    def full(self) -> bool:
        """Return whether every update sees every example."""
        return self.examples == self.batch_size

    def write_data(self, seed: int, path: Path) -> None:
        """Draw inputs (N, n_x) and one-hot targets (N, n_y) of a random linear teacher."""
        random = np.random.default_rng(seed)
        inputs = random.standard_normal((self.examples, self.in_features), dtype=np.float32)
        inputs *= (SQUARED_NORM / self.in_features) ** 0.5
        outputs = max(self.out_features, 2)
        teacher = random.standard_normal((self.in_features, outputs), dtype=np.float32)
        classes = (inputs @ teacher).argmax(axis=1)
        targets = np.eye(outputs, dtype=np.int8)[classes][:, -self.out_features :]
        np.savez(path, X=inputs, y=targets)


class Workload:
    """Holds the data of a shape, its batches, its first parameters and its learning rate.

    Args:
        shape: the sizes.
        path: of the data that `Shape.write_data` wrote.
        config: of the whole benchmark. Its seed and initialisation are used, and its learning rate
            unless it is too large for the comparison of final weights.
        dtype: of inputs and targets.
    """

    def __init__(
        self, shape: Shape, path: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        self.shape, self.path, self.config = shape, path, config
        self.learning_rate: float = min(config["optimizer"]["lr"], STEADY / shape.hidden_features)
        with np.load(path) as arrays:
            examples = Examples(
                X=arrays["X"],
                target=arrays["y"],
                class_names=tuple(f"y{i}" for i in range(shape.out_features)),
                feature_names=tuple(f"x{i}" for i in range(shape.in_features)),
                multi_label=True,
            )
        scaling = Scaling("none", np.zeros(1), np.ones(1))
        self.part = Split(examples, np.arange(shape.examples), scaling, dtype, torch.device("cpu"))
        self.inputs, self.targets = self.part.rows(slice(None))  # (N, n_x) (N, n_y)
        self.plan = BatchPlan(
            examples=shape.examples,
            batch_size=shape.batch_size,
            passes=PASSES if shape.full else 1,
            seed=config["seed"],
        )

    def first_parameters(self) -> Parameters:
        """Return a new copy of the first parameters, which are the same for every contender."""
        model, shape = self.config["model"], self.shape
        start = initialize(
            model["init"],
            shape.in_features,
            shape.hidden_features,
            shape.out_features,
            generator=torch.Generator().manual_seed(self.config["seed"]),
            uniform_range=model["init_range"],
        )
        return Parameters(*(tensor.to(self.inputs.dtype) for tensor in start))

    def batches(self, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of each update, gathered block by block as in training."""
        done = 0
        blocks = TrainingBlocks(
            self.part, self.plan, lambda: done, lambda number: max(1, updates - number)
        )
        while done < updates:  # one epoch after the other
            for block in blocks:
                for update in block.updates[: updates - done]:
                    inputs, targets = block.examples(update)
                    yield inputs[update.microbatches[0]], targets[update.microbatches[0]]
                done += len(block.updates)
                if done >= updates:
                    break

    def orders(self, updates: int) -> Iterator[np.ndarray]:
        """Yield the order of the examples in each pass, the last one only as far as needed."""
        wanted = updates * self.shape.batch_size
        for number in range(-(-updates // self.plan.updates_per_pass)):
            yield self.plan.order(number)[: wanted - number * self.shape.examples]


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

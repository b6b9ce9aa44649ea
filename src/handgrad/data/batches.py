"""Batches of an epoch, as a pure function of (seed, pass, device).

No object here has a state. The seed and k alone say which examples the k-th update sees, so a run
continues exactly from any update, and every device knows its shard of each batch without asking
the others. Batches are cut from whole tensors by index, and the rows of several updates are
gathered at once, because per-example collation and per-batch Python cost more than the arithmetic
of a small network.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handgrad.data.splits import Split

BLOCK_BYTES = 64 * 2**20  # of inputs in a block: seen in half a second, after which signals count
GATHERED_BYTES = 4 * 2**20  # of inputs gathered at once: stays in the last cache until it is used
EVALUATED_BYTES = 4 * 2**20  # of inputs evaluated at once
KEPT_STRETCHES = 32  # of updates, at most: each has a number for every row
ALIGNMENT = 64  # bytes: where a tensor begins can change the rounding of its products


class Update(NamedTuple):
    """Examples of one update on this device."""

    rows: slice  # of the block: this device's examples of all updates gathered with this one
    microbatches: tuple[slice, ...]  # this device's examples, within `rows`
    slots: tuple[int, ...]  # each microbatch's partial sum among all devices'; 0: any order
    examples: int  # over all devices


class Block:
    """Consecutive updates, whose examples are gathered when they are asked for.

    Args:
        updates: in their order.
        rows: the examples' indices in the training split; some rows belong to no update.
        take: inputs and targets of consecutive rows of the block, on the device.
    """

    def __init__(
        self,
        updates: tuple[Update, ...],
        rows: np.ndarray,
        take: Callable[[slice], tuple[Tensor, Tensor]],
    ) -> None:
        self.updates, self.rows, self.take = updates, rows, take
        self.newest: slice | None = None
        self.gathered: tuple[Tensor, Tensor] | None = None

    def examples(self, update: Update) -> tuple[Tensor, Tensor]:
        """Return inputs (rows, n_x) and targets (rows, n_y) of `update.rows`, kept for the next."""
        if self.gathered is None or self.newest is not update.rows:
            self.gathered = None  # frees its memory for the next rows
            self.gathered, self.newest = self.take(update.rows), update.rows
        return self.gathered


Stretch = tuple[tuple[Update, ...], np.ndarray]  # updates, and the positions of their rows


def shard(examples: int, rank: int, world_size: int) -> slice:
    """Return this device's contiguous shard of a batch, as large as the others' or one off."""
    return slice(rank * examples // world_size, (rank + 1) * examples // world_size)


@lru_cache(maxsize=2)  # the blocks of one pass have its order in common
def shuffled(examples: int, seed: int, number: int) -> np.ndarray:
    """Return the order of the examples in pass `number`, a pure function of its arguments."""
    return np.random.default_rng((seed, number)).permutation(examples)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Says which examples each update sees, on one of `world_size` devices.

    Attributes:
        examples: in the training split.
        batch_size: over all devices; `examples` or more is full-batch descent, without shuffling.
        accumulate: batches that one update sums.
        microbatch: rows computed at once at most, to bound memory; None for whole batches.
        ordered: whether batches are cut into microbatches before they are cut into shards, so that
            the microbatches of an update, and the order of their sum, are the same on any number.
        passes: over the training split in one epoch.
        limit: batches in one pass at most; None for all.
    """

    examples: int
    batch_size: int
    accumulate: int = 1
    microbatch: int | None = None
    ordered: bool = False
    passes: int = 1
    limit: int | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    @cached_property
    def batches_per_pass(self) -> int:
        """Count the batches in one pass, the short last one included."""
        batches = -(-self.examples // self.batch_size)
        return batches if self.limit is None else min(batches, self.limit)

    @cached_property
    def updates_per_pass(self) -> int:
        """Count the updates in one pass, a short last accumulation window included."""
        return -(-self.batches_per_pass // self.accumulate)

    @cached_property
    def updates_per_epoch(self) -> int:
        """Count the updates in one epoch."""
        return self.updates_per_pass * self.passes

    @property
    def slots(self) -> int:
        """Count the partial sums of an update that are kept apart until all are there."""
        if not self.ordered:
            return 1
        return min(self.accumulate, self.batches_per_pass) * self.cut(
            range(min(self.batch_size, self.examples))
        )

    def cut(self, batch: range) -> int:
        """Count the microbatches that a batch is cut into."""
        return -(-len(batch) // (self.microbatch or len(batch)))

    @property
    def rows(self) -> int:
        """Return how many rows a device computes at once, at most."""
        return self.microbatch_size(-(-min(self.batch_size, self.examples) // self.world_size))

    @property
    def whole(self) -> bool:
        """Return whether every update sees every example."""
        return self.batch_size >= self.examples

    def order(self, number: int) -> np.ndarray:
        """Return the order of the examples in pass `number` of the training, counted from 0."""
        if self.whole:
            return np.arange(self.examples)
        return shuffled(self.examples, self.seed, number)

    def batches(self, update: int) -> list[range]:
        """Return the positions in the pass's order of each batch of an update."""
        first = update % self.updates_per_pass * self.accumulate
        numbers = range(first, min(first + self.accumulate, self.batches_per_pass))
        starts = (number * self.batch_size for number in numbers)
        return [range(start, min(start + self.batch_size, self.examples)) for start in starts]

    def update(self, number: int, offset: int) -> tuple[Update, list[slice]]:
        """Return update `number` without its `rows`, its microbatches beginning at `offset`.

        Returns:
            The update, and the positions of this device's rows in the pass's order.
        """
        microbatches, slots, positions = [], [], []
        batches = self.batches(number)
        before = 0  # microbatches of the batches before
        for batch in batches:
            rows, first = self.mine(batch)
            step = self.microbatch_size(len(rows))
            for start in range(0, len(rows), step):
                stop = min(start + step, len(rows))
                microbatches.append(slice(offset + start, offset + stop))
                slots.append(before + first + start // step if self.ordered else 0)
            offset += len(rows)
            before += self.cut(batch)
            positions.append(slice(rows.start, rows.stop))
        examples = sum(map(len, batches))
        return Update(slice(0), tuple(microbatches), tuple(slots), examples), positions

    def microbatch_size(self, rows: int) -> int:
        """Return how many of `rows` are computed at once: equal microbatches need least memory."""
        most = self.microbatch or max(rows, 1)
        if self.ordered:
            return most
        microbatches = max(1, -(-rows // most))
        return max(1, -(-rows // microbatches))

    def mine(self, batch: range) -> tuple[range, int]:
        """Return this device's shard of a batch, and the number of its first whole microbatch."""
        if not self.ordered:
            return batch[shard(len(batch), self.rank, self.world_size)], 0
        step = self.microbatch or len(batch)
        taken = shard(self.cut(batch), self.rank, self.world_size)
        return batch[taken.start * step : taken.stop * step], taken.start


class TrainingBlocks:
    """Yields the rest of the current epoch as blocks.

    Args:
        split: the training split.
        plan: which examples each update sees.
        updates_done: updates made since the start of the training; says where to continue.
        horizon: how many updates a block may hold after so many updates, so that a block ends where
            something else (a log line, a checkpoint, the last update) is due.

    An update's first example begins at a multiple of 64 bytes, whether it is gathered first or not.
    So what is computed depends neither on where blocks begin nor on where a run was resumed.
    """

    def __init__(
        self,
        split: Split,
        plan: BatchPlan,
        updates_done: Callable[[], int],
        horizon: Callable[[int], int],
    ) -> None:
        self.split, self.plan = split, plan
        self.updates_done, self.horizon = updates_done, horizon
        self.stretch = lru_cache(KEPT_STRETCHES)(self.stretch)  # each is worked out once
        self.aligned = ALIGNMENT // math.gcd(ALIGNMENT, split.bytes_per_example)  # rows

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks from the next update to the end of its epoch."""
        number = self.updates_done()
        end = (number // self.plan.updates_per_epoch + 1) * self.plan.updates_per_epoch
        while number < end:
            count = min(end - number, self.horizon(number), self.fitting)
            yield (
                self.whole_block(number, count) if self.plan.whole else self.block(number, count)
            )
            number += count

    @cached_property
    def bytes_per_update(self) -> int:
        """Return the bytes of an update's inputs on this device, filled up to the next update's."""
        batch = min(self.plan.batch_size, self.plan.examples)
        rows = -(-batch * self.plan.accumulate // self.plan.world_size)
        return (rows + -rows % self.aligned) * self.split.bytes_per_example

    @property
    def fitting(self) -> int:
        """Return how many updates a block holds: signals, clock, progress bar wait for its end."""
        return max(1, BLOCK_BYTES // self.bytes_per_update)

    @property
    def together(self) -> int:
        """Return how many updates are gathered at once, on a GPU as many as a block has."""
        if self.split.device.type != "cpu":
            return self.fitting
        return max(1, GATHERED_BYTES // self.bytes_per_update)

    def block(self, number: int, count: int) -> Block:
        """Return the `count` updates from `number` on, their rows gathered together."""
        rows: list[np.ndarray] = []
        updates: list[Update] = []
        offset = 0
        while count:
            number_of_pass, first = divmod(number, self.plan.updates_per_pass)
            here = min(count, self.plan.updates_per_pass - first)
            # A pass's stretches differ only if its last update, which may be short, is among them.
            ends = first + here == self.plan.updates_per_pass
            in_a_row, positions = self.stretch(first if ends else 0, here, offset)
            start = first * self.plan.accumulate * self.plan.batch_size
            rows.append(self.plan.order(number_of_pass)[start + positions])
            updates += in_a_row
            offset += len(positions)
            number, count = number + here, count - here
        indices = np.concatenate(rows)
        taken = torch.from_numpy(indices)
        return Block(tuple(updates), indices, lambda rows: self.split.take(taken[rows]))

    def stretch(self, first: int, count: int, offset: int) -> Stretch:
        """Work out `count` updates of a pass, whose rows lie in a block from its row `offset` on.

        Positions count from the first update's on.
        """
        start = first * self.plan.accumulate * self.plan.batch_size
        updates: list[Update] = []
        positions: list[np.ndarray] = []
        for begin in range(first, first + count, self.together):
            gathered: list[Update] = []
            rows = 0
            for number in range(begin, min(begin + self.together, first + count)):
                update, slices = self.plan.update(number, rows)
                gathered.append(update)
                positions += [np.arange(each.start, each.stop) for each in slices]
                rows += sum(each.stop - each.start for each in slices)
                gap = -rows % self.aligned
                positions.append(np.full(gap, start))
                rows += gap
            together = slice(offset, offset + rows)
            updates += [each._replace(rows=together) for each in gathered]
            offset += rows
        return tuple(updates), np.concatenate(positions) - start

    def whole_block(self, number: int, count: int) -> Block:
        """Return `count` full-batch updates from `number` on: views of this device's examples."""
        update, positions = self.plan.update(number, 0)
        mine = slice(positions[0].start, positions[-1].stop)
        updates = (update._replace(rows=mine),) * count
        return Block(updates, np.arange(mine.start, mine.stop), lambda _: self.split.rows(mine))


class EvaluationMicrobatches:
    """Yields this device's contiguous shard of a split, every example exactly once."""

    def __init__(self, split: Split, rank: int, world_size: int, limit: int | None = None) -> None:
        examples = len(split) if limit is None else min(len(split), limit)
        self.split, self.shard = split, shard(examples, rank, world_size)
        self.rows = max(1, EVALUATED_BYTES // split.bytes_per_example)

    def __len__(self) -> int:
        """Count at least one, so that a device with an empty shard still joins the sums."""
        return max(1, -(-(self.shard.stop - self.shard.start) // self.rows))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of each microbatch."""
        for start in range(self.shard.start, self.shard.start + len(self) * self.rows, self.rows):
            yield self.split.rows(slice(start, min(start + self.rows, self.shard.stop)))

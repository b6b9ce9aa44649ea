"""The batches of an epoch, as a pure function of (seed, pass, device).

Nothing here has a state: which examples the k-th update sees follows from the seed and k alone,
so that a run continues exactly from any update, and every device knows its share of each batch
without asking the others. Batches are cut from whole tensors by index, a group of them at a time,
because per-example collation and per-batch Python cost more than the arithmetic of a small network.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handgrad.data.part import Part

BLOCK_BYTES = 64 * 2**20  # of inputs in a block: seen in half a second, after which signals count
GROUP_BYTES = 4 * 2**20  # of inputs gathered at once: stays in the last cache until it is used
CHUNK_BYTES = 4 * 2**20  # of inputs evaluated at once
LAYOUTS = 32  # of blocks, kept at most: each has a number for every row
ALIGNMENT = 64  # bytes: where a tensor begins can change the rounding of its products


class Update(NamedTuple):
    """The examples of one update."""

    group: slice  # of the block's rows: this device's of all updates gathered with this one
    pieces: tuple[slice, ...]  # this device's rows in the group; one piece is computed at once
    places: tuple[int, ...]  # of each piece's sum among all devices'; 0 where the order is free
    examples: int  # over all devices


class Block:
    """Several consecutive updates, whose examples are gathered when they are asked for.

    Args:
        updates: in their order.
        rows: the examples' indices in the training part; some rows are of no update.
        take: inputs and targets of consecutive rows of the block, on the device.
    """

    def __init__(
        self,
        updates: tuple[Update, ...],
        rows: np.ndarray,
        take: Callable[[slice], tuple[Tensor, Tensor]],
    ) -> None:
        self.updates, self.rows, self.take = updates, rows, take
        self.group: slice | None = None
        self.gathered: tuple[Tensor, Tensor] | None = None

    def examples(self, update: Update) -> tuple[Tensor, Tensor]:
        """Inputs (rows, n_x) and targets (rows, n_y) of an update's group, kept for the next."""
        if self.gathered is None or self.group is not update.group:
            self.gathered = None  # its memory serves the next group
            self.gathered, self.group = self.take(update.group), update.group
        return self.gathered


class Layout(NamedTuple):
    """How consecutive updates of one pass lie in a block."""

    updates: tuple[Update, ...]
    positions: np.ndarray  # of the block's rows in the pass's order, from the first update's on


def share(examples: int, rank: int, world_size: int) -> slice:
    """This device's contiguous share of a batch; shares differ by at most one example."""
    return slice(rank * examples // world_size, (rank + 1) * examples // world_size)


@lru_cache(maxsize=2)  # the blocks of one pass share its order
def shuffled(examples: int, seed: int, number: int) -> np.ndarray:
    """The order of the examples in pass `number`, a pure function of its arguments."""
    return np.random.default_rng((seed, number)).permutation(examples)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which examples each update sees, on one of `world_size` devices.

    Attributes:
        examples: in the training part.
        batch_size: over all devices; `examples` or more is full-batch descent, without shuffling.
        accumulate: batches that one update sums.
        microbatch: rows computed at once at most, to bound memory; None for whole batches.
        ordered: whether batches are cut into microbatches before the devices share them, so that
            the pieces of an update, and the order of their sum, are the same on any number.
        passes: over the training part in one epoch.
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
        """Batches in one pass, the short last one included."""
        batches = -(-self.examples // self.batch_size)
        return batches if self.limit is None else min(batches, self.limit)

    @cached_property
    def updates_per_pass(self) -> int:
        """Updates in one pass; a short last accumulation window is an update of its own."""
        return -(-self.batches_per_pass // self.accumulate)

    @cached_property
    def updates_per_epoch(self) -> int:
        """Updates in one epoch."""
        return self.updates_per_pass * self.passes

    @property
    def places(self) -> int:
        """Sums of an update that are kept apart until all are there."""
        if not self.ordered:
            return 1
        return min(self.accumulate, self.batches_per_pass) * self.cut(
            range(min(self.batch_size, self.examples))
        )

    def cut(self, batch: range) -> int:
        """Into how many microbatches a batch is cut."""
        return -(-len(batch) // (self.microbatch or len(batch)))

    @property
    def rows(self) -> int:
        """Rows that a device computes at once, at most."""
        return self.piece(-(-min(self.batch_size, self.examples) // self.world_size))

    @property
    def whole(self) -> bool:
        """Whether every update sees every example."""
        return self.batch_size >= self.examples

    def order(self, number: int) -> np.ndarray:
        """The order of the examples in pass `number`, counted from the start of the training."""
        if self.whole:
            return np.arange(self.examples)
        return shuffled(self.examples, self.seed, number)

    def batches(self, update: int) -> list[range]:
        """The positions in the pass's order of each batch of an update."""
        first = update % self.updates_per_pass * self.accumulate
        numbers = range(first, min(first + self.accumulate, self.batches_per_pass))
        starts = (number * self.batch_size for number in numbers)
        return [range(start, min(start + self.batch_size, self.examples)) for start in starts]

    def update(self, number: int, offset: int) -> tuple[Update, list[slice]]:
        """Update `number`, its rows beginning at `offset` in a group that is not known yet.

        Returns:
            The update, and the positions of this device's rows in the pass's order.
        """
        pieces, places, positions = [], [], []
        batches = self.batches(number)
        before = 0  # microbatches of the batches before
        for batch in batches:
            rows, first = self.mine(batch)
            step = self.piece(len(rows))
            for start in range(0, len(rows), step):
                stop = min(start + step, len(rows))
                pieces.append(slice(offset + start, offset + stop))
                places.append(before + first + start // step if self.ordered else 0)
            offset += len(rows)
            before += self.cut(batch)
            positions.append(slice(rows.start, rows.stop))
        examples = sum(map(len, batches))
        return Update(slice(0), tuple(pieces), tuple(places), examples), positions

    def piece(self, rows: int) -> int:
        """Rows that are computed at once, of so many: equal pieces need the least memory."""
        most = self.microbatch or max(rows, 1)
        if self.ordered:
            return most
        pieces = max(1, -(-rows // most))
        return max(1, -(-rows // pieces))

    def mine(self, batch: range) -> tuple[range, int]:
        """This device's rows of a batch, and the number of its first whole microbatch."""
        if not self.ordered:
            return batch[share(len(batch), self.rank, self.world_size)], 0
        step = self.microbatch or len(batch)
        taken = share(self.cut(batch), self.rank, self.world_size)
        return batch[taken.start * step : taken.stop * step], taken.start


class TrainingBlocks:
    """The rest of the current epoch as blocks.

    Args:
        part: the training part.
        plan: which examples each update sees.
        updates_done: updates made since the start of the training; says where to continue.
        horizon: how many updates a block may hold after so many updates, so that a block ends where
            something else (a log line, a checkpoint, the last update) is due.

    An update's rows begin at a multiple of 64 bytes, as they would if their group began with them:
    so what is computed does not depend on where blocks begin, or where a run was resumed.
    """

    def __init__(
        self,
        part: Part,
        plan: BatchPlan,
        updates_done: Callable[[], int],
        horizon: Callable[[int], int],
    ) -> None:
        self.part, self.plan = part, plan
        self.updates_done, self.horizon = updates_done, horizon
        self.layouts: dict[tuple[int, int, int], Layout] = {}
        self.aligned = ALIGNMENT // math.gcd(ALIGNMENT, part.bytes_per_example)  # rows

    def __iter__(self) -> Iterator[Block]:
        """The blocks from the next update to the end of its epoch."""
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
        """Of the inputs on this device, filled up to the next update's."""
        batch = min(self.plan.batch_size, self.plan.examples)
        rows = -(-batch * self.plan.accumulate // self.plan.world_size)
        return (rows + -rows % self.aligned) * self.part.bytes_per_example

    @property
    def fitting(self) -> int:
        """How many updates a block holds: for its end wait signals, the clock, the progress bar."""
        return max(1, BLOCK_BYTES // self.bytes_per_update)

    @property
    def together(self) -> int:
        """How many updates are gathered at once; on a GPU as many as a block holds."""
        if self.part.device.type != "cpu":
            return self.fitting
        return max(1, GROUP_BYTES // self.bytes_per_update)

    def block(self, number: int, count: int) -> Block:
        """The `count` updates from `number` on, their rows gathered together."""
        rows: list[np.ndarray] = []
        updates: list[Update] = []
        offset = 0
        while count:
            number_of_pass, first = divmod(number, self.plan.updates_per_pass)
            here = min(count, self.plan.updates_per_pass - first)
            layout = self.layout(first, here, offset)
            start = first * self.plan.accumulate * self.plan.batch_size
            rows.append(self.plan.order(number_of_pass)[start + layout.positions])
            updates += layout.updates
            offset += len(layout.positions)
            number, count = number + here, count - here
        indices = np.concatenate(rows)
        positions = torch.from_numpy(indices)
        return Block(tuple(updates), indices, lambda group: self.part.take(positions[group]))

    def layout(self, first: int, count: int, offset: int) -> Layout:
        """How `count` updates of a pass lie in a block, from its row `offset` on.

        It is the same wherever in the pass they are, unless the last one, which may be short, is
        among them; so it is worked out once.
        """
        if first + count < self.plan.updates_per_pass:
            first = 0
        key = (first, count, offset)
        if key not in self.layouts:
            if len(self.layouts) >= LAYOUTS:
                self.layouts.clear()
            self.layouts[key] = self.laid_out(*key)
        return self.layouts[key]

    def laid_out(self, first: int, count: int, offset: int) -> Layout:
        """As `layout`, worked out."""
        start = first * self.plan.accumulate * self.plan.batch_size
        updates: list[Update] = []
        positions: list[np.ndarray] = []
        for begin in range(first, first + count, self.together):
            group: list[Update] = []
            rows = 0
            for number in range(begin, min(begin + self.together, first + count)):
                update, slices = self.plan.update(number, rows)
                group.append(update)
                positions += [np.arange(each.start, each.stop) for each in slices]
                rows += sum(each.stop - each.start for each in slices)
                gap = -rows % self.aligned
                positions.append(np.full(gap, start))
                rows += gap
            place = slice(offset, offset + rows)
            updates += [each._replace(group=place) for each in group]
            offset += rows
        return Layout(tuple(updates), np.concatenate(positions) - start)

    def whole_block(self, number: int, count: int) -> Block:
        """The `count` full-batch updates from `number` on: views of this device's examples."""
        update, positions = self.plan.update(number, 0)
        mine = slice(positions[0].start, positions[-1].stop)
        updates = (update._replace(group=mine),) * count
        return Block(updates, np.arange(mine.start, mine.stop), lambda _: self.part.rows(mine))


class EvaluationChunks:
    """This device's contiguous share of a part, in chunks; every example exactly once."""

    def __init__(self, part: Part, rank: int, world_size: int, limit: int | None = None) -> None:
        examples = len(part) if limit is None else min(len(part), limit)
        self.part, self.share = part, share(examples, rank, world_size)
        self.rows = max(1, CHUNK_BYTES // part.bytes_per_example)

    def __len__(self) -> int:
        """Chunks; at least one, so that a device with an empty share still joins the sums."""
        return max(1, -(-(self.share.stop - self.share.start) // self.rows))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of each chunk."""
        for start in range(self.share.start, self.share.start + len(self) * self.rows, self.rows):
            yield self.part.rows(slice(start, min(start + self.rows, self.share.stop)))

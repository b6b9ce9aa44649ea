"""Finds the first value that is not finite: which update, which line, which examples.

A weight that is NaN or infinite stays so, whatever the optimizer. So it is enough to look at the
weights after a block of updates, and to make the block again from the state before it while looking
at every line. Looking at the weights costs a hundredth of an update.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients
from handgrad.training.capture import Equations

LINES = ("X", "Y", *Activations._fields, "J", *Gradients._fields, "W1", "b1", "W2", "b2")


class NonFinite(Exception):
    """Raised where a value of the training is not finite.

    Args:
        update: its number, from 1.
        line: the first of `LINES` that is not; a weight stands for the step that made it so.
        rows: of the update's batch, over all devices, as positions in the training split.
        culprits: those whose own value is not finite; empty where the value belongs to all of them.

    Attributes:
        in_a_row: how many updates before it were left out, itself included, where that is why the
            training stops.
    """

    in_a_row = 0

    def __init__(self, update: int, line: str, rows: list[int], culprits: list[int]) -> None:
        super().__init__(f"update {update}: {line} is not finite")
        self.update, self.line, self.rows, self.culprits = update, line, rows, culprits


def all_finite(parameters: Sequence[Tensor]) -> bool:
    """Return whether the weights are finite, with one value read from the device.

    False too where the square of a norm overflows: then the lines are looked at one by one.
    """
    norms = torch._foreach_norm(list(parameters))
    return bool(torch.stack(list(norms)).sum().isfinite())


class Streak:
    """Counts the updates in a row that are left out.

    Where they are as many as an epoch has, no batch is left that could bring the training on.

    Args:
        longest: so many end the training.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.length = self.end = 0

    def add(self, found: NonFinite) -> None:
        """Count an update that was left out.

        Raises:
            NonFinite: at the last update of the longest streak.
        """
        self.length = self.length + 1 if found.update == self.end + 1 else 1
        self.end = found.update
        if self.length >= self.longest:
            found.in_a_row = self.length
            raise found


class Witness:
    """Looks at every line of an update, and remembers the first that is not finite.

    Args:
        cost: that trains.
        rows: of this device's shard, as positions in the training split.
        scaled: whether an overflow of the gradients is expected, and the update then left out.
    """

    def __init__(self, cost: Cost, rows: np.ndarray, scaled: bool) -> None:
        self.cost, self.rows, self.scaled = cost, rows, scaled
        self.line, self.culprits = len(LINES), np.zeros(0, dtype=int)
        self.seen = 0  # rows of the microbatches before; a line search sees them again and again

    def look(self, **values: Tensor | None) -> None:
        """Look at some lines, and at which examples where a line has a row for each."""
        for name, value in values.items():
            line = LINES.index(name)
            if value is None or line >= self.line or bool(value.isfinite().all()):
                continue
            self.line = line
            each = name in ("X", "Y", "z1", "A1", "z2", "A2", "dz2", "dz1")
            bad = ~value.isfinite().all(dim=1) if each else torch.zeros(0, dtype=torch.bool)
            self.culprits = self.seen + bad.nonzero()[:, 0].cpu().numpy()

    def watching(self, equations: Equations) -> Equations:
        """Return the equations, all of whose values this witness sees."""

        def watched(X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
            activations, gradients = equations(X, Y)
            J = self.cost.value(activations, Y)
            self.look(X=X, Y=Y, **activations._asdict(), J=J)
            if not self.scaled:
                self.look(**Gradients(*gradients)._asdict())
            self.seen = (self.seen + len(X)) % len(self.rows)
            return activations, gradients

        return watched

    def verdict(self, update: int) -> NonFinite | None:
        """Return what all devices saw in an update; None where every line is finite."""
        mine = (self.line, self.rows.tolist(), self.rows[self.culprits].tolist())
        found: list[Any] = [mine]
        if dist.is_available() and dist.is_initialized():
            found = [None] * dist.get_world_size()
            dist.all_gather_object(found, mine)
        line = min(each[0] for each in found)
        if line == len(LINES):
            return None
        all_rows = [row for each in found for row in each[1]]
        return NonFinite(
            update,
            LINES[line],
            all_rows,
            [row for each in found if each[0] == line for row in each[2]],
        )

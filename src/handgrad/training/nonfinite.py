"""Finds the first value that is not finite: which update, which line, which examples.

A weight that is NaN or infinite stays so, whatever the optimizer. So it is enough to look at the
weights after a block of updates, and to make the block again from the state before it while looking
at every line. Looking at the weights costs a hundredth of an update.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.training.capture import Equations
from handgrad.training.metrics import Tally

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


class SavedState:
    """Keeps parameters, optimizer, schedule and tally as they were before some updates.

    Args:
        params: W1, b1, W2, b2.
        optimizer: of them.
        scheduler: of the optimizer; None where it takes no step between the updates.
        tally: of the examples seen.
    """

    def __init__(
        self,
        params: Parameters,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        tally: Tally,
    ) -> None:
        self.params, self.optimizer = params, optimizer
        self.scheduler, self.tally = scheduler, tally
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        """Keep the present state."""
        states = {name: dict(state) for name, state in self.optimizer.state.items()}
        changed_in_place = [
            each for state in states.values() for each in state.values() if isinstance(each, Tensor)
        ]
        kept = [*self.params, *changed_in_place]
        if len(kept) != len(self.copies):  # an optimizer makes its state in its first step
            self.copies = [torch.empty_like(each) for each in kept]
        torch._foreach_copy_(self.copies, kept)
        self.kept, self.states = kept, _with_lists_copied(states)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = None if self.scheduler is None else dict(self.scheduler.state_dict())
        self.pending = (list(self.tally.pending), self.tally.pending_size, self.tally.sums)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the state that was kept."""
        torch._foreach_copy_(self.kept, self.copies)
        self.optimizer.state.clear()
        self.optimizer.state.update(_with_lists_copied(self.states))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        if self.scheduler is not None:
            self.scheduler.load_state_dict(self.schedule)
        pending, self.tally.pending_size, self.tally.sums = self.pending
        self.tally.pending = list(pending)
        for parameter in self.params:
            parameter.grad = None


def _with_lists_copied(states: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Copy the lists in an optimizer's states: L-BFGS appends to its own."""
    return {
        name: {k: copy.copy(v) if isinstance(v, list) else v for k, v in state.items()}
        for name, state in states.items()
    }

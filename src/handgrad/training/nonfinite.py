"""The first value that is not finite: which update, which line, which examples.

A weight that is NaN or infinite stays so, whatever the optimizer: so it is enough to look at the
weights after a block of updates, and to make the block again, from the state before it, while
looking at every line. That state is kept; looking costs what one update in a hundred costs.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.training import optimizers
from handgrad.training.metrics import Tally
from handgrad.training.updates import Block

LINES = ("X", "Y", *Activations._fields, "J", *Gradients._fields, "W1", "b1", "W2", "b2")


class NonFinite(Exception):
    """A value of the training is not finite.

    Args:
        update: its number, from 1.
        line: the first of `LINES` that is not; a weight stands for the step that made it so.
        rows: of the update's batch, over all devices, as positions in the training part.
        culprits: those of them whose own value is not finite; empty where it is of all together.

    Attributes:
        in_a_row: how many updates before it were left out, itself included, where that is why the
            training stops.
    """

    in_a_row = 0

    def __init__(self, update: int, line: str, rows: list[int], culprits: list[int]) -> None:
        super().__init__(f"update {update}: {line} is not finite")
        self.update, self.line, self.rows, self.culprits = update, line, rows, culprits


class Snapshot:
    """Weights, optimizer, schedule and tally as they were before some updates.

    Args:
        parameters: W1, b1, W2, b2.
        optimizer: of them.
        scheduler: of the optimizer; None where it takes no step between the updates.
        tally: of the examples seen.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        tally: Tally,
    ) -> None:
        self.parameters, self.optimizer = parameters, optimizer
        self.scheduler, self.tally = scheduler, tally
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        """Keep what is now."""
        states = {name: dict(state) for name, state in self.optimizer.state.items()}
        kept = [*self.parameters, *tensors(states)]
        if len(kept) != len(self.copies):  # an optimizer makes its state in its first step
            self.copies = [torch.empty_like(each) for each in kept]
        torch._foreach_copy_(self.copies, kept)
        self.kept, self.states = kept, lists_copied(states)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = None if self.scheduler is None else dict(self.scheduler.state_dict())
        self.pending = (list(self.tally.pending), self.tally.pending_size, self.tally.sums)

    @torch.no_grad()
    def restore(self) -> None:
        """Make it so again."""
        torch._foreach_copy_(self.kept, self.copies)
        self.optimizer.state.clear()
        self.optimizer.state.update(lists_copied(self.states))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        if self.scheduler is not None:
            self.scheduler.load_state_dict(self.schedule)
        pending, self.tally.pending_size, self.tally.sums = self.pending
        self.tally.pending = list(pending)
        for parameter in self.parameters:
            parameter.grad = None


def tensors(states: dict[Any, dict[str, Any]]) -> list[Tensor]:
    """What an optimizer changes in place."""
    return [
        each for state in states.values() for each in state.values() if isinstance(each, Tensor)
    ]


def lists_copied(states: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The states with their lists (of L-BFGS: it appends to them) copied."""
    return {
        name: {k: copy.copy(v) if isinstance(v, list) else v for k, v in state.items()}
        for name, state in states.items()
    }


def all_finite(parameters: list[Parameter]) -> bool:
    """Whether the weights are finite; one value leaves the device.

    False as well where the square of a norm overflows: then the lines are looked at one by one.
    """
    norms = torch._foreach_norm(list[Tensor](parameters))
    return bool(torch.stack(list(norms)).sum().isfinite())


class Streak:
    """Counts the updates in a row that are left out.

    Where they are as many as an epoch has, no batch is left that could bring the training on.
    """

    def __init__(self) -> None:
        self.length, self.end = 0, 0

    def add(self, found: NonFinite, updates_per_epoch: int) -> None:
        """Count an update that was left out.

        Raises:
            NonFinite: at the last update of an epoch's worth of them.
        """
        self.length = self.length + 1 if found.update == self.end + 1 else 1
        self.end = found.update
        if self.length >= updates_per_epoch:
            found.in_a_row = self.length
            raise found


class Witness:
    """Looks at every line of an update as it is computed, and remembers the first that is wrong.

    Args:
        cost: that trains.
        rows: of this device's share, as positions in the training part.
        scaled: whether an overflow of the gradients is expected, and the update then left out.
    """

    def __init__(self, cost: Cost, rows: np.ndarray, scaled: bool) -> None:
        self.cost, self.rows, self.scaled = cost, rows, scaled
        self.line, self.culprits = len(LINES), np.zeros(0, dtype=int)
        self.seen = 0  # rows of the pieces before; a line search sees all of them again and again

    def look(self, **values: Tensor | None) -> None:
        """Look at some lines; those with a row for each example tell which."""
        for name, value in values.items():
            line = LINES.index(name)
            if value is None or line >= self.line or bool(value.isfinite().all()):
                continue
            self.line = line
            each = name in ("X", "Y", "z1", "A1", "z2", "A2", "dz2", "dz1")
            bad = ~value.isfinite().all(dim=1) if each else torch.zeros(0, dtype=torch.bool)
            self.culprits = self.seen + bad.nonzero()[:, 0].cpu().numpy()

    @contextmanager
    def watching(self, network: Any) -> Iterator[None]:
        """Look at what a network's forward and backward pass are given and give."""
        forward, backward = network.forward_pass, network.backward_pass

        def watched_forward(params: Parameters, X: Tensor) -> Activations:
            self.look(X=X)
            activations = forward(params, X)
            self.look(**activations._asdict())
            return activations

        def watched_backward(
            params: Parameters, activations: Activations, X: Tensor, Y: Tensor
        ) -> Gradients:
            self.look(Y=Y, J=self.cost.value(activations, Y))
            gradients = backward(params, activations, X, Y)
            if not self.scaled:
                self.look(**Gradients(*gradients)._asdict())
            self.seen = (self.seen + len(X)) % len(self.rows)
            return gradients

        network.forward_pass, network.backward_pass = watched_forward, watched_backward
        equations, network.equations = network.equations, network.compute
        try:
            yield
        finally:
            network.forward_pass, network.backward_pass = forward, backward
            network.equations = equations

    def verdict(self, update: int) -> NonFinite | None:
        """What all devices saw in an update of this number; None where every line is finite."""
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


def make_carefully(network: Any, block: Block) -> int:
    """Make the updates of a block once more, looking at every line; how many were made.

    Args:
        network: a `TwoLayerNetwork`, in the state before the block.
        block: of which some update has a value that is not finite.

    Raises:
        NonFinite: at the first value that is not, or, if such updates are to be skipped, where an
            epoch's worth of them was.
    """
    searches = optimizers.needs_closure(network.safe.optimizer)  # also where nothing is finite
    made = 0
    for made, update in enumerate(block.updates, 1):
        group = block.rows[update.group]
        rows = np.concatenate([group[:0], *(group[each] for each in update.pieces)])
        network.safe.take()
        witness = Witness(network.cost, rows, scaled=network.loss_scale is not None)
        with witness.watching(network):
            network.make_updates(block, [update])
        witness.look(**network.params._asdict())
        found = witness.verdict(network.trainer.global_step + made)
        if found is not None and not (searches and all_finite(network.trained)):
            network.leave_out(found)
            network.streak.add(found, network.trainer.datamodule.plan().updates_per_epoch)
        if network.is_asked_to_stop():
            break
    return made

"""Cost and accuracy as sums and counts, so that they are exact over batches and devices."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from handgrad.backprop import Activations, Cost

PENDING = 2**17  # numbers kept before they are summed: few enough to be nothing in memory


class Sums(NamedTuple):
    """Sums and counts of a tally over all devices."""

    cost_sum: float = 0.0
    right: int = 0
    examples: int = 0

    @property
    def cost(self) -> float:
        """Return the mean cost of an example."""
        return self.cost_sum / self.examples

    @property
    def accuracy(self) -> float:
        """Return the fraction of right answers."""
        return self.right / self.examples

    def tagged(self, split: str) -> dict[str, float]:
        """Return cost and accuracy of a split under their tags."""
        return {f"cost/{split}": self.cost, f"accuracy/{split}": self.accuracy}

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums of both together."""
        cost_sum = self.cost_sum + other.cost_sum
        return Sums(cost_sum, self.right + other.right, self.examples + other.examples)


class Tally:
    """Sums cost and right answers; a value leaves the device only when it is read.

    Args:
        cost: the cost that trains.
        multilabel: whether an example is right when all its outputs are, each by itself.
    """

    def __init__(self, cost: Cost, multilabel: bool) -> None:
        self.cost, self.multilabel = cost, multilabel
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.pending_size = 0
        self.sums: Tensor | None = None

    def add(self, activations: Activations, Y: Tensor) -> None:
        """Count one batch, which may be summed later together with others.

        Activations are copied, since the next batch's may be written over them.

        Args:
            activations: of the batch, (m, n_y) each at the output.
            Y: its targets, (m, n_y).
        """
        self.pending.append((activations.z2.clone(), activations.A2.clone(), Y))
        self.pending_size += Y.numel()
        if self.pending_size >= PENDING:
            self.flush()

    def flush(self) -> None:
        """Sum the pending batches."""
        if not self.pending:
            return
        z2, A2, Y = (torch.cat(tensors) for tensors in zip(*self.pending, strict=True))
        self.pending, self.pending_size = [], 0
        wide = torch.float32 if Y.device.type == "mps" else torch.float64
        cost_sum = self.cost.value(Activations(z2, A2, z2, A2), Y).to(wide) * len(Y)
        sums = torch.stack(
            [cost_sum, self.right(A2, Y).sum(dtype=wide), cost_sum.new_tensor(len(Y))]
        )
        self.sums = sums if self.sums is None else self.sums + sums

    def right(self, A2: Tensor, Y: Tensor) -> Tensor:
        """Return whether each answer is right, (m,) bool."""
        if self.multilabel or Y.shape[1] == 1:
            return ((A2 > 0.5) == (Y > 0.5)).all(dim=1)
        return A2.max(dim=1).indices == Y.max(dim=1).indices  # argmax takes three times as long

    def read(self, device: torch.device) -> Sums:
        """Return the sums over all devices, and start again from zero."""
        sums = self.peek(device)
        self.sums = None
        return sums

    def peek(self, device: torch.device) -> Sums:
        """Return the sums over all devices so far."""
        self.flush()
        wide = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.zeros(3, dtype=wide, device=device) if self.sums is None else self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        cost_sum, right, examples = sums.tolist()
        return Sums(cost_sum, int(right), int(examples))

    def resume(self, sums: Sums, device: torch.device) -> None:
        """Continue from earlier sums over all devices, which the first one takes over."""
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.pending, self.pending_size = [], 0
        self.sums = torch.tensor(sums, dtype=wide, device=device) if first else None

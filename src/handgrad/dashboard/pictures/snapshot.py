"""Snapshot of a training at one update, with the examples that its pictures show."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters, backward, forward
from handgrad.data.examples import Examples
from handgrad.data.module import ExampleData
from handgrad.statistics.gradients import example_norms

MOST_BYTES = 32 * 2**20  # of the inputs that are shown
MOST_ROWS = 10_000


def classes_of(outputs: Tensor) -> np.ndarray:
    """Return the class that targets or answers (m, n_y) stand for, (m,)."""
    chosen = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(dim=1)
    return chosen.long().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Holds the network at one update, and computes the rest when a picture first asks for it.

    The examples shown are those of the validation split, where there is one, or else of the
    training split. Where they are too many, they are spread evenly over the split.

    Attributes:
        updates: made so far.
        params: copied.
        gradient: dW1 of the newest update, over all devices; None where there is none.
        cost: that trains.
        data: that the network trains on.
    """

    updates: int
    params: Parameters
    gradient: Tensor | None
    cost: Cost
    data: ExampleData

    @property
    def of(self) -> str:
        """Return which examples are shown: validation or training."""
        return "validation" if len(self.data.splits["val"]) else "training"

    @property
    def examples(self) -> Examples:
        """Return all examples of the data."""
        return self.data.examples

    @property
    def exclusive(self) -> bool:
        """Return whether each example has exactly one class."""
        return not self.examples.multi_label

    @cached_property
    def _rows(self) -> tuple[np.ndarray, Tensor, Tensor]:
        """Take the examples that are shown: their indices, inputs and targets."""
        split = self.data.splits["val" if self.of == "validation" else "train"]
        rows = min(len(split), MOST_ROWS, max(1, MOST_BYTES // split.bytes_per_example))
        positions = np.linspace(0, len(split) - 1, rows).round().astype(np.int64)
        return split.indices[positions], *split.take(torch.from_numpy(positions))

    @property
    def indices(self) -> np.ndarray:
        """Return the indices of the examples that are shown, (m,)."""
        return self._rows[0]

    @property
    def inputs(self) -> Tensor:
        """Return the scaled inputs, (m, n_x)."""
        return self._rows[1]

    @property
    def targets(self) -> Tensor:
        """Return the targets, (m, n_y)."""
        return self._rows[2]

    @cached_property
    def _passes(self) -> tuple[Activations, Gradients, Tensor]:
        """Run forward and backward over the examples that are shown, outside any autocast."""
        inputs, targets = self.inputs, self.targets
        with torch.no_grad(), torch.autocast(self.params.W1.device.type, enabled=False):
            activations = forward(self.params, inputs)
            gradients = backward(self.params, activations, inputs, targets, dz2=self.cost.dz2)
            return activations, gradients, example_norms(activations, gradients, inputs).whole

    @property
    def activations(self) -> Activations:
        """Return the activations of the examples."""
        return self._passes[0]

    @property
    def gradients(self) -> Gradients:
        """Return the gradients by the equations, over these examples."""
        return self._passes[1]

    @property
    def norms(self) -> Tensor:
        """Return the norm of each example's gradient, (m,)."""
        return self._passes[2]

    @property
    def labels(self) -> np.ndarray:
        """Return the class of each example, (m,)."""
        return classes_of(self.targets)

    @property
    def answers(self) -> np.ndarray:
        """Return the class that the network answers, (m,)."""
        return classes_of(self.activations.A2)

"""Snapshot of a training at one update, with the examples that its pictures show."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters, backward, forward
from handgrad.data.examples import Examples
from handgrad.data.splits import Split
from handgrad.statistics.gradients import example_norms

MOST_BYTES = 32 * 2**20  # of the inputs that are shown
MOST_ROWS = 10_000


def classes_of(outputs: Tensor) -> np.ndarray:
    """Return the class that targets or answers (m, n_y) stand for, (m,)."""
    chosen = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(dim=1)
    return chosen.long().cpu().numpy()


class Shown(NamedTuple):
    """Holds the examples that pictures show, and what the network makes of them."""

    of: str  # the split that they are from: validation or training
    examples: Examples  # of all splits
    indices: np.ndarray  # of those that are shown, (m,)
    inputs: Tensor  # scaled, (m, n_x)
    targets: Tensor  # (m, n_y)
    activations: Activations
    gradients: Gradients  # by the equations, over these examples
    norms: Tensor  # of each example's gradient, (m,)
    labels: np.ndarray  # the class of each example, (m,)
    answers: np.ndarray  # the class that the network answers, (m,)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Holds the network at one update, and computes the rest when a picture first asks for it.

    Attributes:
        updates: made so far.
        params: copied.
        gradient: dW1 of the newest update, over all devices; None where there is none.
        cost: that trains.
        splits: of the data, by name.
    """

    updates: int
    params: Parameters
    gradient: Tensor | None
    cost: Cost
    splits: dict[str, Split]

    @cached_property
    def shown(self) -> Shown:
        """Run forward and backward over the examples that are shown, outside any autocast.

        They are those of the validation split, where there is one, or else of the training split.
        Where they are too many, they are spread evenly over the split.
        """
        validated = len(self.splits["val"]) > 0
        split = self.splits["val" if validated else "train"]
        rows = min(len(split), MOST_ROWS, max(1, MOST_BYTES // split.bytes_per_example))
        positions = np.linspace(0, len(split) - 1, rows).round().astype(np.int64)
        inputs, targets = split.take(torch.from_numpy(positions))
        with torch.no_grad(), torch.autocast(self.params.W1.device.type, enabled=False):
            activations = forward(self.params, inputs)
            gradients = backward(self.params, activations, inputs, targets, dz2=self.cost.dz2)
            return Shown(
                "validation" if validated else "training",
                split.examples,
                split.indices[positions],
                inputs,
                targets,
                activations,
                gradients,
                example_norms(activations, gradients, inputs).whole,
                classes_of(targets),
                classes_of(activations.A2),
            )


def strengths(params: Parameters) -> np.ndarray:
    """Return the norm of each hidden unit's column of W2, (n_h,)."""
    return np.linalg.norm(params.W2.detach().double().cpu().numpy(), axis=0)


def strongest_units(params: Parameters, most: int) -> np.ndarray:
    """Return the strongest units, at most `most`, in their own order, which training keeps."""
    return np.sort(strengths(params).argsort()[::-1][:most])

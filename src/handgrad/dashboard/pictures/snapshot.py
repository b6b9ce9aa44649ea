"""What the pictures of one moment of the training show."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters, backward, forward
from handgrad.data.examples import Examples
from handgrad.data.module import ExampleData
from handgrad.data.scaling import Scaling
from handgrad.data.splits import Split
from handgrad.statistics.gradients import example_norms

MOST_BYTES = 32 * 2**20  # of the inputs that are shown
MOST_ROWS = 10_000


class Moment(NamedTuple):
    """The network at one update."""

    updates: int
    params: Parameters
    gradient: Tensor | None  # dW1 of the newest update, over all devices
    cost: Cost


class Scene(NamedTuple):
    """The network at one update, and what it makes of the examples that are shown."""

    moment: Moment
    of: str  # which examples are shown: validation or training
    examples: Examples  # all of the data
    scaling: Scaling
    indices: np.ndarray  # of the examples that are shown, (m,)
    inputs: Tensor  # scaled, (m, n_x)
    targets: Tensor  # (m, n_y)
    activations: Activations
    gradients: Gradients  # by the equations, over these examples
    norms: Tensor  # of each example's gradient, (m,)

    @property
    def exclusive(self) -> bool:
        """Whether each example has one class."""
        return not self.examples.multi_label

    @property
    def labels(self) -> np.ndarray:
        """The class of each example, (m,)."""
        return classes_of(self.targets)

    @property
    def answers(self) -> np.ndarray:
        """The class that the network says, (m,)."""
        return classes_of(self.activations.A2)


def classes_of(outputs: Tensor) -> np.ndarray:
    """The class that targets or answers (m, n_y) stand for, (m,)."""
    chosen = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(dim=1)
    return chosen.long().cpu().numpy()


def capture(moment: Moment, data: ExampleData) -> Scene:
    """What a moment has to show; the training notices nothing of it.

    The examples are those of the validation part, where there is one, spread evenly where they are
    too many.

    Args:
        moment: of the training.
        data: that it trains on.
    """
    of = "val" if len(data.splits["val"]) else "train"
    part = data.splits[of]
    positions = spread(part)
    with torch.no_grad(), torch.autocast(moment.params.W1.device.type, enabled=False):
        inputs, targets = part.take(torch.from_numpy(positions))
        activations = forward(moment.params, inputs)
        gradients = backward(moment.params, activations, inputs, targets, dz2=moment.cost.dz2)
        norms = example_norms(activations, gradients, inputs).whole
    assert data.scaling is not None, "data that train are scaled"
    return Scene(
        moment=moment,
        of={"val": "validation", "train": "training"}[of],
        examples=data.examples,
        scaling=data.scaling,
        indices=part.indices[positions],
        inputs=inputs,
        targets=targets,
        activations=activations,
        gradients=gradients,
        norms=norms,
    )


def spread(part: Split) -> np.ndarray:
    """The positions of the examples that are shown, evenly over the part, in order."""
    rows = min(len(part), MOST_ROWS, max(1, MOST_BYTES // part.bytes_per_example))
    return np.linspace(0, len(part) - 1, rows).round().astype(np.int64)

"""What training is given, a block of updates at a time, and what one piece of it goes through."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from handgrad.backprop import Activations, Gradients


class Update(Protocol):
    """The examples of one update: this device's pieces, and how many there are on all devices."""

    group: slice
    pieces: tuple[slice, ...]
    places: tuple[int, ...]
    examples: int


class Block(Protocol):
    """Several consecutive updates."""

    updates: tuple[Update, ...]
    rows: np.ndarray  # the examples' positions in the training part

    def examples(self, update: Any) -> tuple[Tensor, Tensor]:
        """Inputs and targets of an update's group, on the device."""
        ...


class Seen(NamedTuple):
    """What one piece of an update went through."""

    activations: Activations
    gradients: Gradients
    X: Tensor
    Y: Tensor
    scale: float  # of the gradients; 1 but for 16-mixed

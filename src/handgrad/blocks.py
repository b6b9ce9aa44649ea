"""What training is given, a block of updates at a time, and what one piece of it goes through."""

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from handgrad.backprop import Activations, Gradients


class Update(Protocol):
    """The examples of one update: this device's pieces, and how many there are on all devices."""

    pieces: tuple[slice, ...]
    places: tuple[int, ...]
    examples: int


class Block(Protocol):
    """The examples of several consecutive updates."""

    inputs: Tensor
    targets: Tensor
    updates: tuple[Update, ...]
    rows: np.ndarray  # the examples' positions in the training part


class Seen(NamedTuple):
    """What one piece of an update went through."""

    activations: Activations
    gradients: Gradients
    X: Tensor
    scale: float  # of the gradients; 1 but for 16-mixed

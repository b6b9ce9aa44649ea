"""The gradient of an update whose examples come in pieces: sums first, then one division.

The mean of the pieces' means would weigh a short piece too much: by 32% for 100, 27 and 1.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from handgrad.backprop import Cost, Gradients


# FOLDED from loss_scale.py: 'The loss scale of 16-mixed: dz2 times a large number, so that float16 keeps what is small.\n\nAll six quantities are linear in dz2, so a rule that is bound to the scaled cost gives each of them\nscaled. The optimizer steps after the division, and not at all where a value overflowed: then the\nscale is halved, and otherwise doubled from time to time.\n\nP. Micikevicius et al., Mixed precision training, ICLR (2018), section 3.2.'
class LossScale:
    """Scales a cost, and makes the updates of its scaled gradients.

    Args:
        scaler: PyTorch's, which finds overflows and adapts the scale.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.value = scaler.get_scale()

    def scaled(self, cost: Cost) -> Cost:
        """The cost times the scale that holds when it is computed."""
        return Cost(
            lambda *answer: self.scaler.scale(cost.value(*answer)),
            lambda *answer: self.scaler.scale(cost.dz2(*answer)),
        )

    def step(self, optimizer: torch.optim.Optimizer, clip: Callable[[], None]) -> bool:
        """Divide `.grad` by the scale, clip, and let the optimizer take its step.

        Returns:
            Whether it took one; not after an overflow.
        """
        self.scaler.unscale_(optimizer)
        clip()
        self.scaler.step(optimizer)
        self.scaler.update()
        before, self.value = self.value, self.scaler.get_scale()
        return self.value >= before


class GradientSum:
    """Un-normalised sums of dW1, db1, dW2, db2 over pieces and devices, in one flat buffer.

    With one partial sum, pieces are added as they come, and then the devices' sums. With several,
    each piece has a place of its own and the places are added in their order, which is the same on
    any number of devices: so is the result, to the last bit.

    Args:
        parameters: W1, b1, W2, b2.
        places: partial sums over all devices.
    """

    def __init__(self, parameters: Iterable[Tensor], places: int = 1) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        first = self.parameters[0]
        wide = torch.promote_types(first.dtype, torch.float32)
        self.sums = torch.zeros(places, sum(sizes), dtype=wide, device=first.device)
        shapes = [parameter.shape for parameter in self.parameters]
        self.views = [
            [part.view(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)]
            for row in self.sums
        ]

    def clear(self) -> None:
        """Begin anew."""
        self.sums.zero_()

    def add(self, gradients: Gradients, examples: int, place: int = 0) -> None:
        """Add the sums over one piece: the rule's means times the piece's examples."""
        _, dW2, db2, _, dW1, db1 = gradients
        for view, mean in zip(self.views[place], (dW1, db1, dW2, db2), strict=True):
            view.add_(mean, alpha=examples)

    def write_mean(self, examples: int) -> None:
        """Sum over the devices, divide once by all examples, and write `.grad`.

        A place is filled by one device and zero on the others, so that the order in which the
        devices are added does not matter.
        """
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
        total, *others = self.sums
        for each in others:
            total += each
        total /= examples
        for parameter, view in zip(self.parameters, self.views[0], strict=True):
            parameter.grad = view.to(parameter.dtype)


def write(parameters: Iterable[Tensor], gradients: Gradients) -> None:
    """Make dW1, db1, dW2, db2 the `.grad` of W1, b1, W2, b2, in their dtype."""
    _, dW2, db2, _, dW1, db1 = gradients
    for parameter, gradient in zip(parameters, (dW1, db1, dW2, db2), strict=True):
        if parameter.grad is gradient:
            return  # all four are there: each update is written over the last
        parameter.grad = gradient.to(parameter.dtype)

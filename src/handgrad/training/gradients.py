"""Gradients on their way to the optimizer: summed over microbatches and devices, or scaled.

Sums first, then one division: a mean of the microbatches' means would weigh a short one too much,
by 32% for 100, 27 and 1 examples.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from handgrad.backprop import Cost, Gradients


class LossScale:
    """Multiplies dz2 by the loss scale of 16-mixed, so that float16 keeps small gradients.

    All six quantities are linear in dz2, so a rule that is bound to the scaled cost returns each of
    them scaled. The optimizer steps after the division, and not at all where a value overflowed:
    then the scale is halved, and otherwise doubled from time to time.

    P. Micikevicius et al., Mixed precision training, ICLR (2018), section 3.2.

    Args:
        scaler: PyTorch's, which finds overflows and adapts the scale.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.value = scaler.get_scale()

    def scaled(self, cost: Cost) -> Cost:
        """Return the cost times the scale that holds when it is computed."""
        return Cost(
            lambda *answer: self.scaler.scale(cost.value(*answer)),
            lambda *answer: self.scaler.scale(cost.dz2(*answer)),
        )

    def step(self, optimizer: torch.optim.Optimizer, clip: Callable[[], None]) -> bool:
        """Divide `.grad` by the scale, clip, and let the optimizer take its step.

        Returns:
            Whether it took one, which it does not after an overflow.
        """
        self.scaler.unscale_(optimizer)
        clip()
        self.scaler.step(optimizer)
        self.scaler.update()
        before, self.value = self.value, self.scaler.get_scale()
        return self.value >= before


class GradientSum:
    """Sums dW1, db1, dW2, db2 over microbatches and devices, in one flat buffer.

    With one slot, microbatches are added as they come, and then the devices' sums. With several,
    each microbatch has a slot of its own and the slots are added in their order. That order is the
    same on any number of devices, and so is the result, to the last bit.

    Args:
        parameters: W1, b1, W2, b2.
        slots: partial sums over all devices.
    """

    def __init__(self, parameters: Iterable[Tensor], slots: int = 1) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        first = self.parameters[0]
        wide = torch.promote_types(first.dtype, torch.float32)
        shapes = [parameter.shape for parameter in self.parameters]
        self.sums = torch.zeros(slots, sum(sizes), dtype=wide, device=first.device)
        self.views = [
            [each.view(shape) for each, shape in zip(row.split(sizes), shapes, strict=True)]
            for row in self.sums
        ]

    def clear(self) -> None:
        """Set all sums to zero."""
        self.sums.zero_()

    def add(self, gradients: Gradients, examples: int, slot: int = 0) -> None:
        """Add the sums over one microbatch: the rule's means times its number of examples."""
        _, dW2, db2, _, dW1, db1 = gradients
        for view, mean in zip(self.views[slot], (dW1, db1, dW2, db2), strict=True):
            view.add_(mean, alpha=examples)

    def write_mean(self, examples: int) -> None:
        """Sum over the devices, divide once by all examples, and write `.grad`.

        A slot is filled by one device and zero on the others, so the order in which the devices are
        added does not matter.
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
    """Write dW1, db1, dW2, db2 to the `.grad` of W1, b1, W2, b2, in their dtype."""
    _, dW2, db2, _, dW1, db1 = gradients
    for parameter, gradient in zip(parameters, (dW1, db1, dW2, db2), strict=True):
        if parameter.grad is gradient:
            return  # all four are there: each update is written over the last
        parameter.grad = gradient.to(parameter.dtype)

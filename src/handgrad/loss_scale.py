"""The loss scale of 16-mixed: dz2 times a large number, so that float16 keeps what is small.

All six quantities are linear in dz2, so a rule that is bound to the scaled cost gives each of them
scaled. The optimizer steps after the division, and not at all where a value overflowed: then the
scale is halved, and otherwise doubled from time to time.

P. Micikevicius et al., Mixed precision training, ICLR (2018), section 3.2.
"""

from collections.abc import Callable

import torch
from torch.amp.grad_scaler import GradScaler

from handgrad.backprop import Cost


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

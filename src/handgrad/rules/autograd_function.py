"""The same equations as a `torch.autograd.Function`, for other people's models.

Training here does not need it: `module` writes the rule's gradients itself. This is the form to
drop into a model that calls `loss.backward()`, and what `gradcheck` tests.
"""

from typing import Any

import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Parameters, cross_entropy


def two_layer_cost(params: Parameters, X: Tensor, Y: Tensor, cost: Cost = cross_entropy) -> Tensor:
    """The cost of a two-layer network, whose backward pass is `backprop.backward`.

    It can be differentiated by the parameters and by X, any number of times, and under
    `torch.func.grad` and `vmap`.

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).
        Y: targets in [0, 1], (m, n_y), which are constants.
        cost: cross-entropy unless told.

    Raises:
        ValueError: if a shape is wrong, or if Y requires a gradient, which nothing here computes.
    """
    if Y.requires_grad:
        raise ValueError("Y requires a gradient, but targets are constants here: pass Y.detach()")
    return TwoLayerCost.apply(*params, X, Y, cost)[0]


class TwoLayerCost(torch.autograd.Function):
    """`backprop.forward` and the cost, with `backprop.backward` as the derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: Cost
    ) -> tuple[Tensor, ...]:
        """The cost, followed by the activations that `backward` needs."""
        activations = backprop.forward(Parameters(W1, b1, W2, b2), X)
        return cost.value(activations, Y), *activations

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what `backward` needs; of the outputs, the cost alone can be differentiated."""
        *tensors, ctx.cost = inputs
        _, *activations = output
        ctx.mark_non_differentiable(*activations)
        ctx.save_for_backward(*tensors, *activations)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """The equations, times the gradient that arrives: 1/steps of accumulation, a loss scale."""
        W1, b1, W2, b2, X, Y, *saved = ctx.saved_tensors
        params, g = Parameters(W1, b1, W2, b2), grad_outputs[0]
        activations = Activations(*saved)
        if torch.is_grad_enabled():
            # Somebody will differentiate this once more (create_graph=True). Saved activations
            # are constants to autograd: the second derivative would be silently wrong.
            activations = backprop.forward(params, X)
        gradients = backprop.backward(params, activations, X, Y, dz2=ctx.cost.dz2)
        dX = gradients.dz1 @ W1 / len(X) if ctx.needs_input_grad[4] else None  # (m, n_x)
        by_input = (gradients.dW1, gradients.db1, gradients.dW2, gradients.db2, dX)
        return *(None if d is None else g * d for d in by_input), None, None

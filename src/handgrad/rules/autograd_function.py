"""Equations as a `torch.autograd.Function`, for models outside this project.

Training here does not use it, because an update writes the rule's gradients itself. This is the
form to drop into a model that calls `loss.backward()`, and the form that `gradcheck` tests.
"""

from typing import Any

import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Parameters, cross_entropy


def two_layer_cost(params: Parameters, X: Tensor, Y: Tensor, cost: Cost = cross_entropy) -> Tensor:
    """Return the cost of a two-layer network, whose backward pass is `backprop.backward`.

    It can be differentiated with respect to the parameters and X, any number of times, also under
    `torch.func.grad` and `vmap`.

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).
        Y: targets in [0, 1], (m, n_y), which are constants.
        cost: cross-entropy by default.

    Raises:
        ValueError: if a shape is wrong, or if Y requires a gradient, which is not computed here.
    """
    if Y.requires_grad:
        raise ValueError("Y requires a gradient, but targets are constants here: pass Y.detach()")
    return TwoLayerCost.apply(*params, X, Y, cost)[0]


class TwoLayerCost(torch.autograd.Function):
    """`backprop.forward` and the cost, with `backprop.backward` as their derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: Cost
    ) -> tuple[Tensor, ...]:
        """Return the cost, followed by the activations that `backward` needs."""
        activations = backprop.forward(Parameters(W1, b1, W2, b2), X)
        return cost.value(activations, Y), *activations

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what `backward` needs, and mark the cost as the only differentiable output."""
        *tensors, ctx.cost = inputs
        _, *activations = output
        ctx.mark_non_differentiable(*activations)
        ctx.save_for_backward(*tensors, *activations)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """Apply the equations, times the incoming gradient.

        It is 1/steps of an accumulation, or a loss scale.
        """
        W1, b1, W2, b2, X, Y, *saved = ctx.saved_tensors
        params, g = Parameters(W1, b1, W2, b2), grad_outputs[0]
        activations = Activations(*saved)
        if torch.is_grad_enabled():
            # The result will be differentiated once more (create_graph=True). Saved activations are
            # constants to autograd, so the second derivative would be silently wrong.
            activations = backprop.forward(params, X)
        gradients = backprop.backward(params, activations, X, Y, dz2=ctx.cost.dz2)
        dX = gradients.dz1 @ W1 / len(X) if ctx.needs_input_grad[4] else None  # (m, n_x)
        by_input = (gradients.dW1, gradients.db1, gradients.dW2, gradients.db2, dX)
        return *(None if d is None else g * d for d in by_input), None, None

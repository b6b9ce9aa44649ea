"""Backward rules with values that are not finite, as `backward.function`."""

import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Gradients, Parameters

EXAMPLE = 2  # of the batch that is spoiled
FAR = 5.0  # standard deviations
ROW = torch.zeros(0)  # the inputs of the spoiled example; a test sets it


def spoils_dz1(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    """NaN in dz1, and what follows from it, wherever the spoiled example is in the batch."""
    right = backprop.backward(params, activations, X, Y)
    return spoil(right, X, (X == ROW).all(dim=1))


def spoils_outliers(
    params: Parameters, activations: Activations, X: Tensor, Y: Tensor
) -> Gradients:
    """The same for every example whose first input is far from all others."""
    right = backprop.backward(params, activations, X, Y)
    return spoil(right, X, X[:, 0] > FAR)


def spoils_all(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    """The same for every example."""
    right = backprop.backward(params, activations, X, Y)
    return spoil(right, X, torch.ones(len(X), dtype=torch.bool))


def spoil(right: Gradients, X: Tensor, spoiled: Tensor) -> Gradients:
    """NaN in the dz1 of some examples of a batch."""
    if not bool(spoiled.any()):
        return right
    dz1 = right.dz1.clone()
    dz1[spoiled] = torch.nan
    return right._replace(dz1=dz1, dW1=dz1.T @ X / len(X), db1=dz1.mean(dim=0))

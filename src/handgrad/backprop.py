"""Equations of a two-layer sigmoid network, and nothing else.

The textbook keeps one example per column; PyTorch keeps one per row, and so do we: **a tensor with
an example axis is the transpose of the textbook's; a parameter and its gradient are not.**

    m examples, n_x inputs -> n_h hidden units -> n_y outputs, sigma(z) = 1 / (1 + exp(-z))

    textbook (columns)             here (rows)                        shape here
    z1  = W1 X + b1                z1  = X @ W1.T + b1                (m, n_h)
    A1  = sigma(z1)                A1  = sigmoid(z1)                  (m, n_h)
    z2  = W2 A1 + b2               z2  = A1 @ W2.T + b2               (m, n_y)
    A2  = sigma(z2)                A2  = sigmoid(z2)                  (m, n_y)

    dz2 = A2 - Y                   dz2 = A2 - Y                       (m, n_y)
    dW2 = (1/m) dz2 A1^T           dW2 = dz2.T @ A1 / m               (n_y, n_h)
    db2 = (1/m) sum dz2            db2 = dz2.sum(dim=0) / m           (n_y,)
    dz1 = W2^T dz2 * sigma'(z1)    dz1 = (dz2 @ W2) * A1 * (1 - A1)   (m, n_h)
    dW1 = (1/m) dz1 X^T            dW1 = dz1.T @ X / m                (n_h, n_x)
    db1 = (1/m) sum dz1            db1 = dz1.sum(dim=0) / m           (n_h,)

dz1 and dz2 belong to one example's loss, dW and db to the mean over the m examples.

Sources: A. Ng, Neural Networks and Deep Learning (deeplearning.ai), week 3, "Gradient descent for
neural networks"; M. Nielsen, Neural Networks and Deep Learning (2015), chapter 2, BP1 to BP4;
D. Rumelhart, G. Hinton, R. Williams, Parallel Distributed Processing 1 (1986), p. 326-328.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Parameters(NamedTuple):
    """Weights and biases, which descent moves."""

    W1: Tensor  # (n_h, n_x)
    b1: Tensor  # (n_h,)
    W2: Tensor  # (n_y, n_h)
    b2: Tensor  # (n_y,)


class Activations(NamedTuple):
    """Values of the forward pass, in the order in which they are computed."""

    z1: Tensor  # (m, n_h)
    A1: Tensor  # (m, n_h)
    z2: Tensor  # (m, n_y)
    A2: Tensor  # (m, n_y), the network's output


class Gradients(NamedTuple):
    """Values of the backward pass, in the order in which they are computed."""

    dz2: Tensor  # (m, n_y)
    dW2: Tensor  # (n_y, n_h)
    db2: Tensor  # (n_y,)
    dz1: Tensor  # (m, n_h)
    dW1: Tensor  # (n_h, n_x)
    db1: Tensor  # (n_h,)


class Cost(NamedTuple):
    """Cost as a pair of functions of (activations, Y)."""

    value: Callable[[Activations, Tensor], Tensor]  # the mean over examples, a scalar
    dz2: Callable[[Activations, Tensor], Tensor]  # each example's derivative by z2, (m, n_y)


def forward(params: Parameters, X: Tensor) -> Activations:
    """Compute the network's output A2 and all values that lead to it.

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).

    Raises:
        ValueError: if a shape is wrong. The message has both shapes.
    """
    require_shapes(params, X)
    W1, b1, W2, b2 = params
    z1 = X @ W1.T + b1  # (m, n_h)
    A1 = torch.sigmoid(z1)  # (m, n_h)
    z2 = A1 @ W2.T + b2  # (m, n_y)
    A2 = torch.sigmoid(z2)  # (m, n_y)
    return Activations(z1, A1, z2, A2)


def cost(activations: Activations, Y: Tensor) -> Tensor:
    """Return the cross-entropy J = -(1/m) sum [Y log A2 + (1 - Y) log(1 - A2)].

    The sum is over examples and outputs. PyTorch's own "mean" is smaller by a factor of n_y. J is
    computed from z2, because log A2 loses every digit where a sigmoid saturates, and by logsigmoid
    on both sides, because `binary_cross_entropy_with_logits` loses them where Y is 0 and z2 < -10.

    Args:
        activations: z2 (m, n_y) from `forward`.
        Y: targets in [0, 1], (m, n_y).

    Returns:
        A scalar, in float32 or wider, because a sum of half-precision losses can overflow.

    Raises:
        ValueError: if Y and z2 differ in shape.
    """
    z2 = activations.z2
    require_same_shape(Y, z2)
    losses = -(Y * logsigmoid(z2) + (1 - Y) * logsigmoid(-z2))  # (m, n_y)
    return losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32)) / len(Y)


def cross_entropy_dz2(activations: Activations, Y: Tensor) -> Tensor:
    """Return dz2 = A2 - Y, each example's derivative of the cross-entropy by z2.

    Raises:
        ValueError: if Y and A2 differ in shape, before a (m,) Y can broadcast to (m, m).
    """
    require_same_shape(Y, activations.A2)
    return activations.A2 - Y  # (m, n_y)


def quadratic_cost(activations: Activations, Y: Tensor) -> Tensor:
    """Return the quadratic cost J = (1/2m) sum (A2 - Y)^2 (Nielsen, chapter 1, eq. 6).

    The sum is over examples and outputs.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: if Y and A2 differ in shape.
    """
    require_same_shape(Y, activations.A2)
    squares = (activations.A2 - Y) ** 2  # (m, n_y)
    return squares.sum(dtype=torch.promote_types(squares.dtype, torch.float32)) / (2 * len(Y))


def quadratic_dz2(activations: Activations, Y: Tensor) -> Tensor:
    """Return dz2 = (A2 - Y) * sigma'(z2), each example's derivative of the quadratic cost by z2.

    Raises:
        ValueError: if Y and A2 differ in shape.
    """
    A2 = activations.A2
    require_same_shape(Y, A2)
    return (A2 - Y) * A2 * (1 - A2)  # (m, n_y)


cross_entropy = Cost(cost, cross_entropy_dz2)
quadratic = Cost(quadratic_cost, quadratic_dz2)


def backward(
    params: Parameters,
    activations: Activations,
    X: Tensor,
    Y: Tensor,
    *,
    dz2: Any = cross_entropy_dz2,  # Any: the name holds the cost's function, then its value
) -> Gradients:
    """Compute the gradient of the cost by each parameter, last layer first.

    Args:
        params: the W1, b1, W2, b2 that `forward` used.
        activations: what `forward` gave for this X.
        X: inputs, (m, n_x).
        Y: targets in [0, 1], (m, n_y).
        dz2: the cost's derivative by z2, by default A2 - Y.

    Returns:
        dz2 and dz1 of each example. dW2, db2, dW1, db1 shaped like their parameters and averaged
        over the m rows given (on several devices: over this device's rows).

    Raises:
        ValueError: if a shape is wrong, before any arithmetic. The message has both shapes.
    """
    require_shapes(params, X, Y, activations)
    W2, A1, m = params.W2, activations.A1, len(X)
    dz2 = dz2(activations, Y)  # (m, n_y)
    dW2 = dz2.T @ A1 / m  # (n_y, n_h)
    db2 = dz2.sum(dim=0) / m  # (n_y,)
    dz1 = (dz2 @ W2) * A1 * (1 - A1)  # (m, n_h)
    dW1 = dz1.T @ X / m  # (n_h, n_x)
    db1 = dz1.sum(dim=0) / m  # (n_h,)
    return Gradients(dz2, dW2, db2, dz1, dW1, db1)


def descend(params: list[Tensor], gradients: list[Tensor], alpha: float) -> None:
    """Update W := W - alpha dW and b := b - alpha db in place, for all parameters at once.

    Args:
        params: W1, b1, W2, b2, or some of them.
        gradients: each shaped like its parameter.
        alpha: the learning rate.
    """
    torch._foreach_add_(params, gradients, alpha=-alpha)  # pyright: ignore[reportPrivateUsage]


def require_shapes(
    params: Parameters, X: Tensor, Y: Tensor | None = None, activations: Activations | None = None
) -> None:
    """Refuse shapes that do not fit together, before PyTorch broadcasts them silently.

    Raises:
        ValueError: with the first tensor that does not fit, its shape and the shape it must have.
    """
    W1, b1, W2, b2 = params
    if X.dim() != 2 or X.shape[0] == 0:
        raise ValueError(f"X has shape {tuple(X.shape)}, must be (m, n_x) with m of at least 1")
    if W1.dim() != 2 or W2.dim() != 2:
        raise ValueError(
            f"W1 and W2 have shapes {tuple(W1.shape)} and {tuple(W2.shape)}, "
            "must be (n_h, n_x) and (n_y, n_h)"
        )
    (n_h, n_x), n_y, m = W1.shape, W2.shape[0], X.shape[0]
    hidden, output = (m, n_h), (m, n_y)
    names = ("X", "b1", "W2", "b2", "Y", *Activations._fields)
    shapes = ((m, n_x), (n_h,), (n_y, n_h), (n_y,), output, hidden, hidden, output, output)
    tensors = (X, b1, W2, b2) if Y is None else (X, b1, W2, b2, Y, *(activations or ()))
    for name, tensor, shape in zip(names, tensors, shapes, strict=False):
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, must be {shape}")


def require_same_shape(Y: Tensor, A2: Tensor) -> None:
    """Refuse targets that are not shaped like the network's output.

    Raises:
        ValueError: with both shapes.
    """
    if Y.shape != A2.shape:
        raise ValueError(
            f"Y has shape {tuple(Y.shape)}, must be {tuple(A2.shape)} like the network's output"
        )

"""Curvature of the cost by hand: Gauss-Newton diagonal, Hessian products, largest eigenvalue.

Nothing here depends on a backward rule: the curvature is that of the cost, at the point of the
forward pass. Nothing waits for the device, except the small eigenproblem at the end of
`largest_eigenvalue` on a GPU. Pass float32 or wider.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Parameters, cross_entropy, quadratic

Operator = Callable[[Parameters], Parameters]
"""A linear map v -> H v on vectors shaped like the parameters."""


class Eigenpair(NamedTuple):
    """Largest eigenvalue found of a symmetric operator, with its eigenvector."""

    value: Tensor  # a scalar
    vector: Parameters  # of norm 1
    residual: Tensor  # |H v - value v|, a scalar: some eigenvalue lies this close to value


class _Curvature(NamedTuple):
    """Second derivative of one example's loss by z2, whose matrix is diagonal: (m, n_y)."""

    exact: Callable[[Tensor, Tensor], Tensor]  # of A2 and Y
    gauss_newton: Callable[[Tensor], Tensor]  # of A2, without the term that A2 - Y multiplies


def _slope(A: Tensor) -> Tensor:
    """Return sigma'(z) for A = sigma(z)."""
    return A * (1 - A)


_CURVATURES = {
    # dz2 = A2 - Y: its derivative does not depend on Y, so both forms are the same
    cross_entropy: _Curvature(exact=lambda A2, Y: _slope(A2), gauss_newton=_slope),
    # dz2 = (A2 - Y) sigma'(z2)
    quadratic: _Curvature(
        exact=lambda A2, Y: _slope(A2) * (_slope(A2) + (A2 - Y) * (1 - 2 * A2)),
        gauss_newton=lambda A2: _slope(A2) ** 2,
    ),
}


def gauss_newton_diagonal(
    params: Parameters, activations: Activations, X: Tensor, *, cost: Cost = cross_entropy
) -> Parameters:
    """Return the exact diagonal of the generalized Gauss-Newton matrix.

        W2: (1/m) h^T A1^2              b2: (1/m) sum h          h = sigma'(z2) or sigma'(z2)^2
        W1: (1/m) (h W2^2 * sigma'(z1)^2)^T X^2                  b1: (1/m) sum of the same

    N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent (2002),
    Neural Computation 14(7); the diagonal as in F. Dangel et al., BackPACK (2020),
    arXiv:1912.10985, appendix A.2, which is exact here because one hidden layer leaves one path to
    an output. With the cross-entropy it is also that of the Fisher information (J. Martens, New
    insights and perspectives on the natural gradient method (2020), JMLR 21(146)).

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        activations: what `forward` gave for this X.
        X: inputs, (m, n_x).
        cost: `backprop.cross_entropy` or `backprop.quadratic`.

    Returns:
        Shaped like the parameters.
    """
    _, A1, _, A2 = activations
    m, slope1 = len(X), _slope(A1)  # (m, n_h)
    h = _CURVATURES[cost].gauss_newton(A2)  # (m, n_y)
    carried = h @ params.W2.square() * slope1.square()  # (m, n_h)
    return Parameters(
        W1=carried.T @ X.square() / m,  # (n_h, n_x)
        b1=carried.mean(dim=0),  # (n_h,)
        W2=h.T @ A1.square() / m,  # (n_y, n_h)
        b2=h.mean(dim=0),  # (n_y,)
    )


def hessian(
    params: Parameters,
    activations: Activations,
    X: Tensor,
    Y: Tensor,
    *,
    cost: Cost = cross_entropy,
) -> Operator:
    """Return the exact Hessian of the cost as an operator v -> H v, by Pearlmutter's R-operator.

    R differentiates every line of the forward and backward pass along v. A product takes about
    twice the work of a gradient, and no Hessian is formed. What does not depend on v is computed
    once, here.

    B. Pearlmutter, Fast exact multiplication by the Hessian (1994), Neural Computation 6(1),
    section 4.1.

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        activations: what `forward` gave for this X.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: `backprop.cross_entropy` or `backprop.quadratic`.
    """
    W2, (_, A1, _, A2), m = params.W2, activations, len(X)
    dz2 = cost.dz2(activations, Y)  # (m, n_y)
    carried = dz2 @ W2  # (m, n_h), W2^T dz2 of the textbook
    slope1 = _slope(A1)  # (m, n_h)
    bend1 = carried * slope1 * (1 - 2 * A1)  # (m, n_h), W2^T dz2 * sigma''(z1)
    curvature2 = _CURVATURES[cost].exact(A2, Y)  # (m, n_y)

    def product(vector: Parameters) -> Parameters:
        V1, v1, V2, v2 = vector
        Rz1 = X @ V1.T + v1  # (m, n_h)
        RA1 = slope1 * Rz1  # (m, n_h)
        Rz2 = RA1 @ W2.T + A1 @ V2.T + v2  # (m, n_y)
        Rdz2 = curvature2 * Rz2  # (m, n_y)
        RdW2 = (Rdz2.T @ A1 + dz2.T @ RA1) / m  # (n_y, n_h)
        Rdb2 = Rdz2.sum(dim=0) / m  # (n_y,)
        Rdz1 = (Rdz2 @ W2 + dz2 @ V2) * slope1 + bend1 * Rz1  # (m, n_h)
        RdW1 = Rdz1.T @ X / m  # (n_h, n_x)
        Rdb1 = Rdz1.sum(dim=0) / m  # (n_h,)
        return Parameters(RdW1, Rdb1, RdW2, Rdb2)

    return product


def largest_eigenvalue(operator: Operator, start: Parameters, steps: int = 20) -> Eigenpair:
    """Find the largest eigenvalue (not the largest in magnitude) of a symmetric operator.

    Plain descent with a learning rate above 2 / value diverges along its eigenvector. The method is
    that of Lanczos. The basis is orthogonalized in full, twice, so that rounding does not duplicate
    an eigenvalue: Y. Saad, Numerical methods for large eigenvalue problems (2011), chapter 6.

    Args:
        operator: v -> H v, such as `hessian(...)`.
        start: the first vector, shaped like the parameters, not 0. A random vector is safe. The
            eigenvector of a neighbouring point converges faster.
        steps: the number of products with the operator. More than there are parameters do no harm.

    Returns:
        A lower bound of the eigenvalue, the vector, and how far off the value can be. The value is
        NaN if H is not finite.
    """
    basis, diagonal, beside = _lanczos(operator, start, steps)
    T = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    values, vectors = torch.linalg.eigh(T.nan_to_num())  # ascending; eigh raises on NaN
    value = torch.where(T.isfinite().all(), values[-1], math.nan)
    vector = vectors[:, -1] @ basis  # (n,)
    return Eigenpair(value, _shaped(vector, start), beside[-1] * vectors[-1, -1].abs())


def _lanczos(operator: Operator, start: Parameters, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Build an orthonormal basis of start, H start, H H start, ..., in which H is tridiagonal.

    If that space is exhausted, the remaining rows are 0 and their diagonal entries lie below every
    eigenvalue. The loop therefore never has to read a value back from the device.

    Returns:
        The basis (steps, n), the diagonal (steps,), and the off-diagonal entries (steps,), of which
        the last leads out of the basis.
    """
    vector = _flat(start)
    vector = vector / torch.linalg.vector_norm(vector)
    basis = vector.new_zeros(steps, len(vector))
    alive, largest = torch.ones_like(vector[0], dtype=torch.bool), torch.zeros_like(vector[0])
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(steps):
        basis[step] = vector
        image = _flat(operator(_shaped(vector, start)))
        largest = torch.maximum(largest, torch.linalg.vector_norm(image))
        below = -2 * largest - torch.finfo(image.dtype).tiny
        diagonal.append(torch.where(alive, image @ vector, below))
        for _ in range(2):
            image = image - (basis[: step + 1] @ image) @ basis[: step + 1]
        length = torch.linalg.vector_norm(image)
        alive = length > 10 * torch.finfo(image.dtype).eps * largest
        beside.append(torch.where(alive, length, 0))
        vector = torch.where(alive, image / length, 0)
    return basis, torch.stack(diagonal), torch.stack(beside)


def _flat(parameters: Parameters) -> Tensor:
    """Return W1, b1, W2, b2 as one vector, (n,)."""
    return torch.cat([parameter.flatten() for parameter in parameters])


def _shaped(vector: Tensor, like: Parameters) -> Parameters:
    """Return the vector (n,) as W1, b1, W2, b2."""
    parts = vector.split([parameter.numel() for parameter in like])
    return Parameters(*(part.view_as(one) for part, one in zip(parts, like, strict=True)))

"""The curvature of the cost, by hand: Gauss-Newton diagonals, Hessian products, top eigenvalue.

Nothing here depends on a backward rule: the curvature is that of the cost, at the point that
`forward` was taken. Nothing waits for the device, except on a GPU the small eigenproblem at the
end of `largest_eigenvalue`. Give float32 or wider.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Parameters, cross_entropy, quadratic

Operator = Callable[[Parameters], Parameters]


class Curvature(NamedTuple):
    """The second derivative of one example's loss by z2, which is diagonal: (m, n_y)."""

    exact: Callable[[Tensor, Tensor], Tensor]  # of A2 and Y
    gauss_newton: Callable[[Tensor], Tensor]  # of A2: without what the error itself bends


def slope(A: Tensor) -> Tensor:
    """sigma'(z) of A = sigma(z)."""
    return A * (1 - A)


CURVATURES = {
    # dz2 = A2 - Y: its derivative needs no Y, and both are the same
    cross_entropy: Curvature(exact=lambda A2, Y: slope(A2), gauss_newton=slope),
    # dz2 = (A2 - Y) sigma'(z2)
    quadratic: Curvature(
        exact=lambda A2, Y: slope(A2) * (slope(A2) + (A2 - Y) * (1 - 2 * A2)),
        gauss_newton=lambda A2: slope(A2) ** 2,
    ),
}


class Eigenpair(NamedTuple):
    """The top of a symmetric operator's spectrum, as far as it was looked for."""

    value: Tensor  # a scalar
    vector: Parameters  # of norm 1
    residual: Tensor  # |H v - value v|: an eigenvalue lies this close to value; a scalar


def gauss_newton_diagonal(
    params: Parameters, activations: Activations, X: Tensor, *, cost: Cost = cross_entropy
) -> Parameters:
    """The exact diagonal of the generalized Gauss-Newton matrix, shaped like the parameters.

        W2: (1/m) h^T A1^2              b2: (1/m) sum h          h = sigma'(z2) or sigma'(z2)^2
        W1: (1/m) (h W2^2 * sigma'(z1)^2)^T X^2                  b1: (1/m) sum of the same

    N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent (2002),
    Neural Computation 14(7); the diagonal as in F. Dangel et al., BackPACK (2020),
    arXiv:1912.10985, appendix A.2, exact here because one hidden layer has one path to an output.
    With the cross-entropy it is also the Fisher information's (J. Martens, New insights and
    perspectives on the natural gradient method (2020), JMLR 21(146)).

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        activations: what `forward` gave for this X.
        X: inputs, (m, n_x).
        cost: `backprop.cross_entropy` or `backprop.quadratic`.
    """
    _, A1, _, A2 = activations
    m, slope1 = len(X), slope(A1)  # (m, n_h)
    h = CURVATURES[cost].gauss_newton(A2)  # (m, n_y)
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
    """The exact Hessian of the cost as an operator v -> H v, by Pearlmutter's R-operator.

    R differentiates every line of the forward and backward pass along v: about twice the work of
    a gradient, and no Hessian is formed. What does not depend on v is computed once.

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
    slope1 = slope(A1)  # (m, n_h)
    bend1 = carried * slope1 * (1 - 2 * A1)  # (m, n_h), W2^T dz2 * sigma''(z1)
    curvature2 = CURVATURES[cost].exact(A2, Y)  # (m, n_y)

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
    """The largest eigenvalue (not the largest in magnitude) of a symmetric operator, by Lanczos.

    Plain descent with a learning rate above 2 / value diverges along the vector. The basis is
    orthogonalized in full, twice, so that rounding makes no copies of an eigenvalue: Y. Saad,
    Numerical methods for large eigenvalue problems (2011), chapter 6.

    Args:
        operator: v -> H v, such as `hessian(...)`.
        start: where to start, shaped like the parameters; not 0. The last vector found is a good
            one, a random one is safe.
        steps: products with the operator; a number above the count of parameters is harmless.

    Returns:
        A value from below, its vector, and how far off it can be; NaN where H is not finite.
    """
    basis, diagonal, beside = lanczos(operator, start, steps)
    T = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    values, vectors = torch.linalg.eigh(T.nan_to_num())  # ascending; eigh raises on NaN
    value = torch.where(T.isfinite().all(), values[-1], math.nan)
    vector = vectors[:, -1] @ basis  # (n,)
    return Eigenpair(value, shaped(vector, start), beside[-1] * vectors[-1, -1].abs())


def lanczos(operator: Operator, start: Parameters, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """An orthonormal basis of start, H start, H H start, ..., in which H is tridiagonal.

    Where that space is exhausted the rows left are 0, and on the diagonal stands what lies below
    every eigenvalue: so nothing has to be looked at on the way.

    Returns:
        The basis (steps, n), the diagonal (steps,), and the entries beside it (steps,), of which
        the last leads out of the basis.
    """
    vector = flat(start)
    vector = vector / torch.linalg.vector_norm(vector)
    basis = vector.new_zeros(steps, len(vector))
    alive, largest = torch.ones_like(vector[0], dtype=torch.bool), torch.zeros_like(vector[0])
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for step in range(steps):
        basis[step] = vector
        image = flat(operator(shaped(vector, start)))
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


def flat(parameters: Parameters) -> Tensor:
    """W1, b1, W2, b2 as one vector, (n,)."""
    return torch.cat([parameter.flatten() for parameter in parameters])


def shaped(vector: Tensor, like: Parameters) -> Parameters:
    """The vector as W1, b1, W2, b2."""
    parts = vector.split([parameter.numel() for parameter in like])
    return Parameters(*(part.view_as(one) for part, one in zip(parts, like, strict=True)))

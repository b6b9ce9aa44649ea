"""The curvature of the cost, by hand: Gauss-Newton diagonals, Hessian products, top eigenvalue.

Nothing here depends on a backward rule: the curvature is that of the cost, at the point that
`forward` was taken. Nothing waits for the device, except on a GPU the small eigenproblem at the
end of `largest_eigenvalue`. Give float32 or wider.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Parameters, cross_entropy

Operator = Callable[[Parameters], Parameters]


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
    Neural Computation 14(7), section 3; the diagonal as in F. Dangel et al., BackPACK (2020),
    arXiv:1912.10985, appendix A.2, exact here because one hidden layer has one path to an output.
    With the cross-entropy it is also the Fisher information's (J. Martens, New insights and
    perspectives on the natural gradient method (2020), JMLR 21(146), section 9).

    Args:
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        activations: what `forward` gave for this X.
        X: inputs, (m, n_x).
        cost: `backprop.cross_entropy` or `backprop.quadratic`.
    """


def hessian(
    params: Parameters, activations: Activations, X: Tensor, Y: Tensor, *, cost: Cost = cross_entropy
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


def largest_eigenvalue(operator: Operator, start: Parameters, steps: int = 20) -> Eigenpair:
    """The largest eigenvalue (not the largest in magnitude) of a symmetric operator, by Lanczos.

    Plain descent with a learning rate above 2 / value diverges along the vector. The basis is
    orthogonalized in full, twice, so that rounding makes no copies of an eigenvalue. Saad, Numerical
    methods for large eigenvalue problems (2011), algorithm 6.15 and proposition 6.8.

    Args:
        operator: v -> H v, such as `hessian(...)`.
        start: where to start, shaped like the parameters; not 0. The last vector found is a good
            one, a random one is safe.
        steps: products with the operator; a number above the count of parameters is harmless.

    Returns:
        A value from below, its vector, and how far off it can be.
    """

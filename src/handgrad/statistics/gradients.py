"""Statistics of one update's gradient, at little more than the cost of a few norms.

Every function is pure, returns tensors and never waits for the device. `gradients` may come from
any backward rule: the statistics describe the dz2 and dz1 that this rule returned. Half precision
is converted to float32. The gradient is that of the cost alone, without weight decay and before
clipping.

The gradient of one example's loss is an outer product for a weight and dz itself for a bias:

    dW2_i = dz2_i A1_i^T    db2_i = dz2_i    dW1_i = dz1_i X_i^T    db1_i = dz1_i

Its norms, squares and inner products therefore follow from the rows dz2_i, A1_i, dz1_i and X_i.
No example's gradient is ever formed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Gradients, Parameters

SATURATED = 0.05
"""Below this, or above 1 - this, an activation has less than a fifth of sigma's largest slope."""


class ExampleNorms(NamedTuple):
    """Norms of each example's gradient, by parameter and as a whole."""

    W1: Tensor  # (m,)
    b1: Tensor  # (m,)
    W2: Tensor  # (m,)
    b2: Tensor  # (m,)
    whole: Tensor  # (m,)


class NoiseScale(NamedTuple):
    """Scatter of one example's gradient about the mean gradient, in scalars."""

    noise: Tensor  # unbiased estimate of tr(Sigma), Sigma the covariance of one example's gradient
    signal: Tensor  # unbiased estimate of |G|^2, G the mean over the whole population
    scale: Tensor  # noise / signal, the batch size at which both are equal


class Vanishing(NamedTuple):
    """Share of the error that reaches the hidden layer, factor by factor, in scalars.

    Each norm is the root mean square over the examples of |row|.
    """

    dz2: Tensor
    W2T_dz2: Tensor
    dz1: Tensor
    kept_by_W2: Tensor  # W2T_dz2 / dz2
    kept_by_slope: Tensor  # dz1 / W2T_dz2; sigma' is at most 1/4


class Saturation(NamedTuple):
    """Saturation of one layer's sigmoids."""

    share: Tensor  # of all activations that are saturated, a scalar
    dead: Tensor  # whether a unit is saturated at every example, (n,) of bool
    dead_share: Tensor  # of the units that are dead, a scalar
    slope: Tensor  # each unit's mean of sigma'(z) = A (1 - A), at most 1/4, (n,)
    mean_slope: Tensor  # over all activations, a scalar


def example_norms(activations: Activations, gradients: Gradients, X: Tensor) -> ExampleNorms:
    """Return the norm of each example's gradient.

    The norm of an outer product is the product of the norms, so no matrix is multiplied.
    I. Goodfellow, Efficient per-example gradient computations (2015),
    arXiv:1510.01799, section 4. The whole is the GraNd score of M. Paul, S. Ganguli, G. Dziugaite,
    Deep learning on a data diet (2021), arXiv:2107.07075, section 2, and its part b2 is EL2N.

    Args:
        activations: A1 (m, n_h).
        gradients: dz2 (m, n_y), dz1 (m, n_h).
        X: inputs, (m, n_x).
    """
    dz2, A1 = _row_norms(gradients.dz2), _row_norms(activations.A1)  # (m,), (m,)
    dz1, x = _row_norms(gradients.dz1), _row_norms(X)  # (m,), (m,)
    parts = (dz1 * x, dz1, dz2 * A1, dz2)  # of W1, b1, W2, b2
    return ExampleNorms(*parts, whole=torch.linalg.vector_norm(torch.stack(parts), dim=0))


def noise_scale(each: Tensor, gradient: Sequence[Tensor]) -> NoiseScale:
    """Estimate the simple gradient noise scale tr(Sigma) / |G|^2 from one batch.

    Noise and signal are the unbiased estimates of S. McCandlish, J. Kaplan, D. Amodei, An empirical
    model of large-batch training (2018), arXiv:1812.06162, appendix A.1, with batches of 1 and of
    m. Over several batches, average noise and signal, then divide: a mean of ratios is biased.

    Args:
        each: |g_i| of each example, (m,): `example_norms(...).whole`, or that of one parameter.
        gradient: their mean g: dW1, db1, dW2, db2, or one parameter's.

    Returns:
        Scalars. The signal may be negative if the batch is too small to resolve it. The scale is
        then infinite. With one example all three are NaN. If every gradient is 0, the scale is NaN.
    """
    m = len(each)
    mean_square = wide(each).square().mean()
    square_of_mean = torch.linalg.vector_norm(torch.stack(_norms(gradient))) ** 2
    noise = (mean_square - square_of_mean) * _bessel(m)
    signal = square_of_mean - noise / m
    scale = torch.where(signal < 0, math.inf, noise / signal)
    return NoiseScale(noise, signal, scale)


def gradient_products(activations: Activations, gradients: Gradients, X: Tensor) -> Tensor:
    """Return the inner products <g_i, g_j> of all pairs of examples' gradients, (m, m).

    K = (dz2 dz2^T) * (A1 A1^T + 1) + (dz1 dz1^T) * (X X^T + 1): the inner product of two outer
    products is the product of two inner products (the neural tangent kernel of two dense layers,
    contracted with the errors). The mean of K is |g|^2, its diagonal the squared `example_norms`.

    Args:
        activations: A1 (m, n_h).
        gradients: dz2 (m, n_y), dz1 (m, n_h).
        X: inputs, (m, n_x).
    """
    dz2, A1, dz1, X = (wide(rows) for rows in (gradients.dz2, activations.A1, gradients.dz1, X))
    second = (dz2 @ dz2.T) * (A1 @ A1.T + 1)  # (m, m)
    first = (dz1 @ dz1.T) * (X @ X.T + 1)  # (m, m)
    return second + first  # (m, m)


def cosines(products: Tensor) -> Tensor:
    """Return the cosine between each two examples' gradients, (m, m).

    S. Fort, P. Nowak, S. Jastrzebski, S. Narayanan, Stiffness: a new perspective on generalization
    in neural networks (2019), arXiv:1901.09491, section 2.

    Args:
        products: inner products of the examples' gradients, (m, m), from `gradient_products`.

    Returns:
        1 if both examples ask for the same step, 0 if neither affects the other, -1 if a step that
        helps one harms the other. 0 for an example whose gradient is 0.
    """
    norms = products.diagonal().sqrt()  # (m,)
    return _ratio(products, norms[:, None] * norms).clamp_(-1, 1)


def gradient_variances(activations: Activations, gradients: Gradients, X: Tensor) -> Parameters:
    """Return the unbiased variance over the examples of each entry of the gradient.

    The second moment is one product of squares, (dz^2)^T (A^2) / m: F. Dangel, F. Kunstner,
    P. Hennig, BackPACK: packing more into backprop (2020), arXiv:1912.10985, appendix A.1. The
    variances add up to `noise_scale(...).noise`.

    Args:
        activations: A1 (m, n_h).
        gradients: all six.
        X: inputs, (m, n_x).

    Returns:
        W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,). Never negative. NaN with one example.
    """
    dz2, A1, dz1, X = (
        wide(rows).square() for rows in (gradients.dz2, activations.A1, gradients.dz1, X)
    )
    m = len(X)
    second_moments = Parameters(
        W1=dz1.T @ X / m,  # (n_h, n_x)
        b1=dz1.mean(dim=0),  # (n_h,)
        W2=dz2.T @ A1 / m,  # (n_y, n_h)
        b2=dz2.mean(dim=0),  # (n_y,)
    )
    return Parameters(
        *(
            square.sub_(wide(mean).square()).clamp_(min=0).mul_(_bessel(m))
            for square, mean in zip(second_moments, means(gradients), strict=True)
        )
    )


def signal_to_noise(gradients: Gradients, variances: Parameters) -> Parameters:
    """Return each entry's |mean gradient| over its standard error, sqrt(variance / m).

    Above about 2 the sign of the entry is significant in this batch. L. Balles, P. Hennig,
    Dissecting Adam (2018), arXiv:1705.07774, whose relative variance is 1 / this squared.

    Args:
        gradients: all six. m is read from dz2.
        variances: from `gradient_variances`.

    Returns:
        Shaped like the parameters. 0 where the gradient is 0 (a blank pixel), infinite where all
        examples agree. With one example, NaN where the gradient is not 0.
    """
    m = len(gradients.dz2)
    return Parameters(
        *(
            _ratio(wide(mean).abs(), (variance / m).sqrt_())
            for mean, variance in zip(means(gradients), variances, strict=True)
        )
    )


def vanishing(params: Parameters, gradients: Gradients) -> Vanishing:
    """Measure how much of dz2 survives the factor W2^T, and how much of that the factor sigma'(z1).

    M. Nielsen, Neural networks and deep learning (2015), chapter 5, "What's causing the vanishing
    gradient problem?": the gradient shrinks by a factor w sigma'(z) per layer. Under a rule with a
    feedback matrix of its own, `kept_by_slope` includes the difference between B and W2.

    Args:
        params: W2 (n_y, n_h), as it was in the backward pass.
        gradients: dz2 (m, n_y), dz1 (m, n_h).

    Returns:
        Scalars. A ratio is 0 if its numerator is 0.
    """
    W2, dz2, dz1 = wide(params.W2), wide(gradients.dz2), wide(gradients.dz1)
    root = math.sqrt(len(dz2))
    arriving = torch.linalg.vector_norm(dz2 @ W2) / root  # of (m, n_h)
    last, first = torch.linalg.vector_norm(dz2) / root, torch.linalg.vector_norm(dz1) / root
    return Vanishing(last, arriving, first, _ratio(arriving, last), _ratio(first, arriving))


def saturation(A: Tensor, threshold: float = SATURATED) -> Saturation:
    """Measure how much of a layer is saturated: A below threshold or above 1 - threshold.

    X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks
    (2010), section 3.1. A unit that is saturated at every example hardly learns: it is dead.

    Args:
        A: A1 (m, n_h) or A2 (m, n_y).
        threshold: between 0 and 1/2.
    """
    A = wide(A)
    saturated = (A - 0.5).abs() > 0.5 - threshold  # (m, n)
    dead = saturated.all(dim=0)  # (n,)
    slope = (A * (1 - A)).mean(dim=0)  # (n,)
    return Saturation(
        saturated.mean(dtype=A.dtype), dead, dead.mean(dtype=A.dtype), slope, slope.mean()
    )


def update_to_weight(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    """Return |update| / |parameter| of each parameter, of which about 1e-3 is healthy.

    A. Karpathy, CS231n: convolutional neural networks for visual recognition, "Neural networks
    part 3", ratio of weights:updates.

    Args:
        before: the parameters before the update (a copy, because descent is in place).
        after: the parameters after the update, by any optimizer.

    Returns:
        A scalar for each. 0 if a parameter did not move, infinite if it was 0 and moved.
    """
    updates = [wide(new) - wide(old) for old, new in zip(before, after, strict=True)]
    return list(_ratio(torch.stack(_norms(updates)), torch.stack(_norms(before))))


def angle(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the angle between two lists of tensors, each taken as one vector, in degrees.

    W. Kahan's formula 2 atan2(|u - v|, |u + v|) of the unit vectors keeps its digits near 0 and
    180, where the arc cosine loses half of them (How futile are mindless assessments of roundoff
    in floating-point computation? (2006), section 12).

    Args:
        first: dW1, db1, dW2, db2, or any other tensors.
        second: as many tensors of the same shapes.

    Returns:
        A scalar in 0..180. NaN if either is 0.
    """
    u = torch.cat([wide(tensor).flatten() for tensor in first])
    v = torch.cat([wide(tensor).flatten() for tensor in second])
    u, v = u / torch.linalg.vector_norm(u), v / torch.linalg.vector_norm(v)
    half = torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v))
    return torch.rad2deg(2 * half)


def means(gradients: Gradients) -> Parameters:
    """Return dW1, db1, dW2, db2, the means over the examples, in the order of the parameters."""
    return Parameters(gradients.dW1, gradients.db1, gradients.dW2, gradients.db2)


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or wider: half-precision squares keep no digits to subtract."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _row_norms(rows: Tensor) -> Tensor:
    """Return the norm of each row, (m,)."""
    return torch.linalg.vector_norm(wide(rows), dim=1)


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the norm of each tensor, as scalars."""
    return [torch.linalg.vector_norm(wide(tensor)) for tensor in tensors]


def _bessel(m: int) -> float:
    """Return Bessel's correction m / (m - 1) of a variance about the sample's mean. NaN for one."""
    return m / (m - 1) if m > 1 else math.nan


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where the part is 0."""
    return (part / whole).masked_fill_(part == 0, 0)

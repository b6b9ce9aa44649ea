"""What the tensors of one step tell beside the gradient, for little more than their norms.

Every function is pure, returns tensors and never waits for the device. `gradients` may come from
any backward rule: what is said here is about the dz2 and dz1 that the rule gave. Half precision is
taken as float32. The gradient is the cost's alone: without weight decay, before clipping.

The gradient of one example's loss is an outer product for a weight and dz itself for a bias:

    dW2_i = dz2_i A1_i^T    db2_i = dz2_i    dW1_i = dz1_i X_i^T    db1_i = dz1_i

Hence its norms, squares and inner products come from those of the rows dz2_i, A1_i, dz1_i, X_i,
and no example's gradient is ever formed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Gradients, Parameters

SATURATED = (
    0.05  # A below this, or above 1 - this, passes less than a fifth of sigma's largest slope
)


class ExampleNorms(NamedTuple):
    """The norm of each example's gradient, by parameter and as a whole."""

    W1: Tensor  # (m,)
    b1: Tensor  # (m,)
    W2: Tensor  # (m,)
    b2: Tensor  # (m,)
    whole: Tensor  # (m,)


class NoiseScale(NamedTuple):
    """How the gradient of one example scatters about the mean, in scalars."""

    noise: Tensor  # unbiased estimate of tr(Sigma), Sigma the covariance of one example's gradient
    signal: Tensor  # unbiased estimate of |G|^2, G the mean over all examples there are
    scale: Tensor  # noise / signal: the batch size at which both weigh the same


class Vanishing(NamedTuple):
    """How much of the error arrives at the hidden layer, and where it is lost: scalars.

    Each norm is the root mean square over the examples of |row|.
    """

    dz2: Tensor
    W2T_dz2: Tensor
    dz1: Tensor
    kept_by_W2: Tensor  # W2T_dz2 / dz2
    kept_by_slope: Tensor  # dz1 / W2T_dz2; sigma' is at most 1/4


class Saturation(NamedTuple):
    """The health of one layer's sigmoids."""

    share: Tensor  # of all activations, how many are saturated, a scalar
    dead: Tensor  # which units are saturated at every example, (n,) of bool
    dead_share: Tensor  # of the units, a scalar
    slope: Tensor  # each unit's mean of sigma'(z) = A (1 - A), at most 1/4, (n,)
    mean_slope: Tensor  # over all activations, a scalar


def example_norms(activations: Activations, gradients: Gradients, X: Tensor) -> ExampleNorms:
    """The norm of each example's gradient: of an outer product, the product of the norms.

    No matrix is multiplied. I. Goodfellow, Efficient per-example gradient computations (2015),
    arXiv:1510.01799, section 4; the whole is the GraNd score of M. Paul, S. Ganguli, G. Dziugaite,
    Deep learning on a data diet (2021), arXiv:2107.07075, section 2, and its part b2 is EL2N.

    Args:
        activations: A1 (m, n_h).
        gradients: dz2 (m, n_y), dz1 (m, n_h).
        X: inputs, (m, n_x).
    """
    dz2, A1 = row_norms(gradients.dz2), row_norms(activations.A1)  # (m,), (m,)
    dz1, x = row_norms(gradients.dz1), row_norms(X)  # (m,), (m,)
    parts = (dz1 * x, dz1, dz2 * A1, dz2)  # of W1, b1, W2, b2
    return ExampleNorms(*parts, whole=torch.linalg.vector_norm(torch.stack(parts), dim=0))


def noise_scale(each: Tensor, gradient: Sequence[Tensor]) -> NoiseScale:
    """The simple gradient noise scale tr(Sigma) / |G|^2 from one batch, by unbiased estimates.

    Both estimates are those of S. McCandlish, J. Kaplan, D. Amodei, An empirical model of
    large-batch training (2018), arXiv:1812.06162, appendix A.1, with batches of 1 and of m. Over
    several batches average noise and signal, then divide: a mean of ratios is biased.

    Args:
        each: |g_i| of each example, (m,): `example_norms(...).whole`, or one parameter's.
        gradient: their mean g: dW1, db1, dW2, db2, or one parameter's.

    Returns:
        Scalars. The signal may be negative where the batch is too small to see it: then the scale
        is infinite. With one example there is no scatter to be seen, and all three are NaN. Where
        every gradient is 0 the scale is NaN.
    """
    m = len(each)
    mean_square = wide(each).square().mean()
    square_of_mean = whole_norm(gradient) ** 2
    noise = (mean_square - square_of_mean) * bessel(m)
    signal = square_of_mean - noise / m
    scale = torch.where(signal < 0, math.inf, noise / signal)
    return NoiseScale(noise, signal, scale)


def noise_scale_error(products: Tensor) -> Tensor:
    """The standard error of `noise_scale(...).scale`, from leaving each example out.

    It means something where the batch sees the signal; `noise_scale_interval` holds everywhere.

    Args:
        products: inner products of the examples' gradients, (m, m), from `gradient_products`.

    Returns:
        A scalar; infinite where the scale is, NaN with fewer than three examples.
    """
    (noise, signal), covariance = leave_one_out(products)
    scale = noise / signal
    variance = covariance[0, 0] - 2 * scale * covariance[0, 1] + scale**2 * covariance[1, 1]
    return torch.where(signal < 0, math.inf, variance.clamp(min=0).sqrt() / signal)


def noise_scale_interval(products: Tensor, errors: float = 2.0) -> tuple[Tensor, Tensor]:
    """All noise scales that agree with this batch: |noise - scale * signal| within its own error.

    A ratio has no symmetric error where its denominator may be 0: this is E. Fieller's interval,
    Some problems in interval estimation (1954), Journal of the Royal Statistical Society B 16(2).

    Args:
        products: inner products of the examples' gradients, (m, m), from `gradient_products`.
        errors: how many standard errors agree; 2 for about 95%.

    Returns:
        The smallest and the largest, scalars. The largest is infinite where the batch does not
        see the signal. NaN with fewer than three examples.
    """
    (noise, signal), covariance = leave_one_out(products)
    covariance = errors**2 * covariance
    # (noise - scale signal)^2 = its variance: c - 2 b scale + a scale^2 = 0
    a = signal**2 - covariance[1, 1]
    b = noise * signal - covariance[0, 1]
    c = noise**2 - covariance[0, 0]
    sum_ = b + (b**2 - a * c).clamp(min=0).sqrt()
    smallest = torch.where(c < 0, 0, c / sum_).clamp(min=0)
    largest = torch.where(signal < covariance[1, 1].sqrt(), math.inf, sum_ / a)
    return smallest, largest


def leave_one_out(products: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and signal, (2,), and the covariance (2, 2) of these estimates, by the jackknife.

    B. Efron, C. Stein, The jackknife estimate of variance (1981), Annals of Statistics 9(3),
    p. 586: it errs, if at all, on the large side.
    """
    m, squares = len(products), products.diagonal()  # (m,)
    between = products.sum() - squares.sum()  # over all pairs of two examples
    signal = between / (m * (m - 1) or math.nan)
    # The same without example i, at each i.
    rest = between - 2 * (products.sum(dim=1) - squares)  # (m,)
    signals = rest / ((m - 1) * (m - 2) or math.nan)  # (m,)
    noises = (squares.sum() - squares) / (m - 1 or math.nan) - signals  # (m,)
    left = torch.stack([noises, signals])  # (2, m)
    left = left - left.mean(dim=1, keepdim=True)
    covariance = left @ left.T * (m - 1) / m  # (2, 2); torch.cov would wait for the device
    return torch.stack([squares.mean() - signal, signal]), covariance


def gradient_products(activations: Activations, gradients: Gradients, X: Tensor) -> Tensor:
    """Inner products <g_i, g_j> of all pairs of examples' gradients, (m, m).

    K = (dz2 dz2^T) * (A1 A1^T + 1) + (dz1 dz1^T) * (X X^T + 1): the inner product of two outer
    products is the product of two inner products (the neural tangent kernel of two dense layers,
    contracted with the errors). Its mean is |g|^2, its diagonal the squared `example_norms`.

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
    """How far each two examples pull in the same direction: the cosine of their gradients, (m, m).

    S. Fort, P. Nowak, S. Jastrzebski, S. Narayanan, Stiffness: a new perspective on generalization
    in neural networks (2019), arXiv:1901.09491, section 2.

    Args:
        products: inner products of the examples' gradients, (m, m), from `gradient_products`.

    Returns:
        1 where both ask for the same step, 0 where they do not care, -1 where what helps one harms
        the other; 0 beside an example without a gradient.
    """
    norms = products.diagonal().sqrt()  # (m,)
    return ratio(products, norms[:, None] * norms).clamp_(-1, 1)


def gradient_variances(activations: Activations, gradients: Gradients, X: Tensor) -> Parameters:
    """The variance over examples of each entry of the gradient, unbiased, shaped like parameters.

    The second moment is one product of squares, (dz^2)^T (A^2) / m: F. Dangel, F. Kunstner,
    P. Hennig, BackPACK: packing more into backprop (2020), arXiv:1912.10985, appendix A.1. Their
    sum is the `noise_scale(...).noise`.

    Args:
        activations: A1 (m, n_h).
        gradients: all six.
        X: inputs, (m, n_x).

    Returns:
        W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,); never negative; NaN with one example.
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
            square.sub_(wide(mean).square()).clamp_(min=0).mul_(bessel(m))
            for square, mean in zip(second_moments, means(gradients), strict=True)
        )
    )


def signal_to_noise(gradients: Gradients, variances: Parameters) -> Parameters:
    """Each entry's |mean gradient| over its standard error in this batch, sqrt(variance / m).

    Above about 2 the batch knows the entry's sign. L. Balles, P. Hennig, Dissecting Adam (2018),
    arXiv:1705.07774, whose relative variance is 1 / this squared.

    Args:
        gradients: all six; m is read from dz2.
        variances: from `gradient_variances`.

    Returns:
        Shaped like the parameters. 0 where the gradient is 0 (a blank pixel), infinite where all
        examples agree, NaN with one example where the gradient is not 0.
    """
    m = len(gradients.dz2)
    return Parameters(
        *(
            ratio(wide(mean).abs(), (variance / m).sqrt_())
            for mean, variance in zip(means(gradients), variances, strict=True)
        )
    )


def vanishing(params: Parameters, gradients: Gradients) -> Vanishing:
    """The factored view of dz2 -> W2^T dz2 -> dz1: what W2 keeps of the error, what sigma' keeps.

    M. Nielsen, Neural networks and deep learning (2015), chapter 5, "What's causing the vanishing
    gradient problem?": the gradient shrinks by a factor w sigma'(z) a layer; here factor by factor.
    Under a rule with its own feedback, `kept_by_slope` holds that difference too.

    Args:
        params: W2 (n_y, n_h), as it was in the backward pass.
        gradients: dz2 (m, n_y), dz1 (m, n_h).

    Returns:
        Scalars; a ratio is 0 where nothing arrives.
    """
    W2, dz2, dz1 = wide(params.W2), wide(gradients.dz2), wide(gradients.dz1)
    root = math.sqrt(len(dz2))
    arriving = torch.linalg.vector_norm(dz2 @ W2) / root  # of (m, n_h)
    last, first = torch.linalg.vector_norm(dz2) / root, torch.linalg.vector_norm(dz1) / root
    return Vanishing(last, arriving, first, ratio(arriving, last), ratio(first, arriving))


def saturation(A: Tensor, threshold: float = SATURATED) -> Saturation:
    """How much of a layer of sigmoids is saturated: A below threshold or above 1 - threshold.

    X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks
    (2010), section 3.1. A unit that is saturated at every example hardly learns from any: dead.

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
    """|update| / |parameter| of each parameter: about 1e-3 is healthy.

    A. Karpathy, CS231n: convolutional neural networks for visual recognition, "Neural networks
    part 3", ratio of weights:updates.

    Args:
        before: the parameters before the update (a copy: descent is in place).
        after: the same after it, whatever the optimizer did.

    Returns:
        A scalar for each; 0 where nothing moved, infinite where zeros did.
    """
    updates = [wide(new) - wide(old) for old, new in zip(before, after, strict=True)]
    return list(ratio(torch.stack(norms(updates)), torch.stack(norms(before))))


def angle(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The angle between two gradients, each taken as one vector, in degrees.

    W. Kahan's formula 2 atan2(|u - v|, |u + v|) of the unit vectors keeps its digits near 0 and
    180, where the arc cosine loses half of them (How futile are mindless assessments of roundoff
    in floating-point computation? (2006), section 12).

    Args:
        first: dW1, db1, dW2, db2, or some of them.
        second: as many, of the same shapes.

    Returns:
        A scalar in 0..180; NaN where one of both is 0.
    """
    u = torch.cat([wide(tensor).flatten() for tensor in first])
    v = torch.cat([wide(tensor).flatten() for tensor in second])
    u, v = u / torch.linalg.vector_norm(u), v / torch.linalg.vector_norm(v)
    half = torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v))
    return torch.rad2deg(2 * half)


def means(gradients: Gradients) -> Parameters:
    """dW1, db1, dW2, db2: the means over the examples, in the order of the parameters."""
    return Parameters(gradients.dW1, gradients.db1, gradients.dW2, gradients.db2)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: squares of half precision keep no digits to subtract."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def row_norms(rows: Tensor) -> Tensor:
    """The norm of each row, (m,)."""
    return torch.linalg.vector_norm(wide(rows), dim=1)


def whole_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of several tensors taken as one vector, a scalar."""
    return torch.linalg.vector_norm(torch.stack(norms(tensors)))


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The norm of each tensor, scalars."""
    return [torch.linalg.vector_norm(wide(tensor)) for tensor in tensors]


def bessel(m: int) -> float:
    """Bessel's m / (m - 1), by which a variance about a sample's own mean is small; NaN for one."""
    return m / (m - 1) if m > 1 else math.nan


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """The ratio part / whole, and 0 where the part is 0."""
    return (part / whole).masked_fill_(part == 0, 0)

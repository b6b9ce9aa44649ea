"""Statistics of a step against autograd and against their definitions, in float64."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.testing import assert_close

from handgrad import backprop, rules
from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.statistics import curvature
from handgrad.statistics import gradients as statistics

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
SIZES = [(7, 5, 4, 3), (2, 1, 3, 1), (13, 3, 1, 2), (5, 9, 6, 1)]

all_costs = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
all_sizes = pytest.mark.parametrize("sizes", SIZES, ids=str)


class Step(NamedTuple):
    """One step, with the gradient of each example by autograd."""

    params: Parameters
    X: Tensor
    Y: Tensor
    activations: Activations
    gradients: Gradients
    each: Parameters  # of example i, in row i


def step(sizes: tuple[int, int, int, int], cost: Cost, dtype: torch.dtype = torch.float64) -> Step:
    m, n_x, n_h, n_y = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    shapes = [(n_h, n_x), (n_h,), (n_y, n_h), (n_y,), (m, n_x), (m, n_y)]
    *tensors, X, Y = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    )
    return made(Parameters(*tensors), X, Y.sigmoid(), cost)


def made(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Step:
    activations = backprop.forward(params, X)
    gradients = backprop.backward(params, activations, X, Y, dz2=cost.dz2)
    return Step(params, X, Y, activations, gradients, by_autograd(params, X, Y, cost))


def by_autograd(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Parameters:
    """Compute the gradient of each example's loss, one at a time, (m, *shape) per parameter."""
    rows = [torch.func.grad(one_loss)(params, x, y, cost) for x, y in zip(X, Y, strict=True)]
    return Parameters(*(torch.stack(column) for column in zip(*rows, strict=True)))


def one_loss(params: Parameters, x: Tensor, y: Tensor, cost: Cost) -> Tensor:
    return cost.value(backprop.forward(params, x[None]), y[None])


def flat(each: Parameters) -> Tensor:
    """Return the gradients of the examples as rows, (m, n)."""
    return torch.cat([part.flatten(1) for part in each], dim=1)


def of(s: Step) -> list[Tensor]:
    return list(statistics.means(s.gradients))


def scale(s: Step) -> statistics.NoiseScale:
    norms = statistics.example_norms(s.activations, s.gradients, s.X)
    return statistics.noise_scale(norms.whole, of(s))


# Norms and products of the examples' gradients.


@all_costs
@all_sizes
def test_norms_are_those_of_each_examples_gradient(sizes: Any, cost: Cost) -> None:
    s = step(sizes, cost)
    norms = statistics.example_norms(s.activations, s.gradients, s.X)
    for name in Parameters._fields:
        assert_close(getattr(norms, name), getattr(s.each, name).flatten(1).norm(dim=1))
    assert_close(norms.whole, flat(s.each).norm(dim=1))


def test_norms_are_those_of_the_rule_that_made_dz() -> None:
    s = step((7, 5, 4, 3), backprop.cross_entropy)
    rule = rules.feedback_alignment(backprop.cross_entropy, seed=1, scale=1.0)
    gradients = rule(s.params, s.activations, s.X, s.Y)
    whole = gradients.dz1[:, :, None] * s.X[:, None, :]
    norms = statistics.example_norms(s.activations, gradients, s.X)
    assert_close(norms.W1, whole.flatten(1).norm(dim=1))
    assert not torch.allclose(norms.W1, s.each.W1.flatten(1).norm(dim=1))


@all_costs
@all_sizes
def test_products_are_inner_products_of_the_examples_gradients(sizes: Any, cost: Cost) -> None:
    s = step(sizes, cost)
    rows = flat(s.each)
    products = statistics.gradient_products(s.activations, s.gradients, s.X)
    assert_close(products, rows @ rows.T)


@all_costs
def test_cosines_are_those_of_the_examples_gradients(cost: Cost) -> None:
    s = step((9, 5, 4, 3), cost)
    rows = flat(s.each)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    products = statistics.gradient_products(s.activations, s.gradients, s.X)
    assert_close(statistics.cosines(products), expected)


def test_an_example_without_a_gradient_agrees_with_nobody() -> None:
    assert_close(
        statistics.cosines(torch.diag(torch.tensor([4.0, 0.0]))),
        torch.eye(2) * torch.tensor([1.0, 0]),
    )


# Noise.


@all_costs
@all_sizes
def test_variances_are_those_of_the_examples_gradients(sizes: Any, cost: Cost) -> None:
    s = step(sizes, cost)
    variances = statistics.gradient_variances(s.activations, s.gradients, s.X)
    for mine, each in zip(variances, s.each, strict=True):
        assert_close(mine, each.var(dim=0), rtol=1e-9, atol=1e-14)
    total = torch.stack([variance.sum() for variance in variances]).sum()
    assert_close(total, scale(s).noise)


@all_costs
def test_signal_to_noise_is_the_mean_over_its_standard_error(cost: Cost) -> None:
    s = step((7, 5, 4, 3), cost)
    variances = statistics.gradient_variances(s.activations, s.gradients, s.X)
    signal_to_noise = statistics.signal_to_noise(s.gradients, variances)
    for mine, each in zip(signal_to_noise, s.each, strict=True):
        assert_close(mine, each.mean(dim=0).abs() / (each.std(dim=0) / math.sqrt(7)))


def test_a_blank_pixel_has_no_signal_and_equal_examples_have_no_noise() -> None:
    s = step((7, 5, 4, 3), backprop.cross_entropy)
    X = s.X.clone()
    X[:, 2] = 0
    blank = made(s.params, X, s.Y, backprop.cross_entropy)
    variances = statistics.gradient_variances(blank.activations, blank.gradients, X)
    assert (statistics.signal_to_noise(blank.gradients, variances).W1[:, 2] == 0).all()
    equal = made(s.params, s.X[:1].expand(4, -1), s.Y[:1].expand(4, -1), backprop.cross_entropy)
    noise, signal, ratio = scale(equal)
    assert noise.abs() < 1e-14 * signal
    assert ratio.abs() < 1e-14
    variances = statistics.gradient_variances(equal.activations, equal.gradients, equal.X)
    assert statistics.signal_to_noise(equal.gradients, variances).b2.min() > 1e6


@all_costs
def test_noise_and_signal_are_unbiased(cost: Cost) -> None:
    population = step((4, 5, 3, 2), cost)
    rows = flat(population.each)
    batches = []
    for drawn in itertools.product(range(4), repeat=3):  # every batch of 3 there is
        index = torch.tensor(drawn)
        batches.append(
            scale(made(population.params, population.X[index], population.Y[index], cost))
        )
    noise = torch.stack([batch.noise for batch in batches]).mean()
    signal = torch.stack([batch.signal for batch in batches]).mean()
    assert_close(noise, rows.var(dim=0, correction=0).sum())
    assert_close(signal, rows.mean(dim=0).square().sum())


def test_a_signal_that_the_batch_cannot_see_makes_the_scale_infinite() -> None:
    opposite = torch.tensor([1.0, 1.0])
    nothing = [torch.zeros(3)]
    noise, signal, ratio = statistics.noise_scale(opposite, nothing)
    assert (noise, signal, ratio) == (2, -1, math.inf)


def leave_one_out(products: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate noise and signal, (2,), and their covariance (2, 2) by leaving each example out.

    B. Efron, C. Stein, The jackknife estimate of variance (1981), Annals of Statistics 9(3),
    p. 586: it errs, if at all, on the large side.
    """
    m, squares = len(products), products.diagonal()  # (m,)
    between = products.sum() - squares.sum()  # over all pairs of two examples
    signal = between / (m * (m - 1))
    rest = between - 2 * (products.sum(dim=1) - squares)  # (m,): the same without example i
    signals = rest / ((m - 1) * (m - 2))  # (m,)
    noises = (squares.sum() - squares) / (m - 1) - signals  # (m,)
    covariance = torch.stack([noises, signals]).cov(correction=0) * (m - 1)  # (2, 2)
    return torch.stack([squares.mean() - signal, signal]), covariance


def errors_off(products: Tensor, scale: Tensor) -> Tensor:
    """Return by how many standard errors a noise scale disagrees with a batch, with the sign.

    The batch gives noise - scale * signal = 0 with an error of its own; unlike their ratio, that
    has one where the batch does not see the signal (E. Fieller, Some problems in interval
    estimation (1954), Journal of the Royal Statistical Society B 16(2)).
    """
    estimates, covariance = leave_one_out(products)
    weights = torch.stack([torch.ones_like(scale), -scale])  # (2,)
    return weights @ estimates / (weights @ covariance @ weights).sqrt()


@all_costs
def test_noise_and_signal_without_each_example_give_their_error(cost: Cost) -> None:
    s = step((9, 5, 4, 3), cost)
    left = []
    for out in range(9):
        index = torch.tensor([i for i in range(9) if i != out])
        left.append(torch.stack(scale(made(s.params, s.X[index], s.Y[index], cost))[:2]))
    found = torch.stack(left)  # (9, 2)
    products = statistics.gradient_products(s.activations, s.gradients, s.X)
    estimates, covariance = leave_one_out(products)
    assert_close(estimates, torch.stack(scale(s)[:2]))
    assert_close(covariance, 8 / 9 * (found - found.mean(dim=0)).T @ (found - found.mean(dim=0)))


class Measured(NamedTuple):
    """Estimates from 1,000 batches of 64 digits, one by one and all together."""

    estimates: Tensor  # noise and signal, (1000, 2)
    products: list[Tensor]  # (64, 64) of each batch
    together: Tensor  # the scale


@pytest.fixture(scope="module", params=[0, 100], ids=["untrained", "trained"])
def measured(request: pytest.FixtureRequest) -> Measured:
    pictures, labels = load_digits(return_X_y=True)
    X = torch.tensor(pictures) / 16
    Y = torch.nn.functional.one_hot(torch.tensor(labels), 10).double()
    generator = torch.Generator().manual_seed(0)
    shapes = [(30, 64), (30,), (10, 30), (10,)]
    params = Parameters(
        *(torch.randn(n, generator=generator).double() / n[-1] ** 0.5 for n in shapes)
    )

    def draw() -> tuple[Activations, Gradients, Tensor]:
        index = torch.randint(len(X), (64,), generator=generator)
        activations = backprop.forward(params, X[index])
        gradients = backprop.backward(params, activations, X[index], Y[index])
        return activations, gradients, X[index]

    for _ in range(request.param):
        backprop.descend([*params], list(statistics.means(draw()[1])), 0.5)
    products, estimates = [], []
    for _ in range(1000):
        batch = draw()
        norms = statistics.example_norms(*batch).whole
        found = statistics.noise_scale(norms, statistics.means(batch[1]))
        estimates.append(torch.stack([found.noise, found.signal]))
        products.append(statistics.gradient_products(*batch))
    whole = torch.stack(estimates)
    noise, signal = whole.mean(dim=0)
    return Measured(whole, products, noise / signal)


def test_single_batches_agree_within_their_error_with_a_thousand(measured: Measured) -> None:
    products, together = measured.products, measured.together
    off = torch.stack([errors_off(each, together) for each in products])
    agree = (off.abs() <= 2).double().mean()
    assert 0.93 <= agree <= 0.99  # two errors: 95% if they were normal
    noise, signal = measured.estimates.T
    covariances = torch.stack([leave_one_out(each)[1] for each in products])  # (1000, 2, 2)
    if (signal > 2 * covariances[:, 1, 1].sqrt()).all():  # each batch sees its signal
        scale = noise / signal  # (1000,), whose symmetric error holds too
        weights = torch.stack([torch.ones_like(scale), -scale], dim=1)  # (1000, 2)
        error = torch.einsum("bi,bij,bj->b", weights, covariances, weights).sqrt() / signal
        agree = ((scale - together).abs() <= 2 * error).double().mean()
        assert 0.93 <= agree <= 0.98
        assert 0.95 <= error.mean() / scale.std() <= 1.25  # the jackknife's side is the large one
    else:  # and still each says something: the scale is not far below
        far = torch.stack([errors_off(each, together / 20) for each in products])
        assert (far > 2).double().mean() > 0.9


# Where the error goes.


@all_costs
@all_sizes
def test_the_vanishing_view_is_that_of_autograd(sizes: Any, cost: Cost) -> None:
    s, m = step(sizes, cost), sizes[0]
    W1, b1, W2, b2 = s.params
    z1 = (s.X @ W1.T + b1).requires_grad_()
    A1 = torch.sigmoid(z1)
    z2 = A1 @ W2.T + b2
    J = cost.value(Activations(z1, A1, z2, torch.sigmoid(z2)), s.Y)
    norms = [(m * d).norm() / math.sqrt(m) for d in torch.autograd.grad(J, (z2, A1, z1))]
    found = statistics.vanishing(s.params, s.gradients)
    assert_close(torch.stack(found[:3]), torch.stack(norms))
    assert_close(found.kept_by_W2, norms[1] / norms[0])
    assert_close(found.kept_by_slope, norms[2] / norms[1])
    assert found.kept_by_slope <= 0.25


def test_saturation_counts_activations_and_units() -> None:
    A = torch.tensor([[0.01, 0.5, 0.96], [0.99, 0.02, 0.94], [0.04, 0.7, 0.3]])
    share, dead, dead_share, slope, mean_slope = statistics.saturation(A)
    assert_close(share, torch.tensor(5 / 9))
    assert dead.tolist() == [True, False, False]
    assert_close(dead_share, torch.tensor(1 / 3))
    assert_close(slope, (A * (1 - A)).mean(dim=0))
    assert_close(mean_slope, slope.mean())
    assert statistics.saturation(A, threshold=0.005).share == 0


def test_slopes_are_those_of_autograd() -> None:
    s = step((7, 5, 4, 3), backprop.cross_entropy)
    z1 = s.activations.z1.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.sigmoid(z1).sum(), z1)
    assert_close(statistics.saturation(s.activations.A1).slope, slope.mean(dim=0))


# Steps and angles.


def test_update_to_weight_holds_for_any_optimizer() -> None:
    s = step((7, 5, 4, 3), backprop.cross_entropy)
    trained = [torch.nn.Parameter(parameter.clone()) for parameter in s.params]
    for parameter, gradient in zip(trained, of(s), strict=True):
        parameter.grad = gradient
    torch.optim.SGD(trained, lr=0.3).step()
    ratios = statistics.update_to_weight(s.params, [each.detach() for each in trained])
    for ratio, gradient, parameter in zip(ratios, of(s), s.params, strict=True):
        assert_close(ratio, 0.3 * gradient.norm() / parameter.norm())


def test_update_to_weight_of_zeros() -> None:
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert statistics.update_to_weight([zeros, zeros, ones], [zeros, ones, ones]) == [
        0,
        math.inf,
        0,
    ]


@pytest.mark.parametrize("degrees", [0.0, 5.7e-8, 1e-3, 30.0, 90.0, 179.9999999, 180.0])
def test_angles_keep_their_digits(degrees: float) -> None:
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    first = torch.tensor([3.0, 0.0], dtype=torch.float64)
    second = 0.2 * torch.stack([torch.cos(radians), torch.sin(radians)])
    found = statistics.angle([first[:1], first[1:]], [second[:1], second[1:]])
    assert_close(found.item(), degrees, rtol=1e-9, atol=1e-13)


def test_nothing_has_no_angle() -> None:
    assert statistics.angle([torch.zeros(2)], [torch.ones(2)]).isnan()


# One example, no gradient, half precision, no waiting.


@all_costs
def test_one_example_has_norms_but_no_noise(cost: Cost) -> None:
    s = step((1, 5, 4, 3), cost)
    norms = statistics.example_norms(s.activations, s.gradients, s.X)
    assert_close(norms.whole, flat(s.each).norm(dim=1))
    assert all(value.isnan() for value in scale(s))
    variances = statistics.gradient_variances(s.activations, s.gradients, s.X)
    assert all(variance.isnan().all() for variance in variances)
    assert all(each.isnan().all() for each in statistics.signal_to_noise(s.gradients, variances))
    assert all(value.isfinite() for value in statistics.vanishing(s.params, s.gradients))


def test_a_saturated_network_has_zeros_and_no_scale() -> None:
    s = step((7, 5, 4, 3), backprop.quadratic)
    params = s.params._replace(b1=s.params.b1 + 1e4, b2=s.params.b2 + 1e4)
    s = made(params, s.X, s.Y, backprop.quadratic)
    assert scale(s)[:2] == (0, 0)
    assert scale(s).scale.isnan()
    assert statistics.vanishing(s.params, s.gradients) == (0, 0, 0, 0, 0)
    variances = statistics.gradient_variances(s.activations, s.gradients, s.X)
    assert all((each == 0).all() for each in statistics.signal_to_noise(s.gradients, variances))
    health = statistics.saturation(s.activations.A1)
    assert (health.share, health.dead_share, health.mean_slope) == (1, 1, 0)


def test_half_precision_is_taken_as_float32() -> None:
    half = step((64, 5, 4, 3), backprop.cross_entropy, torch.bfloat16)
    A, G, X = half.activations, half.gradients, half.X
    wide = (
        Activations(*(tensor.double() for tensor in A)),
        Gradients(*(tensor.double() for tensor in G)),
        X.double(),
    )
    for function in PER_EXAMPLE:
        for mine, exact in zip(leaves(function(A, G, X)), leaves(function(*wide)), strict=True):
            assert mine.dtype == torch.float32
            assert_close(mine.double(), exact, rtol=1e-4, atol=1e-6)


PER_EXAMPLE: list[Callable[[Activations, Gradients, Tensor], Any]] = [
    statistics.example_norms,
    statistics.gradient_products,
    statistics.gradient_variances,
]


def leaves(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def everything(s: Step) -> None:
    """Call every statistic once."""
    A, G = s.activations, s.gradients
    norms, products, variances = (function(A, G, s.X) for function in PER_EXAMPLE)
    statistics.noise_scale(norms.whole, of(s))
    statistics.cosines(products)
    statistics.signal_to_noise(G, variances)
    statistics.vanishing(s.params, G)
    statistics.saturation(A.A1)
    statistics.update_to_weight(s.params, s.params)
    statistics.angle(of(s), of(s))
    curvature.gauss_newton_diagonal(s.params, A, s.X)
    product = curvature.hessian(s.params, A, s.X, s.Y)
    curvature.largest_eigenvalue(product, s.params, steps=3)


def test_nothing_reads_a_value_back_from_the_device() -> None:
    s = step((7, 5, 4, 3), backprop.cross_entropy)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:  # its tensors hold no values
        fake = Step(*torch.utils._pytree.tree_map(mode.from_tensor, tuple(s)))
        everything(fake)
        with pytest.raises(DataDependentOutputException):
            fake.X.sum().item()

"""Curvature by hand against autograd's, in float64."""

import itertools
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from test_statistics import SIZES, all_costs, all_sizes, by_autograd, step
from torch import Tensor
from torch.testing import assert_close

from handgrad import backprop
from handgrad.backprop import Cost, Parameters, cross_entropy, quadratic
from handgrad.statistics import curvature
from handgrad.statistics.curvature import largest_eigenvalue


def flat(parameters: Parameters) -> Tensor:
    """Return W1, b1, W2, b2 as one vector, (n,)."""
    return torch.cat([parameter.flatten() for parameter in parameters])


def shaped(vector: Tensor, like: Parameters) -> Parameters:
    """Return the vector as W1, b1, W2, b2, by operations that autograd records."""
    sizes = [parameter.numel() for parameter in like]
    return Parameters(*(one.view_as(p) for one, p in zip(vector.split(sizes), like, strict=True)))


def hessian_by_autograd(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Tensor:
    """Compute the whole matrix, (n, n)."""

    def J(vector: Tensor) -> Tensor:
        return cost.value(backprop.forward(shaped(vector, params), X), Y)

    return torch.func.jacrev(torch.func.jacrev(J))(flat(params))


@all_costs
@all_sizes
def test_the_gauss_newton_diagonal_is_autograds(sizes: Any, cost: Cost) -> None:
    s, m = step(sizes, cost), sizes[0]

    def outputs(vector: Tensor) -> Tensor:
        found = backprop.forward(shaped(vector, s.params), s.X)
        return found.z2 if cost is cross_entropy else found.A2

    J = torch.func.jacrev(outputs)(flat(s.params))  # (m, n_y, n)
    # each loss's second derivative by what it is convex in
    H = s.activations.A2 * (1 - s.activations.A2) if cost is cross_entropy else torch.ones_like(s.Y)
    expected = torch.einsum("io,iop->p", H, J**2) / m
    found = curvature.gauss_newton_diagonal(s.params, s.activations, s.X, cost=cost)
    assert_close(flat(found), expected)


@all_sizes
def test_under_the_cross_entropy_it_is_the_fisher_informations(sizes: Any) -> None:
    s, (m, _, _, n_y) = step(sizes, cross_entropy), sizes
    A2, fisher = s.activations.A2, 0
    for labels in itertools.product((0.0, 1.0), repeat=n_y):  # every answer there is
        Y = torch.tensor(labels, dtype=torch.float64).expand(m, -1)
        chance = torch.where(Y == 1, A2, 1 - A2).prod(dim=1)  # (m,)
        each = by_autograd(s.params, s.X, Y, cross_entropy)
        rows = torch.cat([part.flatten(1) for part in each], dim=1)
        fisher += (chance[:, None] * rows**2).mean(dim=0)
    assert_close(flat(curvature.gauss_newton_diagonal(s.params, s.activations, s.X)), fisher)


@all_costs
@all_sizes
def test_the_hessian_product_is_autograds(sizes: Any, cost: Cost) -> None:
    s = step(sizes, cost)
    product = curvature.hessian(s.params, s.activations, s.X, s.Y, cost=cost)
    expected = hessian_by_autograd(s.params, s.X, s.Y, cost)
    columns = [flat(product(shaped(unit, s.params))) for unit in torch.eye(len(expected)).double()]
    assert_close(torch.stack(columns), expected, rtol=1e-10, atol=1e-14)


@all_costs
@pytest.mark.parametrize("sizes", [*SIZES, (1, 5, 4, 3)], ids=str)
def test_the_largest_eigenvalue_is_autograds(sizes: Any, cost: Cost) -> None:
    s = step(sizes, cost)
    product = curvature.hessian(s.params, s.activations, s.X, s.Y, cost=cost)
    values, vectors = torch.linalg.eigh(hessian_by_autograd(s.params, s.X, s.Y, cost))
    start = shaped(torch.linspace(-1, 2, len(values)).double(), s.params)
    found = largest_eigenvalue(product, start, steps=60)  # more than some have parameters
    assert_close(found.value, values[-1], rtol=1e-9, atol=1e-12)
    assert_close((flat(found.vector) @ vectors[:, -1]).abs().item(), 1.0, rtol=1e-6, atol=0)
    assert found.residual < 1e-6


@pytest.fixture(scope="module")
def digits() -> tuple[Parameters, Tensor, Tensor]:
    """Return a 64-8-10 network after 200 steps on 256 digits, in float64: 618 parameters."""
    pictures, labels = load_digits(return_X_y=True)
    X = torch.tensor(pictures[:256]) / 16
    Y = torch.nn.functional.one_hot(torch.tensor(labels[:256]), 10).double()
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 64), (8,), (10, 8), (10,)]
    params = Parameters(*(0.3 * torch.randn(*n, generator=generator).double() for n in shapes))
    for _ in range(200):
        _, dW2, db2, _, dW1, db1 = backprop.backward(params, backprop.forward(params, X), X, Y)
        backprop.descend([*params], [dW1, db1, dW2, db2], 1.0)
    return params, X, Y


@all_costs
def test_twenty_products_find_the_top_of_a_trained_network(digits: Any, cost: Cost) -> None:
    params, X, Y = digits
    top = torch.linalg.eigvalsh(hessian_by_autograd(params, X, Y, cost))[-1]
    product = curvature.hessian(params, backprop.forward(params, X), X, Y, cost=cost)
    generator = torch.Generator().manual_seed(1)
    start = Parameters(*(torch.randn(p.shape, generator=generator).double() for p in params))
    found = largest_eigenvalue(product, start)
    assert abs(found.value - top) <= 1e-6 * top
    image = product(found.vector)
    misfit = flat(image) - found.value * flat(found.vector)
    assert_close(found.residual, misfit.norm(), rtol=1e-6, atol=1e-12)
    assert top - found.value <= found.residual


def operator(*eigenvalues: float) -> tuple[curvature.Operator, Parameters]:
    """Return a diagonal operator on four numbers, and a start with a component along each."""
    diagonal = torch.tensor(eigenvalues, dtype=torch.float64)
    start = shaped_four(torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64))
    return lambda v: shaped_four(diagonal * flat(v)), start


def shaped_four(vector: Tensor) -> Parameters:
    return Parameters(vector[0:1, None], vector[1:2], vector[2:3, None], vector[3:4])


@pytest.mark.parametrize(
    "eigenvalues",
    [
        (-9, -1, -2, -3),
        (-9, 1, 2, 3),
        (5, 5, 5, 5),
        (0, 0, 0, 0),
        (-4, -4, -4, -4),
        (1e-9, 0, 0, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [4, 20])
def test_the_largest_is_not_the_largest_in_magnitude(eigenvalues: Any, steps: int) -> None:
    product, start = operator(*eigenvalues)
    found = largest_eigenvalue(product, start, steps)
    assert_close(found.value.item(), float(max(eigenvalues)), rtol=1e-9, atol=1e-14)
    assert_close(flat(found.vector).norm().item(), 1.0)


def test_one_step_is_the_rayleigh_quotient_of_the_start() -> None:
    product, start = operator(1, 2, 3, 4)
    v = flat(start) / flat(start).norm()
    found = largest_eigenvalue(product, start, steps=1)
    assert_close(found.value, v @ flat(product(shaped_four(v))))


def test_a_hessian_that_is_not_finite_has_no_eigenvalue() -> None:
    product, start = operator(1, float("nan"), 2, 3)
    assert largest_eigenvalue(product, start).value.isnan()


def test_a_saturated_network_is_flat() -> None:
    s = step((7, 5, 4, 3), quadratic)
    params = s.params._replace(b1=s.params.b1 + 1e4, b2=s.params.b2 + 1e4)
    product = curvature.hessian(params, backprop.forward(params, s.X), s.X, s.Y, cost=quadratic)
    assert largest_eigenvalue(product, s.params).value == 0

"""`autograd.Function`: PyTorch's own checks, and what other people's training does with it."""

from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Cost, Parameters
from handgrad.rules.autograd_function import two_layer_cost

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
all_costs = pytest.mark.parametrize("cost", COSTS)
NAMES = ("dW1", "db1", "dW2", "db2")


def problem() -> tuple[Parameters, Tensor, Tensor]:
    """Return float64 leaves that require gradients, and Y, at m, n_x, n_h, n_y = 6, 5, 4, 3."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 5), (4,), (3, 4), (3,), (6, 5), (6, 3)]
    *leaves, Y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    W1, b1, W2, b2, X = (leaf.requires_grad_() for leaf in leaves)
    return Parameters(W1, b1, W2, b2), X, Y.sigmoid()


def by_autograd(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Tensor:
    """Compute the same cost, recorded by autograd operation by operation."""
    return cost.value(backprop.forward(params, X), Y)


@all_costs
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_pytorchs_own_checks_pass_with_respect_to_every_input(check: Any, cost: str) -> None:
    params, X, Y = problem()

    def function(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor) -> Tensor:
        return two_layer_cost(Parameters(W1, b1, W2, b2), X, Y, COSTS[cost])

    assert check(function, (*params, X))


@all_costs
def test_gradients_and_cost_match_the_oracle(cost: str) -> None:
    params, X, Y = problem()
    J = two_layer_cost(params, X, Y, COSTS[cost])
    J.backward()
    W1, b1, W2, b2 = (parameter.detach() for parameter in params)
    expected = oracles.column_textbook(W1, b1, W2, b2, X.detach(), Y, cost)
    torch.testing.assert_close(J.detach(), expected["J"], rtol=1e-12, atol=0)
    for parameter, name in zip(params, NAMES, strict=True):
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-11, atol=1e-14)
    by_X = torch.autograd.grad(by_autograd(params, X, Y, COSTS[cost]), X)[0]
    torch.testing.assert_close(X.grad, by_X, rtol=1e-11, atol=1e-14)


def test_the_gradient_that_arrives_is_a_factor() -> None:
    params, X, Y = problem()
    plain = torch.autograd.grad(two_layer_cost(params, X, Y), (*params, X))
    scaled = torch.autograd.grad(-65536 / 3 * two_layer_cost(params, X, Y), (*params, X))
    for once, many in zip(plain, scaled, strict=True):
        torch.testing.assert_close(many, -65536 / 3 * once, rtol=1e-13, atol=0)


@all_costs
def test_a_gradient_penalty_keeps_its_second_order_term(cost: str) -> None:
    params, X, Y = problem()
    penalties = []
    for J in (two_layer_cost(params, X, Y, COSTS[cost]), by_autograd(params, X, Y, COSTS[cost])):
        gradients = torch.autograd.grad(J, params, create_graph=True)
        penalty = J + sum((g**2).sum() for g in gradients)
        penalties.append(torch.autograd.grad(penalty, (*params, X)))
    for own, reference in zip(*penalties, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-11, atol=1e-14)


@all_costs
def test_func_grad_and_per_example_gradients_match(cost: str) -> None:
    params, X, Y = problem()
    params, X = Parameters(*(p.detach() for p in params)), X.detach()

    def of_one(params: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return two_layer_cost(params, x[None], y[None], COSTS[cost])

    whole = torch.func.grad(two_layer_cost)(params, X, Y, COSTS[cost])
    each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0, 0))(params, X, Y)
    expected = oracles.per_example_loop(*params, X, Y, cost)
    for batch, single, name in zip(whole, each, NAMES, strict=True):
        assert single.shape == (6, *batch.shape)
        torch.testing.assert_close(batch, expected[name], rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(single.mean(dim=0), expected[name], rtol=1e-11, atol=1e-14)


def test_a_frozen_parameter_gets_no_gradient_and_the_others_theirs() -> None:
    params, X, Y = problem()
    expected = torch.autograd.grad(two_layer_cost(params, X, Y), params)
    params.W1.requires_grad_(False)
    X = X.detach()
    two_layer_cost(params, X, Y).backward()
    assert params.W1.grad is None
    assert X.grad is None
    for parameter, gradient in zip(params[1:], expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)


def test_gradients_accumulate_over_calls() -> None:
    params, X, Y = problem()
    for rows in (slice(0, 2), slice(2, 6)):
        part = two_layer_cost(params, X[rows], Y[rows])
        (part * len(X[rows]) / len(X)).backward()
    expected = torch.autograd.grad(two_layer_cost(params, X, Y), params)
    for parameter, gradient in zip(params, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-15)


def test_it_serves_as_a_layer_under_another_model() -> None:
    params, X, Y = problem()
    features = torch.nn.Linear(5, 5).double()
    hidden = features(X).tanh()
    own, reference = (
        torch.autograd.grad(J, list(features.parameters()), retain_graph=True)
        for J in (
            two_layer_cost(params, hidden, Y),
            by_autograd(params, hidden, Y, backprop.cross_entropy),
        )
    )
    for left, right in zip(own, reference, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_dtypes_keep_theirs(dtype: torch.dtype) -> None:
    params, X, Y = problem()
    wide = torch.autograd.grad(two_layer_cost(params, X, Y), (*params, X))
    leaves = [p.detach().to(dtype).requires_grad_() for p in (*params, X)]
    J = two_layer_cost(Parameters(*leaves[:4]), leaves[4], Y.to(dtype))
    J.backward()
    tolerance = 30 * torch.finfo(dtype).eps
    for leaf, reference in zip(leaves, wide, strict=True):
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert (leaf.grad.double() - reference).norm() <= tolerance * reference.norm()


def test_it_works_under_autocast() -> None:
    params, X, Y = problem()
    wide = torch.autograd.grad(two_layer_cost(params, X, Y), params)
    leaves = [p.detach().float().requires_grad_() for p in params]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        J = two_layer_cost(Parameters(*leaves), X.detach().float(), Y.float())
    J.backward()
    for leaf, reference in zip(leaves, wide, strict=True):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32
        assert (leaf.grad.double() - reference).norm() <= 0.05 * reference.norm()


def test_targets_that_require_a_gradient_are_refused() -> None:
    params, X, Y = problem()
    with pytest.raises(ValueError, match="targets are constants"):
        two_layer_cost(params, X, Y.requires_grad_())


def test_a_wrong_shape_is_refused_with_both_shapes() -> None:
    params, X, Y = problem()
    with pytest.raises(ValueError, match=r"Y has shape \(6,\), must be \(6, 3\)"):
        two_layer_cost(params, X, Y[:, 0])

"""Complex step and finite differences: both agree with the equations, and err as they should."""

import math

import pytest
import torch
from torch import Tensor

from handgrad import rules
from handgrad.audit.judge import probe_inputs
from handgrad.audit.numerical import (
    BLOCKS,
    Curve,
    block_errors,
    directional_derivative,
    error_versus_h,
)
from handgrad.backprop import Cost, Parameters, backward, cross_entropy, forward, quadratic

COSTS = pytest.mark.parametrize("cost", [cross_entropy, quadratic], ids=["cross", "quadratic"])


def saturated() -> tuple[Parameters, Tensor, Tensor]:
    params, X, Y = probe_inputs(0, torch.float64)[0]
    return Parameters(*(30 * parameter for parameter in params)), X, Y


def complex_step_gradient(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Parameters:
    """Compute dW1, db1, dW2, db2 in float64, every coordinate by a complex step of its own."""
    gradient = Parameters(*map(torch.zeros_like, params))
    for block, slopes in enumerate(gradient):
        for place in range(slopes.numel()):
            unit = Parameters(*map(torch.zeros_like, params))
            unit[block].view(-1)[place] = 1
            slopes.view(-1)[place] = directional_derivative(params, unit, X, Y, cost)
    return gradient


@COSTS
def test_every_coordinate_agrees_with_the_equations_to_rounding(cost: Cost) -> None:
    for params, X, Y in [*probe_inputs(0, torch.float64), saturated()]:
        by_hand = backward(params, forward(params, X), X, Y, dz2=cost.dz2)
        found = complex_step_gradient(params, X, Y, cost)
        for block in BLOCKS:
            exact, evidence = getattr(by_hand, f"d{block}"), getattr(found, block)
            torch.testing.assert_close(evidence, exact, rtol=1e-12, atol=1e-14)


@COSTS
def test_the_complex_step_agrees_with_autograd_of_another_formula(cost: Cost) -> None:
    params, X, Y = probe_inputs(1, torch.float64)[0]
    leaves = Parameters(*(parameter.clone().requires_grad_() for parameter in params))
    A1 = 1 / (1 + torch.exp(-(X @ leaves.W1.T + leaves.b1)))
    A2 = 1 / (1 + torch.exp(-(A1 @ leaves.W2.T + leaves.b2)))
    if cost is quadratic:
        J = ((A2 - Y) ** 2).sum() / (2 * len(X))
    else:
        J = -(Y * A2.log() + (1 - Y) * (1 - A2).log()).sum() / len(X)
    J.backward()
    found = complex_step_gradient(params, X, Y, cost)
    for evidence, leaf in zip(found, leaves, strict=True):
        torch.testing.assert_close(evidence, leaf.grad, rtol=1e-10, atol=1e-13)


@COSTS
def test_the_three_methods_err_as_they_should(cost: Cost) -> None:
    params, X, Y = probe_inputs(0, torch.float64)[1]
    gradients = rules.closed_form(cost)(params, forward(params, X), X, Y)

    def worst(method: str, step: float) -> float:
        return max(block_errors(gradients, params, X, Y, cost, method=method, step=step).values())

    assert worst("complex", 1e-30) < 1e-14
    assert 1e-15 < worst("central", 1e-5) < 1e-8
    assert worst("central", 1e-5) < worst("forward", 1e-7) < 1e-5


@pytest.mark.parametrize("method", ["complex", "central", "forward"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_wrong_gradient_is_contradicted_in_its_block_alone(method: str, block: str) -> None:
    params, X, Y = probe_inputs(0, torch.float64)[2]
    right = backward(params, forward(params, X), X, Y)
    wrong = right._replace(**{f"d{block}": 1.001 * getattr(right, f"d{block}")})
    step = {"complex": 1e-30, "central": 1e-5, "forward": 1e-7}[method]
    errors = block_errors(wrong, params, X, Y, method=method, step=step, directions=5)
    assert {name for name, error in errors.items() if error > 1e-5} == {block}


@COSTS
def test_float32_parameters_are_taken_at_face_value(cost: Cost) -> None:
    params, X, Y = probe_inputs(0, torch.float32)[0]
    gradients = rules.closed_form(cost)(params, forward(params, X), X, Y)
    assert max(block_errors(gradients, params, X, Y, cost).values()) < 1e-6


def test_an_unknown_method_is_refused() -> None:
    params, X, Y = probe_inputs(0, torch.float64)[0]
    with pytest.raises(ValueError, match="method=backward: must be complex, central or forward"):
        directional_derivative(params, params, X, Y, method="backward")


def slope(curve: Curve, largest: float, smallest: float) -> float:
    """Return the mean slope of log error over log h."""
    inside = [
        (math.log10(h), math.log10(error))
        for h, error in zip(curve.steps, curve.errors, strict=True)
        if smallest * 0.99 <= h <= largest * 1.01
    ]
    (h1, e1), (h2, e2) = inside[0], inside[-1]
    return (e2 - e1) / (h2 - h1)


@COSTS
def test_the_errors_fall_and_rise_with_h_as_theory_says(cost: Cost) -> None:
    curves = error_versus_h(*probe_inputs(0, torch.float64)[0], cost)
    named = {(curve.block, curve.dtype, curve.method): curve for curve in curves}
    assert len(named) == len(curves) == 5 * 2 * 3
    for block in (*BLOCKS, "all"):
        forward_, central, complex_ = (
            named[block, "float64", method] for method in ("forward", "central", "complex")
        )
        assert slope(forward_, 1e-2, 1e-5) == pytest.approx(1, abs=0.15)
        assert slope(central, 1e-1, 1e-3) == pytest.approx(2, abs=0.2)
        assert slope(complex_, 1e-1, 1e-4) == pytest.approx(2, abs=0.2)
        assert -2 < slope(central, 1e-8, 1e-14) < -0.5
        assert max(complex_.errors[-12:]) < 1e-13
        assert min(named[block, "float32", "central"].errors) > 1e-7
        assert max(named[block, "float32", "complex"].errors[-12:]) < 1e-4
        assert min(forward_.errors) > 100 * min(complex_.errors)


def test_the_steps_can_be_chosen() -> None:
    curves = error_versus_h(*probe_inputs(0)[0], steps=[1e-3, 1e-6])
    assert all(curve.steps == [1e-3, 1e-6] for curve in curves)
    assert all(len(curve.errors) == 2 for curve in curves)

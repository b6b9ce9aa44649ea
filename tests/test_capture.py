"""The recorded equations give the bits of the equations, also for other numbers than at first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import fit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handgrad import backprop, rules
from handgrad.backprop import Activations, Cost, Gradients, Parameters, backward, forward
from handgrad.rules import feedback
from handgrad.rules.feedback import Rule
from handgrad.training.capture import CannotCapture, Capture, Captured, Equations

RULES: dict[str, Callable[[Cost], Rule]] = {
    "closed_form": rules.closed_form,
    "feedback_alignment": rules.feedback_alignment,
    "sign_symmetric": rules.sign_symmetric,
    "sign_concordant": rules.sign_concordant,
    "flat_spot": rules.flat_spot,
}
COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def params_of(n_x: int, n_h: int, n_y: int, dtype: torch.dtype = torch.float32) -> Parameters:
    shapes = ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))
    return Parameters(*(numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)))


def equations(params: Parameters, rule: Rule) -> Equations:
    def compute(X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        activations = forward(params, X)
        return activations, rule(params, activations, X, Y)

    return compute


def assert_same_bits(given: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    for part, true in zip(given, expected, strict=True):
        for name, value in part._asdict().items():
            assert torch.equal(value, getattr(true, name)), name


@settings(max_examples=60, deadline=None)
@given(
    *(st.integers(1, 9) for _ in range(4)),
    st.sampled_from(sorted(RULES)),
    st.sampled_from(sorted(COSTS)),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_recording_gives_the_bits_of_the_equations_wherever_descent_goes(
    m: int, n_x: int, n_h: int, n_y: int, rule: str, cost: str, dtype: torch.dtype
) -> None:
    params = params_of(n_x, n_h, n_y, dtype)
    compute = equations(params, RULES[rule](COSTS[cost]))
    block = numbers(4 * m, n_x, seed=8, dtype=dtype)
    targets = numbers(4 * m, n_y, seed=9, dtype=dtype).sigmoid()
    recording = Capture(compute, block[:m], targets[:m])
    for start in range(m, 4 * m, m):
        X, Y = block[start : start + m], targets[start : start + m]
        expected = compute(X, Y)
        assert_same_bits(recording(X, Y), expected)
        for parameter, gradient in zip(params, (4, 5, 1, 2), strict=True):
            parameter -= 0.5 * expected[1][gradient]


def test_one_operation_left_out_of_a_recording_is_seen() -> None:
    params = params_of(5, 4, 3)
    compute, X, Y = equations(params, rules.closed_form(backprop.quadratic)), *data(6, 5, 3)
    recording = Capture(compute, X, Y)
    for left_out in range(len(recording.steps)):
        broken = Capture(compute, X, Y)
        del broken.steps[left_out]
        other = data(6, 5, 3, seed=20)
        with pytest.raises(AssertionError):
            assert_same_bits(broken(*other), compute(*other))


def data(m: int, n_x: int, n_y: int, seed: int = 10) -> tuple[Tensor, Tensor]:
    return numbers(m, n_x, seed=seed), numbers(m, n_y, seed=seed + 1).sigmoid()


def looks_at_a_value(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    return gradients if float(a.A2.sum()) > 0 else gradients._replace(db1=-gradients.db1)


def draws(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    return gradients._replace(db1=gradients.db1 + torch.randn_like(gradients.db1))


def writes_in_place(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    gradients.db1.mul_(2)
    return gradients


def looks_at_the_inputs(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    return gradients._replace(dW1=(X.T @ gradients.dz1).T / len(X))


counted = iter(range(1000))


def counts_its_calls(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    return gradients._replace(db1=gradients.db1 * next(counted))


@pytest.mark.parametrize(
    "rule", [looks_at_a_value, draws, writes_in_place, looks_at_the_inputs, counts_its_calls]
)
def test_what_cannot_be_made_again_is_not_recorded(rule: Rule) -> None:
    compute, (X, Y) = equations(params_of(5, 4, 3), rule), data(6, 5, 3)
    with pytest.raises(CannotCapture):
        Capture(compute, X, Y)
    assert not isinstance(Captured(compute).learnt(X, Y), Capture)


def test_a_recording_keeps_what_is_read_later_and_little_else() -> None:
    m, n_h = 64, 50
    compute, (X, Y) = (
        equations(params_of(5, n_h, 3), rules.closed_form(backprop.quadratic)),
        data(m, 5, 3),
    )
    recording = Capture(compute, X, Y)
    outs = [keywords["out"] for _, _, keywords in recording.steps]
    places = {out.untyped_storage().data_ptr() for out in outs if out.shape == (m, n_h)}
    results = {each.untyped_storage().data_ptr() for part in recording.results for each in part}
    assert len(results) == 10  # none lies over another
    assert len(places) == 4  # z1, A1, dz1, and 1 - A1


def over_its_own_transpose(params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    gradients = backward(params, a, X, Y)
    square = gradients.dW2.T @ gradients.dW2
    return gradients._replace(dz1=gradients.dz1 @ (square / (square.T + 1)))


def test_an_operand_that_is_read_as_it_lies_otherwise_is_not_overwritten() -> None:
    params, (X, Y) = params_of(5, 4, 3), data(6, 5, 3)
    compute, others = equations(params, over_its_own_transpose), data(6, 5, 3, seed=20)
    assert_same_bits(Capture(compute, X, Y)(*others), compute(*others))


def test_only_rules_known_to_be_the_same_each_time_are_recorded() -> None:
    for name, factory in RULES.items():
        assert feedback.makes_the_same_operations(factory(backprop.quadratic)), name
    assert not feedback.makes_the_same_operations(counts_its_calls)
    assert not feedback.makes_the_same_operations(rules.autograd(backprop.quadratic))
    assert not feedback.makes_the_same_operations(None)


def test_large_results_are_not_kept() -> None:
    compute = equations(params_of(2, 3000, 2), rules.closed_form(backprop.cross_entropy))
    X, Y = data(800, 2, 2)
    with pytest.raises(CannotCapture, match="large"):
        Capture(compute, X, Y)


@pytest.mark.parametrize("overrides", [(), ("data.microbatch=7",), ("optimizer.accumulate=3",)])
def test_training_with_recorded_equations_ends_at_the_same_bits(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("data.batch_size=32", "trainer.max_epochs=2", "dashboard=off", *overrides)
    recorded = fit(*common)
    assert isinstance(recorded.network.updates.equations, Captured)
    made = recorded.network.updates.equations.known.values()
    assert all(isinstance(each, Capture) for each in made)
    monkeypatch.setattr("handgrad.module.makes_the_same_operations", lambda rule: False)
    plain = fit(*common)
    assert not isinstance(plain.network.updates.equations, Captured)
    for one, other in zip(recorded.network.params, plain.network.params, strict=True):
        assert torch.equal(one, other)

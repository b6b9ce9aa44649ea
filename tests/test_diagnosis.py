"""Diagnosis: a sentence says what a wrong line looks like, and what it should be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from handgrad import rules
from handgrad.audit.diagnosis import equation
from handgrad.audit.judge import audit, audit_probes, probe_inputs
from handgrad.backprop import Cost, Gradients, Parameters, cross_entropy, quadratic
from handgrad.rules.planted import plant

BACK, SLOPE = "(dz2 @ W2)", "A1 * (1 - A1)"
A2 = "activations.A2"

# line, what is written there, what the hint says
TOLD = [
    ("dz2", "-dz2(activations, Y)", "the right line with the wrong sign"),
    ("dz2", "dz2(activations, Y) / m", "times 1/m, which belongs to dW and db"),
    ("dz2", "dz2(activations, Y) * Y.shape[1]", "times the number of outputs"),
    ("dz2", "dz2(activations, Y) / Y.shape[1]", "divided by the number of outputs"),
    ("dz2", "2 * dz2(activations, Y)", "twice the right line"),
    ("dz2", f"{A2} + Y", "A2 + Y"),
    ("dz2", f"{A2}", "A2 alone, without the targets"),
    ("dz2", "activations.z2 - Y", "z2 - Y, without the sigmoid"),
    ("dz2", f"torch.sigmoid({A2}) - Y", "with the sigmoid twice"),
    ("dz2", "torch.softmax(activations.z2, 1) - Y", "softmax(z2) - Y"),
    ("dz2", f"({A2} - Y) / {A2} / (1 - {A2})", "which is dA2"),
    ("dz2", f"({A2} - Y) * (1 - {A2} ** 2)", "(A2 - Y) * (1 - A2^2), the slope of tanh"),
    ("dW2", "dz2.T @ A1", "without the factor 1/m"),
    ("dW2", "dz2.T @ A1 / m / m", "with 1/m twice"),
    ("dW2", "dz2.T @ A1 / (m - 1)", "1/(m - 1) in place of 1/m"),
    ("dW2", "dz2.T @ A1 / m / Y.shape[1]", "divided by the number of outputs"),
    ("dW2", "dz2[:-1].T @ A1[:-1] / m", "without the last example (but 1/m)"),
    ("dW2", "dz2[:-1].T @ A1[:-1] / (m - 1)", "without the last example (and 1/(m - 1))"),
    ("dW2", "dz2.T @ activations.z1 / m", "z1 in place of A1"),
    ("dW2", "dz2.T @ A1 / m + 0.37 * W2", "+ 0.37 W2 (weight decay)"),
    ("db2", "dz2.sum(dim=0)", "without the factor 1/m"),
    ("db2", "dz2.mean().expand(dz2.shape[1])", "the mean of all of dz2, over outputs too"),
    ("db2", "dz2.sum().expand(dz2.shape[1])", "the sum of all of dz2, over units too"),
    ("db2", "dz2.sum(dim=1)", "summed over the wrong axis"),
    ("db2", "dz2[-1]", "the last example's gradient alone"),
    ("db2", "dz2.abs().mean(dim=0)", "without its sign"),
    ("dz1", f"{BACK}", "W2^T dz2 without the factor sigma'(z1)"),
    ("dz1", f"{BACK} * ({SLOPE}) ** 2", "with the factor sigma'(z1) twice"),
    ("dz1", f"{BACK} * A1.sigmoid() * (1 - A1.sigmoid())", "sigma' of the wrong variable"),
    ("dz1", f"{BACK} * (1 - A1 ** 2)", "(1 - A1^2), the slope of tanh"),
    ("dz1", f"{BACK} * (1 - torch.tanh(activations.z1) ** 2)", "(1 - tanh(z1)^2)"),
    ("dz1", f"{BACK} * (activations.z1 > 0)", "the slope of ReLU"),
    ("dz1", f"{BACK} * A1", "A1, without the factor (1 - A1)"),
    ("dz1", f"{BACK} * A1 * (1 + A1)", "a sign wrong in sigma'"),
    ("dz1", f"(dz2 * {A2} * (1 - {A2})) @ W2", "sigma' of the wrong layer"),
    ("dz1", f"({A2} @ W2) * {SLOPE}", "A2 in place of dz2"),
    ("dz1", f"(dz2 @ (W2 - 0.25 * dW2)) * {SLOPE}", "already updated to W2 - 0.25 dW2"),
    ("dz1", f"(dz2 @ (W2 - 3e-3 * dW2)) * {SLOPE}", "already updated to W2 - 0.003 dW2"),
    ("dz1", f"{BACK} * {SLOPE} / m", "times 1/m, which belongs to dW and db"),
    ("dW1", "dz1.T @ X", "without the factor 1/m"),
    ("dW1", "dz1.T @ X / -m", "with the wrong sign"),
    ("dW1", f"{BACK}.T @ X / m", "W2^T dz2 in place of dz1"),
    ("dW1", "dz1.mean(dim=0).outer(X.mean(dim=0))", "the product of the means"),
    ("dW1", "(X.T @ dz1 / m).reshape(params.W1.shape)", "transposed and reshaped"),
    ("dW1", "dz1.T @ X / m + 0.01 * params.W1", "+ 0.01 W1 (weight decay)"),
    ("dW1", "X.T @ dz1 / m", "a transposed product"),
    ("db1", "torch.zeros_like(params.b1)", "zero"),
    ("db1", "dz1.sum(dim=0) / m * 1.0025", "1.0025 times the right line"),
    ("db1", "dz1.mean(dim=0, keepdim=True)", "keepdim"),
    ("db1", "dz1[:-1].mean(dim=0)", "without the last example (and 1/(m - 1))"),
]


@pytest.mark.parametrize(("line", "written", "told"), TOLD, ids=lambda text: text)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_mistake_is_told(line: str, written: str, told: str, dtype: torch.dtype) -> None:
    report = audit_probes(plant({line: written}), dtype=dtype)
    assert report.wrong == (line,)
    (wrong,) = (each for each in report.lines if each.name == line)
    assert told in wrong.hint
    if "looks like" in wrong.hint:
        assert wrong.hint.endswith(f"the line should be {equation(line, cross_entropy)}")


@pytest.mark.parametrize(
    ("cost", "name", "told"),
    [
        (cross_entropy, "quadratic_delta", "(A2 - Y) sigma'(z2), the quadratic cost's"),
        (quadratic, "cross_entropy_delta", "A2 - Y, cross-entropy's"),
    ],
    ids=["cross", "quadratic"],
)
def test_the_other_costs_dz2_is_told(cost: Cost, name: str, told: str) -> None:
    report = audit_probes(rules.mistake(cost, name), cost)
    assert told in report.lines[0].hint
    assert equation("dz2", cost) in report.lines[0].hint


def test_square_weights_tell_the_missing_transpose() -> None:
    generator = torch.Generator().manual_seed(0)
    W1, W2, X = (torch.randn(*shape, generator=generator) for shape in ((4, 4), (4, 4), (6, 4)))
    params = Parameters(W1, W1[0], W2, W2[0])
    Y = torch.rand(6, 4, generator=generator)
    for line, written, told in [
        ("dz1", f"(dz2 @ W2.T) * {SLOPE}", "without the transpose"),
        ("dW1", "X.T @ dz1 / m", "(1/m) X dz1^T, transposed"),
        ("dW2", "A1.T @ dz2 / m", "(1/m) A1 dz2^T, transposed"),
    ]:
        report = audit(plant({line: written}), params, X, Y)
        assert report.wrong == (line,)
        assert any(told in each.hint for each in report.lines)


def place(name: str, index: Any) -> Callable[..., Gradients]:
    """Return the right rule with one place of a result changed."""

    def rule(*inputs: Any) -> Gradients:
        gradients = rules.closed_form(cross_entropy)(*inputs)
        getattr(gradients, name)[index] += 0.5
        return gradients

    return rule


@pytest.mark.parametrize(
    ("name", "index", "told"),
    [
        ("dW1", 2, "only in row 2 (counted from 0)"),
        ("dW1", (slice(None), 3), "only in column 3 (counted from 0)"),
        ("db1", 4, "in 1 of 7 entries"),
    ],
    ids=["row", "column", "entry"],
)
def test_an_unknown_mistake_is_told_by_its_place(name: str, index: Any, told: str) -> None:
    report = audit(place(name, index), *probe_inputs()[0])
    (line,) = (line for line in report.lines if line.name == name)
    assert told in line.hint
    assert "unlike any known mistake" in line.hint
    assert equation(name, cross_entropy) in line.hint


def test_the_equation_of_another_cost_is_its_derivative() -> None:
    other = Cost(cross_entropy.value, quadratic.dz2)
    assert equation("dz2", other) == "dz2 = m dJ/dz2"
    assert equation("dz2", quadratic) == "dz2 = (A2 - Y) * A2 (1 - A2)"

"""Audit: right rules pass, wrong ones are accused of the wrong line, and no rule makes it raise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from handgrad import rules
from handgrad.audit.freivalds import NAMES, checksum
from handgrad.audit.judge import Report, audit, audit_probes, probe_inputs, worst
from handgrad.backprop import (
    Activations,
    Cost,
    Gradients,
    Parameters,
    backward,
    cross_entropy,
    forward,
    quadratic,
)
from handgrad.rules.planted import MISTAKES, RIGHT_UNDER, plant

COSTS = pytest.mark.parametrize("cost", [cross_entropy, quadratic], ids=["cross", "quadratic"])
FULL = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
ANY = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
SHIPPED = pytest.mark.parametrize(
    ("name", "cost"),
    [
        pytest.param(name, cost, id=f"{name}-{title}")
        for cost, title in ((cross_entropy, "cross"), (quadratic, "quadratic"))
        for name in MISTAKES
        if RIGHT_UNDER.get(name) is not cost.dz2
    ],
)
LINES = Gradients._fields


def network(
    m: int, n_x: int, n_h: int, n_y: int, *, inputs: float, weights: float, seed: int
) -> tuple[Parameters, Tensor, Tensor]:
    """Return random params, X, Y in float64. Odd seeds have hard targets."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W1, W2 = weights * normal(n_h, n_x) / n_x**0.5, weights * normal(n_y, n_h) / n_h**0.5
    params = Parameters(W1, weights * normal(n_h), W2, weights * normal(n_y))
    Y = torch.sigmoid(normal(m, n_y))
    return params, inputs * normal(m, n_x), Y.round() if seed % 2 else Y


def cast(
    point: tuple[Parameters, Tensor, Tensor], dtype: torch.dtype
) -> tuple[Parameters, Tensor, Tensor]:
    params, X, Y = point
    return Parameters(*(tensor.to(dtype) for tensor in params)), X.to(dtype), Y.to(dtype)


def otherwise(cost: Cost) -> Callable[..., Gradients]:
    """Return a right rule that computes everything anew, by other operations in another order."""

    def rule(params: Parameters, _: Activations, X: Tensor, Y: Tensor) -> Gradients:
        W1, b1, W2, b2 = params
        A1 = 1 / (1 + torch.exp(-linear(X, W1, b1)))
        A2 = torch.special.expit(torch.addmm(b2, A1, W2.T))
        dz2 = (A2 - Y) * (A2 * (1 - A2)) if cost is quadratic else A2 - Y
        dz1 = torch.einsum("mk,kh->mh", dz2, W2) * (A1 - A1 * A1)
        dW1 = torch.stack([torch.outer(dz, x) for dz, x in zip(dz1, X, strict=True)]).mean(dim=0)
        return Gradients(dz2, (dz2 / len(X)).T @ A1, dz2.mean(dim=0), dz1, dW1, dz1.mean(dim=0))

    return rule


def short(rule: Callable[..., Gradients]) -> Callable[..., tuple[Tensor, ...]]:
    """Return the same rule without dz2 and dz1 in its result."""

    def four(*inputs: Any) -> tuple[Tensor, ...]:
        gradients = rule(*inputs)
        return gradients.dW1, gradients.db1, gradients.dW2, gradients.db2

    return four


def changed(**lines: Callable[[Gradients], Any]) -> Callable[..., Any]:
    """Return the right rule with some fields of its result replaced."""

    def rule(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
        right = backward(params, activations, X, Y)
        return right._replace(**{name: change(right) for name, change in lines.items()})

    return rule


def hint(report: Report, name: str) -> str:
    return report.lines[LINES.index(name)].hint


# Right rules are proved.


@COSTS
@ANY
def test_the_equations_and_autograd_are_proved(cost: Cost, dtype: torch.dtype) -> None:
    for rule in (rules.closed_form(cost), rules.autograd(cost)):
        report = audit_probes(rule, cost, dtype)
        assert report.ok, report
        assert report.wrong == ()
        assert [line.name for line in report.lines] == list(LINES)
        assert all(line.hint == "" for line in report.lines)


def test_no_false_alarm_over_500_random_shapes_and_scales() -> None:
    random = np.random.default_rng(0)
    for seed in range(500):
        largest = 120 if seed % 50 == 0 else 12
        shape = [int(size) for size in random.integers(1, largest, 4)]
        inputs, weights = 10 ** random.uniform(-2, 1.5), 10 ** random.uniform(-1, 1.5)
        point = network(*shape, inputs=inputs, weights=weights, seed=seed)
        dtype = (torch.float64, torch.float32)[seed % 2]
        for cost in (cross_entropy, quadratic):
            rule = (rules.closed_form, rules.autograd, otherwise)[seed % 3](cost)
            report = audit(rule, *cast(point, dtype), cost)
            assert report.ok, (shape, inputs, weights, report)
            assert all(line.residual < 4 for line in report.lines)  # far from the tolerance


@COSTS
@ANY
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_no_false_alarm_where_every_unit_is_saturated(
    cost: Cost, dtype: torch.dtype, scale: float
) -> None:
    for seed in range(6):
        point = cast(network(9, 6, 7, 3, inputs=3, weights=scale, seed=seed), dtype)
        assert audit(rules.closed_form(cost), *point, cost).ok


@COSTS
@FULL
def test_one_example_one_output_and_one_input_are_proved(cost: Cost, dtype: torch.dtype) -> None:
    for shape in ((1, 4, 3, 2), (5, 4, 3, 1), (5, 1, 3, 2), (5, 4, 1, 2), (1, 1, 1, 1)):
        point = cast(network(*shape, inputs=3, weights=1, seed=1), dtype)
        assert audit(rules.closed_form(cost), *point, cost).ok
        assert audit(short(rules.closed_form(cost)), *point, cost).ok


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@COSTS
def test_a_rule_under_autocast_is_proved_with_the_activations_it_trains_with(
    cost: Cost, half: torch.dtype
) -> None:
    point = cast(network(30, 40, 20, 5, inputs=3, weights=1, seed=0), torch.float32)
    with torch.autocast("cpu", half), torch.no_grad():
        activations = forward(point[0], point[1])
        for rule in (rules.closed_form(cost), rules.autograd(cost)):
            assert audit(rule, *point, cost, activations=activations).ok
        mistake = rules.mistake(cost, "no_sprime")
        assert audit(mistake, *point, cost, activations=activations).wrong == ("dz1",)


def test_the_activations_given_are_those_of_the_audit() -> None:
    params, X, Y = network(5, 4, 3, 2, inputs=1, weights=1, seed=0)
    other = forward(params, X + 0.5)

    def reads_its_activations(*inputs: Any) -> Gradients:
        assert torch.equal(inputs[1].z2, other.z2)
        return backward(*inputs)

    assert audit(reads_its_activations, params, X, Y, activations=other).ok
    assert audit(otherwise(cross_entropy), params, X, Y, activations=other).wrong


def test_the_audit_works_in_inference_mode_and_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode():
        point = cast(network(5, 4, 3, 2, inputs=1, weights=1, seed=0), torch.float64)
        assert audit(backward, *point).ok
    assert audit_probes(backward).ok
    assert torch.equal(state, torch.get_rng_state())


# Wrong rules are named.


@FULL
@SHIPPED
def test_every_shipped_mistake_is_named(name: str, cost: Cost, dtype: torch.dtype) -> None:
    report = audit_probes(rules.mistake(cost, name), cost, dtype)
    assert not report.ok
    assert report.wrong == tuple(line for line in LINES if line in MISTAKES[name])
    assert all("looks like" in hint(report, line) for line in report.wrong)
    assert all("unlike any known mistake" not in line.hint for line in report.lines)


@FULL
@SHIPPED
def test_a_rule_that_returns_four_gradients_is_named_too(
    name: str, cost: Cost, dtype: torch.dtype
) -> None:
    report = audit_probes(short(rules.mistake(cost, name)), cost, dtype)
    assert report.wrong == tuple(line for line in LINES if line in MISTAKES[name])


@SHIPPED
def test_shipped_mistakes_are_caught_in_bfloat16_too(name: str, cost: Cost) -> None:
    assert not audit_probes(rules.mistake(cost, name), cost, torch.bfloat16).ok


@pytest.mark.parametrize("name", LINES)
@FULL
def test_a_thousandth_too_much_is_named(name: str, dtype: torch.dtype) -> None:
    """Compute the later lines from the wrong value, as a real rule would."""
    source = {
        "dz2": "1.001 * dz2(activations, Y)",
        "dW2": "1.001 * dz2.T @ A1 / m",
        "db2": "1.001 * dz2.sum(dim=0) / m",
        "dz1": "1.001 * (dz2 @ W2) * A1 * (1 - A1)",
        "dW1": "1.001 * dz1.T @ X / m",
        "db1": "1.001 * dz1.sum(dim=0) / m",
    }
    report = audit_probes(plant({name: source[name]}), dtype=dtype)
    assert report.wrong == (name,)
    assert "1.001 times the right line" in hint(report, name)


def test_with_more_examples_than_units_two_wrong_gradients_point_to_their_dz() -> None:
    params, X, Y = network(40, 4, 3, 2, inputs=3, weights=1, seed=0)
    report = audit(short(rules.mistake(cross_entropy, "sign")), params, X, Y)
    assert report.wrong == ("dz2",)
    assert "dW2 and db2 are both wrong" in hint(report, "dz2")
    assert "not judged" in hint(report, "dW1")


def test_only_dz1_may_be_kept_back() -> None:
    assert audit_probes(changed(dz1=lambda right: None)).ok


# Rules that deviate on purpose.


@COSTS
def test_a_line_that_deviates_is_measured_and_the_others_proved(cost: Cost) -> None:
    for rule in (rules.feedback_alignment(cost, scale=5.0), rules.sign_symmetric(cost)):
        report = audit_probes(rule, cost)
        angles = {line.name: line.angle for line in report.lines}
        assert report.ok
        assert angles.pop("dz1") > 5
        assert set(angles.values()) == {None}
        assert "deviates on purpose" in hint(report, "dz1")
    assert audit_probes(rules.flat_spot(cost), cost).ok


def test_a_rule_that_deviates_may_still_be_wrong_elsewhere() -> None:
    def rule(*inputs: Any) -> Gradients:
        gradients = backward(*inputs)
        return gradients._replace(dz1=gradients.dz1 + 1)

    rule.deviates = frozenset({"dz1"})
    report = audit_probes(rule)
    assert report.wrong == ("dW1", "db1")
    assert report.lines[3].ok


def test_the_angle_is_in_degrees() -> None:
    def rule(*inputs: Any) -> Gradients:
        return backward(*inputs)._replace(dz2=torch.tensor([[1.0, 0.0]]))

    rule.deviates = {"dz2"}
    params, X, _ = network(1, 3, 4, 2, inputs=1, weights=0, seed=0)  # A2 = 1/2
    report = audit(rule, *cast((params, X, torch.tensor([[0.0, 0.0]])), torch.float32))
    assert report.lines[0].angle == pytest.approx(45)


# A rule's faults are lines of the report.

BAD = {
    "a wrong shape": ({"dW2": lambda g: g.dW2.T}, ("dW2",), "a transposed product"),
    "a kept axis": ({"db2": lambda g: g.db2[None]}, ("db2",), "keepdim"),
    "a sum over all": ({"db1": lambda g: g.db1.sum()}, ("db1",), "over the units too"),
    "a wrong axis": ({"db1": lambda g: g.dz1.sum(dim=1)}, ("db1",), "wrong axis"),
    "too few rows": ({"dz1": lambda g: g.dz1[:-1]}, ("dz1",), "has shape"),
    "a wrong dtype": ({"dW1": lambda g: g.dW1.half()}, ("dW1",), "float16, must be torch.float32"),
    "integers": ({"db2": lambda g: g.db2.int()}, ("db2",), "int32, must be torch.float32"),
    "complex": ({"db2": lambda g: g.db2 * 1j}, ("db2",), "must be a real"),
    "NaN": ({"dW1": lambda g: g.dW1 / 0 * 0}, ("dW1",), "NaN or infinite"),
    "infinity": ({"db2": lambda g: g.db2 / 0}, ("db2",), "NaN or infinite"),
    "nothing": ({"dW1": lambda g: None}, ("dW1",), "missing"),
    "an array": ({"dW1": lambda g: g.dW1.numpy()}, ("dW1",), "ndarray, must be a tensor"),
    "NaN before all": ({"dz2": lambda g: g.dz2 * float("nan")}, ("dz2",), "NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_result_is_a_clear_line(case: str) -> None:
    lines, wrong, words = BAD[case]
    report = audit_probes(changed(**lines))
    assert not report.ok
    assert report.wrong == wrong
    assert words in hint(report, wrong[0])


def test_lines_that_cannot_be_judged_say_so() -> None:
    report = audit_probes(changed(dz1=lambda right: right.dz1[:, :1]))
    assert report.wrong == ("dz1",)
    for line in report.lines[4:]:
        assert not line.judged
        assert not line.ok
        assert "not judged" in line.hint
    assert report.lines[1].ok


@pytest.mark.parametrize("result", [None, {}, (), "dW1", torch.ones(3), (1, 2, 3)], ids=repr)
def test_a_result_that_is_no_gradients_is_a_clear_line(result: Any) -> None:
    report = audit_probes(lambda *inputs: result)
    assert report.wrong == LINES
    assert "must be Gradients or the tuple (dW1, db1, dW2, db2)" in hint(report, "dz2")


def test_an_exception_is_a_clear_line() -> None:
    def rule(*inputs: Any) -> Gradients:
        raise KeyError("weights")

    report = audit_probes(rule)
    assert report.wrong == LINES
    assert hint(report, "dz2") == "the rule raised KeyError: 'weights'"


def test_an_exception_accuses_the_line_that_raised_and_judges_those_before() -> None:
    def rule(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
        m = len(X)
        dz2 = activations.A2 - Y
        dW2 = dz2.T @ activations.A1
        db2 = dz2.sum(dim=0) / m
        dz1 = (dz2 @ params.W2.T) * activations.A1 * (1 - activations.A1)
        return Gradients(dz2, dW2, db2, dz1, dz1.T @ X / m, dz1.sum(dim=0) / m)

    report = audit_probes(rule)
    assert report.wrong == ("dW2", "dz1")
    assert report.lines[0].ok
    assert report.lines[2].ok
    assert "mat1 and mat2" in hint(report, "dz1")
    assert "`dz1 = (dz2 @ params.W2.T)" in hint(report, "dz1")
    assert "not judged" in hint(report, "dW1")


def test_a_rule_that_changes_its_inputs_is_a_clear_line_and_leaves_the_inputs_alone() -> None:
    def rule(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
        gradients = backward(params, activations, X, Y)
        params.W2.sub_(gradients.dW2)
        return gradients

    params, X, Y = probe_inputs()[0]
    before = params.W2.clone()
    report = audit(rule, params, X, Y)
    assert report.wrong == ("dz1",)
    assert "changed its input W2 in place" in hint(report, "dz1")
    assert torch.equal(params.W2, before)


def test_inputs_that_do_not_fit_are_the_callers_error() -> None:
    params, X, Y = probe_inputs()[0]
    with pytest.raises(ValueError, match="Y has shape"):
        audit(backward, params, X, Y[:, 0])
    with pytest.raises(ValueError, match="X has shape"):
        audit(backward, params, X.T, Y)


def test_inputs_that_are_no_numbers_prove_nothing_and_accuse_nobody() -> None:
    params, X, Y = probe_inputs()[0]
    report = audit(backward, params, X * float("inf"), Y)
    assert not report.ok
    assert report.wrong == ()


def test_several_reports_become_the_worst_of_each_line() -> None:
    right, wrong = audit_probes(backward), audit_probes(changed(dW2=lambda g: 2 * g.dW2))
    assert worst([right, wrong, right]).wrong == ("dW2",)
    assert worst([right, right]) == right


def test_the_probes_have_no_blind_spot() -> None:
    probes = probe_inputs(3, torch.float64)
    for params, X, Y in probes:
        m, (n_h, n_x), n_y = len(X), params.W1.shape, Y.shape[1]
        assert min(m, n_y) > 1
        assert len({m, n_x, n_h, n_y}) == 4
        assert m <= min(n_x, n_h)
        assert 2 < X.std() < 4
        assert all((bias != 0).all() for bias in (params.b1, params.b2))
    hard = [bool(((Y == 0) | (Y == 1)).all()) for _, _, Y in probes]
    assert set(hard) == {True, False}
    assert not torch.equal(probe_inputs(3)[0][1], probe_inputs(4)[0][1])


# The checksum.


@COSTS
@ANY
def test_the_checksum_of_right_gradients_is_within_rounding(cost: Cost, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        weights = (0.1, 1.0, 10.0)[seed % 3]
        shape = ((7, 5, 4, 3), (1, 9, 5, 1), (60, 50, 30, 10))[seed % 3]
        point = network(*shape, inputs=3, weights=weights, seed=seed)
        params, X, Y = cast(point, dtype)
        activations = forward(params, X)
        gradients = rules.closed_form(cost)(params, activations, X, Y)
        assert (checksum(activations, gradients, X, generator) <= 0.5).all()


@FULL
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [0.0, 1.001, -1.0])
def test_the_checksum_names_a_wrong_gradient(name: str, dtype: torch.dtype, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for point in probe_inputs(0, dtype):
        params, X, Y = point
        activations = forward(params, X)
        gradients = backward(params, activations, X, Y)
        wrong = gradients._replace(**{name: factor * getattr(gradients, name)})
        off = checksum(activations, wrong, X, generator) > 1
        assert [n for n, is_off in zip(NAMES, off.tolist(), strict=True) if is_off] == [name]


def test_the_checksum_catches_one_wrong_entry_a_dropped_example_and_nan() -> None:
    generator = torch.Generator().manual_seed(0)
    point = cast(network(64, 784, 100, 10, inputs=1, weights=1, seed=0), torch.float32)
    params, X, Y = point
    activations = forward(params, X)
    right = backward(params, activations, X, Y)
    assert (checksum(activations, right, X, generator) < 1).all()
    one = right.dW1.clone()
    one[3, 5] += 1e-3
    dropped = right.dz1[:-1].T @ X[:-1] / 64
    for dW1 in (one, dropped, right.dW1 * float("nan")):
        ratios = checksum(activations, right._replace(dW1=dW1), X, generator)
        assert [bool(ratio <= 1) for ratio in ratios] == [True, True, False, True]


def test_the_checksum_leaves_the_random_numbers_of_training_alone() -> None:
    params, X, Y = probe_inputs()[0]
    activations = forward(params, X)
    state = torch.get_rng_state()
    checksum(activations, backward(params, activations, X, Y), X, torch.Generator())
    assert torch.equal(state, torch.get_rng_state())

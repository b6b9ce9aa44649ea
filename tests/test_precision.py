"""Losses of number formats, against NumPy's half precision and values that surely underflow."""

import csv
import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from handgrad.audit.number_formats import FORMATS, LARGEST_SCALE, UNREACHED, LostDigits, measure
from handgrad.backprop import Cost, Gradients, Parameters, backward, cross_entropy, quadratic
from handgrad.rules.feedback import closed_form, flat_spot

M = 4096  # a sum of so many ones stops at 256 in bfloat16 and at 2048 in float16


def point(shift: float = 0.0, m: int = 5) -> tuple[Parameters, torch.Tensor, torch.Tensor]:
    """Return a network whose outputs are near sigma(shift), and examples with target 0."""
    draw = torch.Generator().manual_seed(0)
    W1, W2 = torch.randn(4, 3, generator=draw), torch.randn(2, 4, generator=draw) / 4
    params = Parameters(W1, torch.zeros(4), W2, torch.full((2,), shift))
    return params, torch.randn(m, 3, generator=draw), torch.zeros(m, 2)


def of(losses: list[LostDigits], name: str) -> dict[str, LostDigits]:
    return {loss.quantity: loss for loss in losses if loss.format == name}


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to the nearest bfloat16, to even on a tie: the upper half of a float32's bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


ROUNDINGS = {
    "fp32": lambda values: values.astype(np.float32),
    "fp16": lambda values: values.astype(np.float16).astype(np.float32),
    "bf16": bfloat16,
}


def by_numpy(params, X, Y, rounded) -> Gradients:
    """Compute the six lines in NumPy, rounding each operation, product and sum once."""
    (W1, b1, W2, b2), X, Y = [rounded(each.numpy()) for each in params], X.numpy(), Y.numpy()
    X, Y, wide = rounded(X), rounded(Y), np.float64

    def sigmoid(z):
        return rounded(1 / (1 + np.exp(-z.astype(wide))))

    def product(left, right):
        return rounded(left.astype(wide) @ right.astype(wide))

    A1 = sigmoid(rounded(product(X, W1.T) + b1))
    A2 = sigmoid(rounded(product(A1, W2.T) + b2))
    dz2 = rounded(A2 - Y)
    dW2 = rounded(product(dz2.T, A1) / M)
    db2 = rounded(rounded(dz2.sum(axis=0, dtype=wide)) / M)
    dz1 = rounded(rounded(product(dz2, W2) * A1) * rounded(1 - A1))
    dW1 = rounded(product(dz1.T, X) / M)
    db1 = rounded(rounded(dz1.sum(axis=0, dtype=wide)) / M)
    return Gradients(dz2, dW2, db2, dz1, dW1, db1)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_half_precision_is_what_numpy_makes_of_it(name: str) -> None:
    params, X, Y = point(m=M)
    found = of(measure(closed_form, params, X, Y, cross_entropy), name)
    exact = by_numpy(params, X, Y, np.float64)
    mine = by_numpy(params, X, Y, ROUNDINGS[name])
    for quantity, true, rough in zip(Gradients._fields, exact, mine, strict=True):
        error = np.linalg.norm(rough - true) / np.linalg.norm(true)
        if name == "fp32":  # the order of summation shows: only its size is certain
            assert found[quantity].relative_error < 2e-6
        else:
            assert found[quantity].relative_error == pytest.approx(error, rel=0.05), quantity
        assert found[quantity].underflows == ((rough == 0) & (true != 0)).sum()
        assert found[quantity].overflows == 0
        assert found[quantity].entries == true.size


def giving(values: list[float], cost: Cost):
    """Return a rule whose every gradient consists of these values, in the dtype of X."""

    def rule(params, activations, X, Y) -> Gradients:
        scale = cost.dz2(activations, Y).flatten()[0] / activations.A2.flatten()[0]
        made = torch.tensor(values, dtype=torch.float64)
        shapes = [
            Y.shape,
            *(params[k].shape for k in (2, 3)),
            (len(X), 4),
            *(p.shape for p in params[:2]),
        ]
        return Gradients(
            *(
                (made.repeat(-(-math.prod(shape) // 4))[: math.prod(shape)] * scale.double())
                .to(X.dtype)
                .reshape(shape)
                for shape in shapes
            )
        )

    return rule


def test_zeros_and_infinities_are_counted() -> None:
    values = [1.0, 0.0, 1e-9, 7e4]  # one, a true zero, too small and too large for float16
    losses = measure(partial(giving, values), *point(), cross_entropy)
    for quantity, loss in of(losses, "fp16").items():
        repeats = -(-(loss.entries - 2) // 4), -(-(loss.entries - 3) // 4)
        assert (loss.underflows, loss.overflows) == repeats, quantity
        assert loss.overflows == 0 or not math.isfinite(loss.relative_error)
    for name in ("fp32", "bf16"):
        assert all(loss.underflows == loss.overflows == 0 for loss in of(losses, name).values())


def test_a_loss_scale_keeps_what_underflows_without_it() -> None:
    params, X, Y = point(shift=-20.0)  # dz2 = A2 is about 2e-9; float16 ends at 6e-8
    losses = measure(closed_form, params, X, Y, cross_entropy)
    for loss in of(losses, "fp16").values():
        assert (loss.underflows, loss.relative_error) == (loss.entries, 1.0)
    mixed = of(losses, "fp16-mixed")
    assert mixed["dz2"].underflows == mixed["db2"].underflows == 0  # they stay in float32
    assert mixed["dW2"].underflows == mixed["dW2"].entries
    assert mixed["dz1"].underflows == mixed["dz1"].entries
    kept = of(losses, "fp16-mixed-scaled")
    assert {loss.loss_scale for loss in kept.values()} == {LARGEST_SCALE}
    assert all(loss.underflows == 0 for loss in kept.values())
    assert all(loss.relative_error < 0.1 for loss in kept.values())
    for name in ("fp32", "bf16", "bf16-mixed"):
        assert all(loss.underflows == 0 for loss in of(losses, name).values())


@pytest.mark.parametrize("m", [64, 128])
def test_the_loss_scale_is_the_largest_that_does_not_overflow(m: int) -> None:
    params, X, Y = point(shift=20.0, m=m)  # each dz2 is 1, and dz2.T @ A1 sums m of them
    kept = of(measure(closed_form, params, X, Y, cross_entropy), "fp16-mixed-scaled")
    (scale,) = {loss.loss_scale for loss in kept.values()}
    sums = scale * torch.sigmoid(X @ params.W1.T).sum(dim=0).max()
    assert sums < 65504 <= 2 * sums
    assert all(loss.overflows == 0 for loss in kept.values())


def test_a_rule_with_a_dz2_of_its_own_has_no_loss_scale() -> None:
    rule = lambda cost: backward  # noqa: E731 - it ignores the cost
    losses = measure(rule, *point(), cross_entropy)
    assert {loss.problem for loss in of(losses, "fp16-mixed-scaled").values()} == {UNREACHED}
    assert all(not loss.problem for loss in losses if loss.format != "fp16-mixed-scaled")


def test_a_rule_sees_the_cost_itself_where_nothing_is_scaled() -> None:
    losses = measure(flat_spot, *point(), quadratic)  # it looks which cost it is
    assert all(loss.relative_error < 1e-5 for loss in of(losses, "fp32").values())


def test_a_silent_upcast_is_said() -> None:
    def upcasting(params, activations, X, Y) -> Gradients:
        right = backward(params, activations, X, Y)
        return right._replace(dW1=right.dW1.double())

    found = of(measure(lambda cost: upcasting, *point(), cross_entropy), "fp16")
    assert "dW1 has dtype torch.float64" in found["dW1"].problem
    assert math.isnan(found["dW1"].relative_error)
    assert not found["dW2"].problem


def test_a_rule_that_raises_in_half_precision_is_said() -> None:
    def picky(params, activations, X, Y) -> Gradients:
        if X.dtype is torch.float16:
            raise NotImplementedError("no halves here")
        return backward(params, activations, X, Y)

    losses = measure(lambda cost: picky, *point(), cross_entropy)
    assert all("no halves here" in loss.problem for loss in of(losses, "fp16").values())
    assert not any(loss.problem for loss in of(losses, "bf16").values())


def test_a_rule_of_four_gradients_has_four_rows() -> None:
    def four(params, activations, X, Y) -> Gradients:
        return backward(params, activations, X, Y)._replace(dz2=None, dz1=None)

    losses = measure(lambda cost: four, *point(), cross_entropy)
    assert list(of(losses, "fp16")) == ["dW2", "db2", "dW1", "db1"]


# The task.


def test_the_report_is_printed_written_and_shown(train: Train) -> None:
    answer = train("task=check", "check.precision=all", "data=iris", "model.hidden=5")
    assert answer.code == 0, answer.err
    with (answer.folder / "precision.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["format"], row["quantity"]) for row in rows] == [
        (name, quantity) for name in FORMATS for quantity in Gradients._fields
    ]
    errors = {(row["format"], row["quantity"]): float(row["relative_error"]) for row in rows}
    assert errors["fp32", "dW1"] < 1e-6 < errors["fp16", "dW1"] < errors["bf16", "dW1"] < 0.1
    assert all(f"{error:.1e}" in answer.out for error in errors.values())
    events = EventAccumulator(str(answer.folder))
    events.Reload()
    (shown,) = events.Tensors("check/precision/text_summary")
    assert f"{errors['bf16', 'dz1']}" in shown.tensor_proto.string_val[0].decode()


def test_the_report_belongs_to_the_check(train: Train) -> None:
    answer = train("check.precision=all")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "task=check" in answer.err


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_the_check_runs_in_the_precision_that_trains(train: Train, precision: str) -> None:
    answer = train("task=check", "data=iris", "model.hidden=5", f"trainer.precision={precision}")
    assert answer.code == 0, answer.err

"""Equations against references that share no code with them."""

import math
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.rules.planted import MISTAKES, RIGHT_UNDER, mistake

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
ORACLES = [
    pytest.param(oracle, cost, id=f"{oracle.__name__}-{cost}")
    for oracle in (oracles.column_textbook, oracles.per_example_loop, oracles.autograd_on_logits)
    for cost in COSTS
] + [pytest.param(oracles.scikit_learn, "cross_entropy", id="scikit_learn-cross_entropy")]
SHAPES = {  # m, n_x, n_h, n_y
    "all_different": (7, 5, 4, 3),
    "one_example": (1, 5, 4, 3),
    "one_output": (7, 5, 4, 1),
    "square": (3, 3, 3, 3),
    "all_one": (1, 1, 1, 1),
}


def problem(
    m: int, n_x: int, n_h: int, n_y: int, seed: int = 0, scale: float = 1.0
) -> tuple[Parameters, Tensor, Tensor]:
    """Return parameters with non-zero biases, inputs, and soft and hard targets, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n_h, n_x), (n_h,), (n_y, n_h), (n_y,), (m, n_x)]
    W1, b1, W2, b2, X = (
        scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    Y = torch.rand(m, n_y, generator=generator, dtype=torch.float64)
    Y = torch.where(torch.rand(Y.shape, generator=generator) < 0.5, Y.round(), Y)
    return Parameters(W1, b1, W2, b2), X, Y


def gradients_of(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Gradients:
    return backprop.backward(params, backprop.forward(params, X), X, Y, dz2=cost.dz2)


def disagreeing(gradients: Gradients, expected: oracles.Answer, tolerance: float) -> list[str]:
    """Return the lines further from the oracle than the tolerance, relative to its norm."""
    return [
        name
        for name in ("dz2", "dW2", "db2", "dz1", "dW1", "db1")
        if getattr(gradients, name).shape != expected[name].shape
        or not torch.linalg.norm(getattr(gradients, name) - expected[name])
        <= tolerance * torch.linalg.norm(expected[name])
    ]


# Agreement with each oracle.


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("oracle", "cost"), ORACLES)
def test_gradients_match_the_oracle(
    oracle: oracles.Oracle, cost: str, shape: tuple[int, int, int, int]
) -> None:
    params, X, Y = problem(*shape)
    expected = oracle(*params, X, Y, cost)
    assert disagreeing(gradients_of(params, X, Y, COSTS[cost]), expected, 1e-12) == []


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("oracle", "cost"), ORACLES)
def test_cost_matches_the_oracle(
    oracle: oracles.Oracle, cost: str, shape: tuple[int, int, int, int]
) -> None:
    params, X, Y = problem(*shape)
    value = COSTS[cost].value(backprop.forward(params, X), Y)
    torch.testing.assert_close(value, oracle(*params, X, Y, cost)["J"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("cost", COSTS)
def test_gradients_match_autograd_on_200_random_shapes(cost: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(200):
        shape = torch.randint(1, 40, (4,), generator=generator).tolist()
        params, X, Y = problem(*shape, seed=seed, scale=(0.1, 1.0, 3.0)[seed % 3])
        expected = oracles.autograd_on_logits(*params, X, Y, cost)
        assert disagreeing(gradients_of(params, X, Y, COSTS[cost]), expected, 1e-12) == [], shape


@pytest.mark.parametrize("cost", COSTS)
def test_gradients_match_autograd_where_every_unit_saturates(cost: str) -> None:
    params, X, Y = problem(7, 5, 4, 3, scale=8.0)
    activations = backprop.forward(params, X)
    assert activations.z1.abs().median() > 40
    expected = oracles.autograd_on_logits(*params, X, Y, cost)
    gradients = gradients_of(params, X, Y, COSTS[cost])
    assert disagreeing(gradients, expected, 1e-12) == []


@pytest.mark.parametrize("cost", COSTS)
def test_float32_gradients_match_float64(cost: str) -> None:
    params, X, Y = problem(7, 5, 4, 3)
    single = gradients_of(
        Parameters(*(p.float() for p in params)), X.float(), Y.float(), COSTS[cost]
    )
    expected = oracles.autograd_on_logits(*params, X, Y, cost)
    assert {d.dtype for d in single} == {torch.float32}
    assert disagreeing(Gradients(*(d.double() for d in single)), expected, 1e-5) == []


def test_forward_matches_torch_layers() -> None:
    params, X, _ = problem(7, 5, 4, 3)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 3), torch.nn.Sigmoid()
    ).double()
    keys = ("0.weight", "0.bias", "2.weight", "2.bias")
    network.load_state_dict(dict(zip(keys, params, strict=True)))
    expected = [X]
    for layer in network:
        expected.append(layer(expected[-1]))
    for actual, wanted in zip(backprop.forward(params, X), expected[1:], strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-14, atol=1e-15)


def test_cross_entropy_is_n_y_times_the_mean_of_torch() -> None:
    params, X, Y = problem(7, 5, 4, 3)
    activations = backprop.forward(params, X)
    mean = torch.nn.functional.binary_cross_entropy_with_logits(activations.z2, Y)
    torch.testing.assert_close(backprop.cost(activations, Y), 3 * mean, rtol=1e-14, atol=0)


def test_the_four_argument_form_is_cross_entropy() -> None:
    params, X, Y = problem(7, 5, 4, 3)
    activations = backprop.forward(params, X)
    plain = backprop.backward(params, activations, X, Y)
    bound = gradients_of(params, X, Y, backprop.cross_entropy)
    assert all(torch.equal(left, right) for left, right in zip(plain, bound, strict=True))


def test_nothing_that_is_given_is_changed() -> None:
    params, X, Y = problem(7, 5, 4, 3)
    activations = backprop.forward(params, X)
    given_tensors = (*params, *activations, X, Y)
    before = [tensor.clone() for tensor in given_tensors]
    backprop.backward(params, activations, X, Y)
    assert all(torch.equal(old, new) for old, new in zip(before, given_tensors, strict=True))


# Tests of the tester: the comparison above must see small and planted errors.


@pytest.mark.parametrize("line", Gradients._fields)
def test_an_error_of_a_part_in_2000_is_seen(line: str) -> None:
    params, X, Y = problem(7, 5, 4, 3)
    gradients = gradients_of(params, X, Y, backprop.cross_entropy)
    off = gradients._replace(**{line: getattr(gradients, line) * 1.0005})
    expected = oracles.autograd_on_logits(*params, X, Y, "cross_entropy")
    assert disagreeing(off, expected, 1e-12) == [line]


PLANTED = [  # quadratic_delta and its like are right under their own cost: test_rules.py
    (cost, name)
    for cost in COSTS
    for name in MISTAKES
    if RIGHT_UNDER.get(name) is not COSTS[cost].dz2
]


@pytest.mark.parametrize(("cost", "name"), PLANTED)
@pytest.mark.parametrize(
    "oracle", [oracles.column_textbook, oracles.per_example_loop, oracles.autograd_on_logits]
)
def test_every_planted_mistake_is_seen(oracle: oracles.Oracle, cost: str, name: str) -> None:
    params, X, Y = problem(7, 5, 4, 3)
    gradients = mistake(COSTS[cost], name)(params, backprop.forward(params, X), X, Y)
    assert disagreeing(gradients, oracle(*params, X, Y, cost), 1e-12) != []


def test_a_missing_or_nan_gradient_is_seen() -> None:
    params, X, Y = problem(7, 5, 4, 3)
    gradients = gradients_of(params, X, Y, backprop.cross_entropy)
    expected = oracles.column_textbook(*params, X, Y, "cross_entropy")
    broken = gradients._replace(dW1=gradients.dW1 * float("nan"), db2=gradients.db2[:-1])
    assert disagreeing(broken, expected, 1e-12) == ["db2", "dW1"]


# Numbers at the edge.


def saturated(dtype: torch.dtype) -> tuple[Activations, Tensor]:
    """Return activations with one output: every z2 with both hard targets."""
    z = torch.tensor([0.0, 17, -17, 90, -90, 800, -800, 1e4, -1e4], dtype=dtype)
    z2 = torch.cat([z, z]).unsqueeze(1)
    Y = torch.cat([torch.zeros_like(z), torch.ones_like(z)]).unsqueeze(1)
    return Activations(z2, torch.sigmoid(z2), z2, torch.sigmoid(z2)), Y


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_is_finite_and_exact_where_sigmoids_saturate(dtype: torch.dtype) -> None:
    activations, Y = saturated(dtype)
    for row in range(len(Y)):
        one = Activations(*(tensor[row : row + 1] for tensor in activations))
        value = backprop.cost(one, Y[row : row + 1])
        z, y = activations.z2[row].double(), Y[row].double()
        exact = (z.clamp(min=0) - z * y + torch.log1p(torch.exp(-z.abs()))).sum()
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        eps = torch.finfo(dtype).eps
        # PyTorch's log-sigmoid is exact to some eps of 1, not of its own small value
        torch.testing.assert_close(value.double(), exact, rtol=2 * eps, atol=16 * eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dz2_is_exact_where_sigmoids_saturate(dtype: torch.dtype) -> None:
    activations, Y = saturated(dtype)
    dz2 = backprop.cross_entropy_dz2(activations, Y)
    exact = torch.sigmoid(activations.z2.double()) - Y.double()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(dz2.double(), exact, rtol=eps, atol=eps)
    far = activations.z2.abs() >= 800
    assert torch.equal(dz2[far], exact[far].round().to(dtype))  # 0, 1 and -1 to the last bit


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_finite_at_every_saturation(dtype: torch.dtype, cost: str) -> None:
    for z in (0.0, 17.0, 90.0, 800.0, 1e4):
        b1, b2 = torch.tensor([z, -z, z]), torch.tensor([z, -z])
        params = Parameters(*(p.to(dtype) for p in (torch.ones(3, 4), b1, torch.ones(2, 3), b2)))
        X, Y = torch.ones(5, 4, dtype=dtype), torch.ones(5, 2, dtype=dtype)
        for targets in (Y, 1 - Y):
            activations = backprop.forward(params, X)
            value = COSTS[cost].value(activations, targets)
            gradients = gradients_of(params, X, targets, COSTS[cost])
            assert all(torch.isfinite(tensor).all() for tensor in (value, *gradients)), z


@pytest.mark.parametrize("cost", COSTS)
def test_the_cost_of_many_half_precision_examples_does_not_overflow(cost: str) -> None:
    z2 = torch.full((60_000, 3), 1000.0, dtype=torch.float16)
    activations = Activations(z2, torch.sigmoid(z2), z2, torch.sigmoid(z2))
    value = COSTS[cost].value(activations, torch.zeros_like(z2))
    assert value == {"cross_entropy": 3000.0, "quadratic": 1.5}[cost]


# Wrong shapes.


class NoArithmetic(TorchDispatchMode):
    """Fails on the first operation that PyTorch is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran before the shapes were checked")


BAD_SHAPES = [  # (m, n_x, n_h, n_y) = (7, 5, 4, 1)
    pytest.param("Y", (7,), (7, 1), id="Y-one-dimensional"),
    pytest.param("Y", (7, 2), (7, 1), id="Y-two-outputs"),
    pytest.param("Y", (1, 7), (7, 1), id="Y-transposed"),
    pytest.param("Y", (6, 1), (7, 1), id="Y-one-example-short"),
    pytest.param("X", (7, 6), (7, 5), id="X-one-feature-more"),
    pytest.param("X", (5, 7), (5, 5), id="X-columns"),
    pytest.param("X", (5,), "(m, n_x)", id="X-one-dimensional"),
    pytest.param("X", (7, 5, 1), "(m, n_x)", id="X-three-dimensional"),
    pytest.param("X", (0, 5), "m of at least 1", id="X-empty"),
    pytest.param("W1", (4,), "(n_h, n_x)", id="W1-one-dimensional"),
    pytest.param("b1", (4, 1), (4,), id="b1-column"),
    pytest.param("b1", (1,), (4,), id="b1-broadcasting"),
    pytest.param("W2", (4, 1), (4, 4), id="W2-transposed"),
    pytest.param("W2", (1, 3), (1, 4), id="W2-one-unit-short"),
    pytest.param("b2", (1, 1), (1,), id="b2-matrix"),
    pytest.param("z1", (7, 1), (7, 4), id="z1-broadcasting"),
    pytest.param("A1", (1, 4), (7, 4), id="A1-broadcasting"),
    pytest.param("z2", (6, 1), (7, 1), id="z2-of-another-batch"),
    pytest.param("A2", (7,), (7, 1), id="A2-one-dimensional"),
]


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("name", "shape", "wanted"), BAD_SHAPES)
def test_backward_refuses_a_wrong_shape_with_both_shapes(
    name: str, shape: tuple[int, ...], wanted: tuple[int, ...] | str, cost: str
) -> None:
    params, X, Y = problem(7, 5, 4, 1)
    tensors = {**params._asdict(), **backprop.forward(params, X)._asdict(), "X": X, "Y": Y}
    tensors[name] = torch.zeros(shape, dtype=torch.float64)
    params = Parameters(*(tensors[key] for key in Parameters._fields))
    activations = Activations(*(tensors[key] for key in Activations._fields))
    with pytest.raises(ValueError, match=r"has shape|have shapes") as refusal, NoArithmetic():
        backprop.backward(params, activations, tensors["X"], tensors["Y"], dz2=COSTS[cost].dz2)
    message = str(refusal.value)
    assert str(tuple(shape)) in message
    assert str(wanted) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [case for case in BAD_SHAPES if case.values[0] in ("X", *Parameters._fields)],
)
def test_forward_refuses_a_wrong_shape_with_both_shapes(
    name: str, shape: tuple[int, ...], wanted: tuple[int, ...] | str
) -> None:
    params, X, _ = problem(7, 5, 4, 1)
    tensors = {**params._asdict(), "X": X, name: torch.zeros(shape, dtype=torch.float64)}
    wrong = Parameters(*(tensors[key] for key in Parameters._fields))
    with pytest.raises(ValueError, match=r"has shape|have shapes") as refusal, NoArithmetic():
        backprop.forward(wrong, tensors["X"])
    assert str(tuple(shape)) in str(refusal.value)
    assert str(wanted) in str(refusal.value)


def test_transposed_weights_are_answered_with_the_inputs_that_it_would_take() -> None:
    params, X, _ = problem(7, 5, 4, 1)
    with pytest.raises(ValueError, match=r"X has shape \(7, 5\), must be \(7, 4\)"):
        backprop.forward(params._replace(W1=params.W1.T), X)


@pytest.mark.parametrize("shape", [(7,), (7, 2), (1, 7), (6, 1), (1, 1), (7, 1, 1)], ids=str)
@pytest.mark.parametrize("part", ["value", "dz2"])
@pytest.mark.parametrize("cost", COSTS)
def test_costs_refuse_targets_unlike_the_answer(
    cost: str, part: str, shape: tuple[int, ...]
) -> None:
    params, X, _ = problem(7, 5, 4, 1)
    activations, Y = backprop.forward(params, X), torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="Y has shape") as refusal, NoArithmetic():
        getattr(COSTS[cost], part)(activations, Y)
    assert str(shape) in str(refusal.value)
    assert "(7, 1)" in str(refusal.value)


# Properties.

sizes = st.tuples(st.integers(2, 9), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
problems = st.builds(lambda shape, seed: problem(*shape, seed=seed), sizes, st.integers(0, 2**31))
costs = st.sampled_from(list(COSTS.values()))
properties = settings(max_examples=40, deadline=None, derandomize=True)
MEANS = ("dW2", "db2", "dW1", "db1")


def assert_same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-14)


@properties
@given(problems, costs, st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(data: Any, cost: Cost, random: Any) -> None:
    params, X, Y = data
    order = torch.tensor(random.sample(range(len(X)), len(X)))
    plain, shuffled = (
        gradients_of(params, X, Y, cost),
        gradients_of(params, X[order], Y[order], cost),
    )
    for name in MEANS:
        assert_same(getattr(shuffled, name), getattr(plain, name))
    assert_same(shuffled.dz2, plain.dz2[order])
    assert_same(shuffled.dz1, plain.dz1[order])


@properties
@given(problems, costs, st.data())
def test_the_mean_over_a_batch_is_the_weighted_mean_of_its_parts(
    data: Any, cost: Cost, draw: st.DataObject
) -> None:
    params, X, Y = data
    m, cut = len(X), draw.draw(st.integers(1, len(X) - 1))
    whole = gradients_of(params, X, Y, cost)
    first = gradients_of(params, X[:cut], Y[:cut], cost)
    second = gradients_of(params, X[cut:], Y[cut:], cost)
    for name in MEANS:
        sums = cut * getattr(first, name) + (m - cut) * getattr(second, name)
        assert_same(sums / m, getattr(whole, name))
    assert_same(torch.cat([first.dz1, second.dz1]), whole.dz1)


@properties
@given(problems, costs)
def test_a_doubled_batch_has_the_same_gradient(data: Any, cost: Cost) -> None:
    params, X, Y = data
    once = gradients_of(params, X, Y, cost)
    twice = gradients_of(params, X.repeat(2, 1), Y.repeat(2, 1), cost)
    for name in MEANS:
        assert_same(getattr(twice, name), getattr(once, name))


@properties
@given(problems, costs, st.randoms(use_true_random=False))
def test_hidden_units_may_change_places(data: Any, cost: Cost, random: Any) -> None:
    (W1, b1, W2, b2), X, Y = data
    order = torch.tensor(random.sample(range(len(b1)), len(b1)))
    plain = gradients_of(Parameters(W1, b1, W2, b2), X, Y, cost)
    moved = gradients_of(Parameters(W1[order], b1[order], W2[:, order], b2), X, Y, cost)
    assert_same(moved.dW1, plain.dW1[order])
    assert_same(moved.db1, plain.db1[order])
    assert_same(moved.dW2, plain.dW2[:, order])
    assert_same(moved.db2, plain.db2)


@properties
@given(problems, costs)
def test_opposite_targets_and_weights_give_the_opposite_dz2(data: Any, cost: Cost) -> None:
    (W1, b1, W2, b2), X, Y = data
    plain = gradients_of(Parameters(W1, b1, W2, b2), X, Y, cost)
    flipped = gradients_of(Parameters(W1, b1, -W2, -b2), X, 1 - Y, cost)
    assert_same(flipped.dz2, -plain.dz2)
    assert_same(flipped.dW1, plain.dW1)


@properties
@given(problems, costs)
def test_a_network_that_is_right_has_no_gradient(data: Any, cost: Cost) -> None:
    params, X, _ = data
    gradients = gradients_of(params, X, backprop.forward(params, X).A2, cost)
    assert all(not tensor.any() for tensor in gradients)


@properties
@given(problems, costs)
def test_without_output_weights_nothing_reaches_the_hidden_layer(data: Any, cost: Cost) -> None:
    params, X, Y = data
    gradients = gradients_of(params._replace(W2=torch.zeros_like(params.W2)), X, Y, cost)
    assert not gradients.dz1.any()
    assert not gradients.dW1.any()
    assert not gradients.db1.any()


@properties
@given(problems, costs, st.integers(0, 2**31))
def test_the_slope_along_a_random_direction_is_the_finite_difference(
    data: Any, cost: Cost, seed: int
) -> None:
    params, X, Y = data
    generator, h = torch.Generator().manual_seed(seed), 1e-5
    along = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params]
    d = gradients_of(params, X, Y, cost)
    slope = sum(
        float((v * g).sum()) for v, g in zip(along, (d.dW1, d.db1, d.dW2, d.db2), strict=True)
    )
    ahead, behind = (
        Parameters(*(p + step * v for p, v in zip(params, along, strict=True))) for step in (h, -h)
    )
    rise = cost.value(backprop.forward(ahead, X), Y) - cost.value(backprop.forward(behind, X), Y)
    assert float(rise) / (2 * h) == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("target", [0.0, 1e-4, 0.3, 1.0])
def test_the_cross_entropy_keeps_all_digits_where_the_answer_is_right(
    target: float, dtype: torch.dtype
) -> None:
    """Against Python's own log1p and exp in float64; at Y = 0, z2 = -20 the loss is 2e-9."""
    for z in (-80.0, -40.0, -17.0, -10.0, -1.0, 0.0, 1.0, 10.0, 17.0, 40.0, 80.0):
        z2, Y = torch.tensor([[z]], dtype=dtype), torch.tensor([[target]], dtype=dtype)
        y = Y.item()
        above, below = (
            -(min(each, 0.0) - math.log1p(math.exp(-abs(each)))) for each in (z, -z)
        )  # -log sigma(z), -log sigma(-z)
        true = y * above + (1 - y) * below
        given = backprop.cost(Activations(z2, z2, z2, z2.sigmoid()), Y).item()
        assert given == pytest.approx(true, rel=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_the_cross_entropys_derivative_at_zero_is_a_half_minus_the_target(target: float) -> None:
    z2 = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    Y = torch.full_like(z2, target)
    backprop.cost(Activations(z2, z2, z2, z2.sigmoid()), Y).backward()
    assert z2.grad is not None
    assert z2.grad.item() == 0.5 - target


def test_the_page_tells_what_a_saturated_unit_loses() -> None:
    page = (Path(__file__).parents[1] / ".github" / "docs" / "lessons.md").read_text()
    for dtype in (torch.float32, torch.bfloat16):
        lost: dict[str, list[str]] = {"A2 - Y": [], "A1 * (1 - A1)": []}
        for z in (5.0, 10.0, 15.0, 17.0):
            below = 1 / (1 + math.exp(z))  # sigma(-z)
            A = torch.sigmoid(torch.tensor(z, dtype=dtype))
            dz2, slope = (A - 1).item(), (A * (1 - A)).item()
            true = below * (1 - below)
            lost["A2 - Y"].append(f"{abs(dz2 + below) / below:.2%}")
            lost["A1 * (1 - A1)"].append(f"{abs(slope - true) / true:.2%}")
            kept = torch.sigmoid(torch.tensor(-z, dtype=dtype))
            assert kept.item() == pytest.approx(below, rel=torch.finfo(dtype).eps)
            assert (A * kept).item() == pytest.approx(true, rel=2 * torch.finfo(dtype).eps)
        for line, figures in lost.items():
            name = str(dtype).removeprefix("torch.")
            assert f"| `{line}`, {name} | {' | '.join(figures)} |" in page

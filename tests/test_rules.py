"""Backward rules: each does what its name says, with no more work than the equations."""

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from handgrad import backprop, rules
from handgrad.backprop import Cost, Gradients, Parameters
from handgrad.rules.planted import MISTAKES, RIGHT_UNDER

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
NAMES_OF = {id(cost): name for name, cost in COSTS.items()}
DOWNSTREAM = {"dz2": set(Gradients._fields), "dz1": {"dz1", "dW1", "db1"}}

all_costs = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)


def problem(m: int = 7, n_x: int = 5, n_h: int = 4, n_y: int = 3, seed: int = 0) -> Any:
    """Return parameters with non-zero biases, activations, inputs and soft targets, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n_h, n_x), (n_h,), (n_y, n_h), (n_y,), (m, n_x), (m, n_y)]
    W1, b1, W2, b2, X, Y = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    params = Parameters(W1, b1, W2, b2)
    return params, backprop.forward(params, X), X, Y.sigmoid()


def expected(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> oracles.Answer:
    return oracles.column_textbook(*params, X, Y, NAMES_OF[id(cost)])


def changed(gradients: Gradients, reference: Any) -> set[str]:
    """Return the lines that differ from the reference by more than rounding."""
    wanted = reference if isinstance(reference, dict) else reference._asdict()
    return {
        name
        for name in Gradients._fields
        if not torch.allclose(getattr(gradients, name), wanted[name], rtol=1e-11, atol=1e-14)
    }


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations_of(rule: rules.Rule) -> list[str]:
    data = problem()
    rule(*data)  # what is drawn once is not part of an update
    with Operations() as operations:
        rule(*data)
    return operations.names


# The equations and the reference.


@all_costs
def test_closed_form_is_the_very_function_of_backprop(cost: Cost) -> None:
    rule: Any = rules.closed_form(cost)
    assert rule.func is backprop.backward
    assert rule.keywords == {"dz2": cost.dz2}


@all_costs
@pytest.mark.parametrize("factory", [rules.closed_form, rules.autograd])
def test_exact_rules_match_the_textbook(factory: Any, cost: Cost) -> None:
    params, activations, X, Y = problem()
    gradients = factory(cost)(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, cost)) == set()


@all_costs
def test_autograd_works_where_gradients_are_off_and_leaves_no_trace(cost: Cost) -> None:
    params, activations, X, Y = problem()
    params = Parameters(*(p.requires_grad_() for p in params))
    with torch.no_grad():
        gradients = rules.autograd(cost)(params, activations, X, Y)
    assert changed(
        gradients, expected(*(Parameters(*(p.detach() for p in params)), X, Y), cost)
    ) == (set())
    assert all(p.grad is None for p in params)
    assert not any(tensor.requires_grad for tensor in gradients)


def test_autograd_refuses_wrong_shapes_like_the_equations() -> None:
    params, activations, X, Y = problem()
    with pytest.raises(ValueError, match=r"Y has shape \(7,\), must be \(7, 3\)"):
        rules.autograd(backprop.cross_entropy)(params, activations, X, Y[:, 0])


@pytest.mark.parametrize(
    "name",
    ["closed_form", "feedback_alignment", "sign_symmetric", "sign_concordant", "flat_spot"],
)
def test_no_rule_does_more_than_the_equations_need(name: str) -> None:
    plain = operations_of(backprop.backward)
    own = {"sign_symmetric": ["copysign"], "sign_concordant": ["sign"], "flat_spot": ["add"]}
    rule = getattr(rules, name)(backprop.cross_entropy)
    assert sorted(operations_of(rule)) == sorted(plain + own.get(name, []))


# Planted mistakes.


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_changes_its_lines_and_what_follows_from_them(name: str) -> None:
    cost = COSTS["quadratic" if name == "cross_entropy_delta" else "cross_entropy"]
    params, activations, X, Y = problem()
    gradients = rules.mistake(cost, name)(params, activations, X, Y)
    consequences = set().union(*(DOWNSTREAM.get(line, {line}) for line in MISTAKES[name]))
    assert changed(gradients, expected(params, X, Y, cost)) == consequences
    correct = rules.closed_form(cost)(params, activations, X, Y)
    assert [g.shape for g in gradients] == [g.shape for g in correct]
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_trains_at_every_size_and_dtype(name: str) -> None:
    cost = COSTS["quadratic" if name == "cross_entropy_delta" else "cross_entropy"]
    for sizes in [(1, 5, 4, 3), (7, 1, 1, 1), (3, 3, 3, 3)]:
        params, _, X, Y = problem(*sizes)
        params, X, Y = Parameters(*(p.float() for p in params)), X.float(), Y.float()
        gradients = rules.mistake(cost, name)(params, backprop.forward(params, X), X, Y)
        shapes = [
            gradients.dW1.shape,
            gradients.db1.shape,
            gradients.dW2.shape,
            gradients.db2.shape,
        ]
        assert shapes == [p.shape for p in params]
        assert all(g.dtype == torch.float32 for g in gradients)


def test_a_mistake_checks_shapes_like_the_equations() -> None:
    params, activations, X, Y = problem()
    with pytest.raises(ValueError, match=r"Y has shape \(7,\), must be \(7, 3\)"):
        rules.mistake(backprop.cross_entropy, "no_sprime")(params, activations, X, Y[:, 0])


def test_planting_leaves_the_equations_themselves_alone() -> None:
    params, activations, X, Y = problem()
    for name in MISTAKES.keys() - RIGHT_UNDER.keys():
        rules.mistake(backprop.cross_entropy, name)
    gradients = backprop.backward(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, backprop.cross_entropy)) == set()


@pytest.mark.parametrize("name", RIGHT_UNDER)
def test_a_line_that_is_right_under_this_cost_is_refused(name: str) -> None:
    cost = COSTS[name.removesuffix("_delta")]
    with pytest.raises(
        ValueError, match=f"backward.mistake={name}: this dz2 is right under the cost"
    ):
        rules.mistake(cost, name)


def test_an_unknown_mistake_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"backward\.mistake=no_sprim: ") as refusal:
        rules.mistake(backprop.cross_entropy, "no_sprim")
    assert "did you mean no_sprime?" in str(refusal.value)
    assert all(name in str(refusal.value) for name in MISTAKES)


# Rules that deviate on purpose.


DEVIANTS = ["feedback_alignment", "sign_symmetric", "sign_concordant", "flat_spot"]


@all_costs
@pytest.mark.parametrize("name", DEVIANTS)
def test_a_deviating_rule_changes_the_lines_it_declares(name: str, cost: Cost) -> None:
    params, activations, X, Y = problem()
    rule = getattr(rules, name)(cost)
    consequences = set().union(*(DOWNSTREAM[line] for line in rule.deviates))
    gradients = rule(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, cost)) == consequences


def test_feedback_alignment_sends_errors_through_its_own_matrix() -> None:
    params, activations, X, Y = problem()
    rule = rules.feedback_alignment(backprop.cross_entropy, seed=3, scale=0.2)
    B = rule.matrix(params.W2)
    gradients = rule(params, activations, X, Y)
    s = activations.A1 * (1 - activations.A1)
    torch.testing.assert_close(gradients.dz1, torch.einsum("mo,oh,mh->mh", gradients.dz2, B, s))
    assert B.shape == params.W2.shape
    assert B.abs().max() <= 0.2
    assert B.min() < 0 < B.max()


def test_the_random_matrix_is_a_pure_function_of_seed_and_shape() -> None:
    W2 = torch.ones(10, 300, dtype=torch.float64)
    first = rules.random_matrix(W2, seed=1, scale=0.5)
    generator = torch.Generator().manual_seed(1)  # what another process draws
    again = torch.empty_like(W2).uniform_(-0.5, 0.5, generator=generator)
    assert torch.equal(first, again)
    assert torch.equal(first, rules.random_matrix(W2 * 2, seed=1, scale=0.5))
    assert not torch.equal(first, rules.random_matrix(W2, seed=2, scale=0.5))
    assert torch.equal(first.float(), rules.random_matrix(W2.float(), seed=1, scale=0.5))
    assert abs(float(first.mean())) < 0.02
    assert float(first.std()) == pytest.approx(1 / 12**0.5, rel=0.05)


@pytest.mark.parametrize("name", ["feedback_alignment", "sign_symmetric"])
def test_a_matrix_that_is_given_is_used_instead_of_a_drawn_one(name: str) -> None:
    factory, (params, *_) = getattr(rules, name), problem()
    drawn = factory(backprop.cross_entropy, seed=1)
    again = factory(backprop.cross_entropy, seed=2, B=drawn.fixed(params.W2))
    assert torch.equal(again.matrix(params.W2), drawn.matrix(params.W2))
    assert not torch.equal(
        factory(backprop.cross_entropy, seed=2).matrix(params.W2), drawn.matrix(params.W2)
    )


def test_drawing_a_matrix_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    rules.feedback_alignment(backprop.cross_entropy, seed=987)(*problem())  # drawn here first
    assert torch.equal(before, torch.get_rng_state())


def test_sign_rules_keep_the_signs_of_the_weights_as_they_move() -> None:
    params, *_ = problem()
    symmetric = rules.sign_symmetric(backprop.cross_entropy, seed=1, scale=0.3).matrix
    concordant = rules.sign_concordant(backprop.cross_entropy).matrix
    for W2 in (params.W2, -params.W2):
        assert torch.equal(symmetric(W2).sign(), W2.sign())
        assert torch.equal(concordant(W2), W2.sign())
    assert torch.equal(symmetric(params.W2).abs(), symmetric(10 * params.W2).abs())
    assert symmetric(params.W2).abs().unique().numel() == params.W2.numel()


@all_costs
def test_flat_spot_adds_its_offset_to_every_sigma_prime(cost: Cost) -> None:
    params, activations, X, Y = problem()
    A1, A2 = activations.A1, activations.A2
    gradients = rules.flat_spot(cost, offset=0.1)(params, activations, X, Y)
    dz2 = A2 - Y if cost is backprop.cross_entropy else (A2 - Y) * (A2 * (1 - A2) + 0.1)
    torch.testing.assert_close(gradients.dz2, dz2)
    torch.testing.assert_close(gradients.dz1, dz2 @ params.W2 * (A1 * (1 - A1) + 0.1))
    torch.testing.assert_close(gradients.dW1, gradients.dz1.T @ X / 7)
    torch.testing.assert_close(gradients.db1, gradients.dz1.mean(dim=0))
    torch.testing.assert_close(gradients.dW2, dz2.T @ A1 / 7)
    torch.testing.assert_close(gradients.db2, dz2.mean(dim=0))


@all_costs
def test_flat_spot_without_offset_is_the_textbook(cost: Cost) -> None:
    params, activations, X, Y = problem()
    gradients = rules.flat_spot(cost, offset=0.0)(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, cost)) == set()


@pytest.mark.parametrize("name", DEVIANTS)
def test_a_deviating_rule_learns_where_its_matrix_is_not_the_gradient(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    Y = ((X**2).sum(dim=1, keepdim=True) < 1.4).double()  # no line separates a disc from the rest
    shapes = [(12, 2), (12,), (1, 12), (1,)]
    params = Parameters(
        *(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    )
    rule = getattr(rules, name)(backprop.cross_entropy)
    for _ in range(600):
        d = rule(params, backprop.forward(params, X), X, Y)
        moved = zip(params, (d.dW1, d.db1, d.dW2, d.db2), strict=True)
        params = Parameters(*(p - 2.0 * g for p, g in moved))
    accuracy = ((backprop.forward(params, X).A2 > 0.5) == Y).double().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("name", ["closed_form", "autograd", *DEVIANTS])
def test_a_rule_travels_to_another_process(name: str) -> None:
    data = problem()
    rule = getattr(rules, name)(backprop.quadratic)
    copy = pickle.loads(pickle.dumps(rule))
    assert all(torch.equal(a, b) for a, b in zip(rule(*data), copy(*data), strict=True))


# The user's own function.


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty working directory, and forget afterwards what was imported from it."""
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


SIX = """
from handgrad.backprop import Gradients, cross_entropy_dz2

def my_backward(params, activations, X, Y{keyword}):
    W2, A1, m = params.W2, activations.A1, len(X)
    dz2 = {dz2}
    dW2, db2 = dz2.T @ A1 / m, dz2.sum(0) / m
    dz1 = (dz2 @ W2) * A1 * (1 - A1)
    dW1, db1 = dz1.T @ X / m, dz1.sum(0) / m
    return {returned}
"""
ALL = "Gradients(dz2, dW2, db2, dz1, dW1, db1)"


@all_costs
def test_custom_runs_the_users_function_with_the_dz2_of_the_cost(
    workplace: Path, cost: Cost
) -> None:
    source = SIX.format(keyword=", *, dz2", dz2="dz2(activations, Y)", returned=ALL)
    (workplace / "own_six.py").write_text(source)
    params, activations, X, Y = problem()
    rule = rules.custom(cost, function="own_six.my_backward")
    gradients = rule(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, cost)) == set()
    assert rule.deviates == frozenset()


def test_custom_accepts_four_gradients(workplace: Path) -> None:
    source = SIX.format(keyword="", dz2="activations.A2 - Y", returned="dW1, db1, dW2, db2")
    (workplace / "own_four.py").write_text(source)
    params, activations, X, Y = problem()
    rule = rules.custom(backprop.cross_entropy, function="own_four.my_backward")
    gradients = rule(params, activations, X, Y)
    assert gradients.dz2 is None
    assert gradients.dz1 is None
    correct = backprop.backward(params, activations, X, Y)
    for name in ("dW1", "db1", "dW2", "db2"):
        torch.testing.assert_close(getattr(gradients, name), getattr(correct, name))


def test_custom_finds_a_module_inside_a_package(workplace: Path) -> None:
    (workplace / "own_package").mkdir()
    source = SIX.format(keyword="", dz2="activations.A2 - Y", returned=ALL)
    (workplace / "own_package" / "mine.py").write_text(source)
    rule = rules.custom(backprop.cross_entropy, function="own_package.mine.my_backward")
    params, activations, X, Y = problem()
    correct = backprop.backward(params, activations, X, Y)
    assert changed(rule(params, activations, X, Y), correct) == set()


def test_custom_finds_a_function_on_the_import_path(workplace: Path) -> None:
    rule = rules.custom(backprop.quadratic, function="handgrad.backprop.backward")
    params, activations, X, Y = problem()
    gradients = rule(params, activations, X, Y)
    assert changed(gradients, expected(params, X, Y, backprop.quadratic)) == set()


def test_custom_leaves_the_import_path_as_it_was(workplace: Path) -> None:
    (workplace / "own_path.py").write_text("def f(params, activations, X, Y): ...")
    before = list(sys.path)
    rules.custom(backprop.cross_entropy, function="own_path.f")
    assert sys.path == before


def test_custom_finds_a_file_written_since_the_last_look(workplace: Path) -> None:
    with pytest.raises(ValueError, match=r"no own_late\.py in"):
        rules.custom(backprop.cross_entropy, function="own_late.f")
    seen = workplace.stat()
    (workplace / "own_late.py").write_text("def f(params, activations, X, Y): ...")
    os.utime(workplace, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as on a coarse file system
    assert rules.custom(backprop.cross_entropy, function="own_late.f").name == "own_late.f"


def test_custom_hands_on_what_the_function_declares(workplace: Path) -> None:
    (workplace / "own_deviation.py").write_text(
        "def f(params, activations, X, Y): ...\nf.deviates = {'dz1'}\n"
    )
    rule = rules.custom(backprop.cross_entropy, function="own_deviation.f")
    assert rule.deviates == frozenset({"dz1"})


def test_custom_stays_out_of_the_way_of_an_error_inside_the_function(workplace: Path) -> None:
    (workplace / "own_error.py").write_text("def f(params, activations, X, Y): return 1 / 0")
    rule = rules.custom(backprop.cross_entropy, function="own_error.f")
    with pytest.raises(ZeroDivisionError):
        rule(*problem())


@pytest.mark.parametrize(
    ("returned", "said"),
    [("None", "returned NoneType"), ("(X, Y)", "returned a tuple of 2"), ("X", "returned Tensor")],
)
def test_custom_says_what_a_wrong_result_is(workplace: Path, returned: str, said: str) -> None:
    name = f"own_result_{len(returned)}"
    (workplace / f"{name}.py").write_text(f"def f(params, activations, X, Y): return {returned}")
    rule = rules.custom(backprop.cross_entropy, function=f"{name}.f")
    with pytest.raises(ValueError, match=f"{name}.f {said}, must return"):
        rule(*problem())


REFUSED = {  # name: (file, what is asked for, what the answer has)
    "no_dot": ("", "my_backward", "must be file.function"),
    "path_of_a_file": ("", "folder/file.py", "must be file.function"),
    "no_file": (None, "own_absent.f", "no own_absent.py in"),
    "no_package": (None, "own_absent.inner.f", "no own_absent/inner.py in"),
    "not_a_package": ("x = 1", "{file}.inner.f", "inner.py in"),
    "no_function": ("def my_backward(p, a, X, Y): ...", "{file}.my_bakward", "mean my_backward?"),
    "nothing_near": ("", "{file}.my_backward", "has no function my_backward"),
    "no_callable": ("f = 3", "{file}.f", "is int, not a function"),
    "three_arguments": ("def f(params, X, Y): ...", "{file}.f", "takes (params, X, Y), must take"),
    "five_arguments": ("def f(p, a, X, Y, more): ...", "{file}.f", "missing a required argument"),
    "syntax": ("x = 1\ndef f(:\n", "{file}.f", ".py, line 2: invalid syntax"),
    "indentation": ("def f():\nreturn 1\n", "{file}.f", "line 2: expected an indented block"),
    "its_own_import": ("\nimport own_missing\n", "{file}.f", "own_missing' ({path}, line 2)"),
    "its_own_error": ("\n\nnothing\n", "{file}.f", "'nothing' is not defined ({path}, line 3)"),
    "deviation": ("def f(p, a, X, Y): ...\nf.deviates = 'dz1'", "{file}.f", "must be a set of dz2"),
    "deviation_type": ("def f(p, a, X, Y): ...\nf.deviates = 1", "{file}.f", "deviates=1, must be"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items(), ids=REFUSED)
def test_custom_refuses_with_one_line(
    workplace: Path, name: str, case: tuple[str | None, str, str]
) -> None:
    source, asked, answer = case
    file = workplace / f"own_refused_{name}.py"
    if source is not None:
        file.write_text(source)
    asked = asked.format(file=file.stem)
    with pytest.raises(ValueError, match=r"backward\.function=") as refusal:
        rules.custom(backprop.cross_entropy, function=asked)
    assert f"backward.function={asked}: " in str(refusal.value)
    assert answer.format(path=file) in str(refusal.value)
    assert "\n" not in str(refusal.value)

"""The captured equations give the bits of the equations, also for other numbers than at first."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from conftest import composed, fit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handgrad import backprop, rules
from handgrad.backprop import Activations, Cost, Gradients, Parameters, backward, forward
from handgrad.config.errors import WrongGradient
from handgrad.module import TwoLayerNetwork
from handgrad.rules.feedback import Feedback, Rule, makes_the_same_operations
from handgrad.runs.live_check import LiveCheck
from handgrad.tasks import build
from handgrad.training.capture import CannotCapture, Capture, Captured, Equations
from handgrad.training.optimizers import GradientDescent
from handgrad.training.updates import UpdateSettings

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
def test_a_capture_gives_the_bits_of_the_equations_wherever_descent_goes(
    m: int, n_x: int, n_h: int, n_y: int, rule: str, cost: str, dtype: torch.dtype
) -> None:
    params = params_of(n_x, n_h, n_y, dtype)
    compute = equations(params, RULES[rule](COSTS[cost]))
    block = numbers(4 * m, n_x, seed=8, dtype=dtype)
    targets = numbers(4 * m, n_y, seed=9, dtype=dtype).sigmoid()
    capture = Capture(compute, block[:m], targets[:m])
    for start in range(m, 4 * m, m):
        X, Y = block[start : start + m], targets[start : start + m]
        expected = compute(X, Y)
        assert_same_bits(capture(X, Y), expected)
        for parameter, gradient in zip(params, (4, 5, 1, 2), strict=True):
            parameter -= 0.5 * expected[1][gradient]


def test_one_operation_left_out_of_a_capture_is_seen() -> None:
    params = params_of(5, 4, 3)
    compute, X, Y = equations(params, rules.closed_form(backprop.quadratic)), *data(6, 5, 3)
    capture = Capture(compute, X, Y)
    for left_out in range(len(capture.steps)):
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
def test_what_cannot_be_made_again_is_not_captured(rule: Rule) -> None:
    params, (X, Y) = params_of(5, 4, 3), data(6, 5, 3)
    compute = equations(params, rule)
    with pytest.raises(CannotCapture):
        Capture(compute, X, Y)
    assert not isinstance(Captured(compute, params).learnt(X, Y), Capture)


def test_a_capture_keeps_what_is_read_later_and_little_else() -> None:
    m, n_h = 64, 50
    compute, (X, Y) = (
        equations(params_of(5, n_h, 3), rules.closed_form(backprop.quadratic)),
        data(m, 5, 3),
    )
    capture = Capture(compute, X, Y)
    outs = [keywords["out"] for _, _, keywords in capture.steps]
    places = {out.untyped_storage().data_ptr() for out in outs if out.shape == (m, n_h)}
    results = {each.untyped_storage().data_ptr() for part in capture.results for each in part}
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


class CountsItsCalls(Feedback):
    """A subclass of the project's own rule that turns from alignment to the textbook's line."""

    calls: ClassVar[list[int]] = []

    def __call__(self, params: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
        self.calls.append(1)
        rule = self if len(self.calls) < 20 else None
        return (
            backward(params, a, X, Y) if rule is None else Feedback.__call__(self, params, a, X, Y)
        )


def copied(activations: Activations, Y: Tensor) -> Tensor:
    """A dz2 whose Y is a copy, which a capture would keep."""
    return activations.A2 - torch.cat([Y])


def by_numpy(W2: Tensor) -> Tensor:
    """A feedback matrix that leaves PyTorch."""
    return torch.from_numpy(np.sign(W2.detach().numpy()))


def test_only_the_projects_own_rules_are_captured() -> None:
    may = makes_the_same_operations
    for name, factory in RULES.items():
        for cost in COSTS.values():
            assert may(factory(cost)), name
    assert may(rules.feedback_alignment(backprop.quadratic, B=torch.eye(3)))
    own = Cost(backprop.cross_entropy.value, copied)
    alignment = rules.feedback_alignment(backprop.quadratic)
    for other in (
        counts_its_calls,
        rules.autograd(backprop.quadratic),
        *(factory(own) for factory in RULES.values()),
        partial(backward, dz2=copied),
        partial(counts_its_calls),
        CountsItsCalls(backprop.quadratic, alignment.matrix),
        Feedback(backprop.quadratic, by_numpy),
        Feedback(backprop.quadratic, partial(by_numpy)),
    ):
        assert not may(other), other


def copies_a_parameter(p: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    return backward(p._replace(W2=torch.tensor(p.W2.tolist(), dtype=X.dtype)), a, X, Y)


def copies_the_targets(p: Parameters, a: Activations, X: Tensor, Y: Tensor) -> Gradients:
    return backward(p, a, X, torch.from_numpy(Y.numpy().copy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", [copies_a_parameter, copies_the_targets])
def test_a_capture_is_verified_at_other_numbers_and_leaves_the_parameters(
    rule: Rule, dtype: torch.dtype
) -> None:
    """A copy that PyTorch does not see made agrees at the first numbers alone."""
    params = params_of(5, 4, 3, dtype)
    before = [each.clone() for each in params]
    X, Y = (each.to(dtype) for each in data(6, 5, 3))
    captured = Captured(equations(params, rule), params)
    assert not isinstance(captured.learnt(X, Y), Capture)
    assert all(torch.equal(one, other) for one, other in zip(params, before, strict=True))


# What a training does with `.grad` and the parameters, beside autograd's own loop.


class ReplacesData(torch.optim.Optimizer):
    """Descent that gives each parameter new storage."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                each.data = each.data - group["lr"] * each.grad


class KeepsGradients(ReplacesData):
    """Descent by the mean of this gradient and the last one, of which it keeps the tensor."""

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                last = self.state[each].get("last", each.grad)
                each.data -= group["lr"] * (each.grad + last) / 2
                self.state[each]["last"] = each.grad


class WritesIntoGradients(ReplacesData):
    """Normalised descent, which divides `.grad` by its norm in place."""

    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                each.grad.div_(each.grad.norm() + 1e-3)
                each.data -= group["lr"] * each.grad


NESTEROV = partial(torch.optim.SGD, momentum=0.9, nesterov=True, foreach=True)
PLAIN = ("data=iris", "data.batch_size=20", "model.hidden=5", "trainer.max_epochs=8")


class Watching(LiveCheck):
    """The live check after every block."""

    def __init__(self) -> None:
        super().__init__(False, "stop", 1, None)


@pytest.mark.parametrize("slots", ["data.microbatch=auto", "data.microbatch=7"])
@pytest.mark.parametrize(
    "optimizer", [ReplacesData, KeepsGradients, WritesIntoGradients, NESTEROV, GradientDescent]
)
def test_an_optimizer_of_ones_own_trains_as_in_autograds_loop(optimizer: Any, slots: str) -> None:
    config = composed(*PLAIN, slots, "logger=none", "trainer.enable_progress_bar=false")
    data = build.data(config).read()
    network = build.network(config, data)
    network.optimizer = partial(optimizer, lr=0.1)
    network.updates.settings = UpdateSettings()
    mine = Parameters(*(each.detach().clone().requires_grad_() for each in network.params))
    trainer = build.trainer(config, Path("none"), extra=[Watching()])
    data.horizon = build.horizon(config, trainer)
    trainer.fit(network, datamodule=data)
    stepping, plan = optimizer(list(mine), lr=0.1), data.plan()
    inputs, targets = data.splits["train"].rows(slice(None))
    for number in range(trainer.global_step):
        (batch,) = plan.batches(number)
        rows = plan.order(number // plan.updates_per_epoch)[batch.start : batch.stop]
        stepping.zero_grad()
        J = backprop.cost(forward(mine, inputs[rows]), targets[rows])
        J.backward()
        with torch.no_grad():
            stepping.step()
    for one, other in zip(network.params, mine, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Meddles(L.Callback):
    """Does something to the network before each of its blocks."""

    def __init__(self, act: Callable[[TwoLayerNetwork, int], None]) -> None:
        self.act = act

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        with torch.no_grad():
            self.act(pl_module, trainer.global_step)


def clamp(network: TwoLayerNetwork, update: int) -> None:
    for each in network.params:
        each.data = each.data.clamp(-0.4, 0.4)


def restart(network: TwoLayerNetwork, update: int) -> None:
    if update == 10:
        network.W2.data = torch.zeros_like(network.W2)


def transpose(network: TwoLayerNetwork, update: int) -> None:
    network.W1.data = network.W1.data.T.contiguous().T


def bind(network: TwoLayerNetwork, update: int) -> None:
    if update == 10:
        network.updates.bind(rules.feedback_alignment)


def replace_forward(network: TwoLayerNetwork, update: int) -> None:
    if update == 10:
        network.updates.forward_pass = lambda params, X: forward(params, X.clamp(-1, 1))


def zero_gradients(network: TwoLayerNetwork, update: int) -> None:
    for each in network.params:
        if each.grad is not None:
            each.grad.zero_()


@pytest.mark.parametrize("act", [clamp, restart, transpose, bind, replace_forward, zero_gradients])
def test_whatever_a_callback_does_captured_training_ends_at_the_functions_bits(
    act: Callable[[TwoLayerNetwork, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> TwoLayerNetwork:
        return fit(*PLAIN, "dashboard=off", callbacks=[Meddles(act), Watching()]).network

    captured = trained()
    monkeypatch.setattr("handgrad.module.makes_the_same_operations", lambda rule: False)
    plain = trained()
    assert not isinstance(plain.updates.equations, Captured)
    for one, other in zip(captured.params, plain.params, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_a_parameter_of_other_strides_at_the_same_address_is_noticed_at_once(name: str) -> None:
    params = params_of(4, 4, 4)
    compute = equations(params, rules.closed_form(backprop.cross_entropy))
    captured, (X, Y) = Captured(compute, params), data(6, 4, 4)
    captured(X, Y)
    parameter = getattr(params, name)
    parameter.data = parameter.data.T
    assert_same_bits(captured(X, Y), compute(X, Y))


class NoticesGradients(L.Callback):
    """Keeps the tensor of W1's gradient after each block, and a copy of it."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.kept.append((pl_module.W1.grad, pl_module.W1.grad.clone()))


@pytest.mark.parametrize("overrides", [(), ("data.microbatch=7",)], ids=["whole", "microbatches"])
def test_a_gradient_that_is_kept_stays_what_it_was(overrides: tuple[str, ...]) -> None:
    notices = NoticesGradients()
    fit(*PLAIN, "dashboard=off", *overrides, callbacks=[notices])
    assert len(notices.kept) > 3
    assert all(torch.equal(kept, copy) for kept, copy in notices.kept)


class ZeroesGradients(L.Callback):
    """Zeroes the gradients in place after each block, before they are checked."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        trainer.optimizers[0].zero_grad(set_to_none=False)


@pytest.mark.parametrize("rule", ["closed_form", "autograd"])
def test_whoever_writes_into_a_gradient_makes_no_rule_wrong(rule: str) -> None:
    """Captured or not: the checksum judges what the rule returned."""
    callbacks = [ZeroesGradients(), Watching()]
    fit(*PLAIN, "dashboard=off", f"backward={rule}", callbacks=callbacks)
    assert callbacks[1].wrong == []


def test_a_replay_that_no_longer_follows_the_functions_is_named_at_the_next_checksum() -> None:
    def spoil(network: TwoLayerNetwork, update: int) -> None:
        equations = network.updates.equations
        assert isinstance(equations, Captured)
        for capture in equations.known.values():
            assert isinstance(capture, Capture)
            capture.takes_Y.clear()  # the targets of the batch before, for ever

    with pytest.raises(WrongGradient, match="dW2, db2, dW1, db1"):
        fit(*PLAIN, "dashboard=off", callbacks=[Meddles(spoil), Watching()])


def test_large_results_are_not_kept() -> None:
    compute = equations(params_of(2, 3000, 2), rules.closed_form(backprop.cross_entropy))
    X, Y = data(800, 2, 2)
    with pytest.raises(CannotCapture, match="large"):
        Capture(compute, X, Y)


@pytest.mark.parametrize("overrides", [(), ("data.microbatch=7",), ("optimizer.accumulate=3",)])
def test_training_with_captured_equations_ends_at_the_same_bits(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("data.batch_size=32", "trainer.max_epochs=2", "dashboard=off", *overrides)
    captured = fit(*common)
    assert isinstance(captured.network.updates.equations, Captured)
    made = captured.network.updates.equations.known.values()
    assert all(isinstance(each, Capture) for each in made)
    monkeypatch.setattr("handgrad.module.makes_the_same_operations", lambda rule: False)
    plain = fit(*common)
    assert not isinstance(plain.network.updates.equations, Captured)
    for one, other in zip(captured.network.params, plain.network.params, strict=True):
        assert torch.equal(one, other)

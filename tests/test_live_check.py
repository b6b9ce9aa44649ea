"""Check inside training: before the first update, and at intervals after it."""

import math
import random
from collections.abc import Callable
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from conftest import Train
from lightning.pytorch.loggers import Logger

from handgrad.backprop import Cost, Gradients, backward, cross_entropy, forward
from handgrad.config.errors import WrongGradient
from handgrad.data.batches import shuffled
from handgrad.data.module import ExampleData
from handgrad.data.sources import Iris
from handgrad.module import TwoLayerNetwork
from handgrad.rules.feedback import (
    autograd,
    closed_form,
    feedback_alignment,
    flat_spot,
    sign_concordant,
    sign_symmetric,
)
from handgrad.rules.planted import MISTAKES, mistake
from handgrad.runs.live_check import LiveCheck
from handgrad.runs.loading import load
from handgrad.tasks.build import DTYPES

ONE_LINE = sorted(set(MISTAKES) - {"cross_entropy_delta", "missing_1_over_m"})


class Scalars(Logger):
    """Keeps what is logged."""

    name, version = "scalars", ""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics, step=None) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step, value))

    def log_hyperparams(self, *args, **kwargs) -> None: ...


def fit(
    rule: Callable[[Cost], Callable[..., Gradients]],
    updates: int = 30,
    precision="32-true",
    cost="cross_entropy",
    **check,
) -> tuple[LiveCheck, Scalars]:
    dtype = DTYPES.get(precision, torch.float32)
    data = ExampleData(Iris(), batch_size=7, validation=0, test=0.2, dtype=dtype).read()
    network = TwoLayerNetwork(
        4, 6, 3, rule=rule, cost=cost, optimizer=partial(torch.optim.SGD, lr=0.1), seed=3
    )
    settings = {
        "at_start": True,
        "on_failure": "stop",
        "checksum_every_n_updates": 5,
        "audit_every_n_updates": 10,
    }
    callback, scalars = LiveCheck(**{**settings, **check}), Scalars()
    trainer = L.Trainer(
        max_steps=updates,
        max_epochs=-1,
        accelerator="cpu",
        precision=precision,
        logger=scalars,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data.horizon = lambda done: max(1, min(5 - done % 5, updates - done))
    trainer.fit(network, datamodule=data)
    return callback, scalars


@pytest.mark.parametrize("name", ONE_LINE)
def test_a_planted_mistake_stops_the_run_before_its_first_update(name: str, capsys) -> None:
    wrong = tuple(MISTAKES[name])
    with pytest.raises(WrongGradient) as error:
        fit(partial(mistake, mistake=name))
    assert tuple(error.value.wrong) == wrong
    assert "WRONG" in capsys.readouterr().out


def test_with_warn_it_trains_on_and_remembers(capsys) -> None:
    check, scalars = fit(partial(mistake, mistake="sign"), on_failure="warn")
    assert check.wrong == list(MISTAKES["sign"])
    assert f"the gradient is wrong in {check.wrong[0]}" in capsys.readouterr().err
    assert len(scalars.points["check/checksum_dW1"]) == 6


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("rule", [closed_form, autograd])
def test_right_rules_raise_no_alarm(rule, precision: str) -> None:
    check, scalars = fit(rule, precision=precision)
    assert check.wrong == []
    for name in Gradients._fields:
        steps, values = zip(*scalars.points[f"check/audit_{name}"], strict=True)
        assert steps == (10, 20, 30)
        assert all(math.isfinite(value) and value <= 0 for value in values)


def turning_wrong(cost: Cost, line: str, after: int) -> Callable[..., Gradients]:
    """Return the right backward pass, which doubles one line after `after` calls."""
    calls = []

    def rule(params, activations, X, Y) -> Gradients:
        calls.append(1)
        right = backward(params, activations, X, Y, dz2=cost.dz2)
        if len(calls) <= after:
            return right
        return right._replace(**{line: 2 * getattr(right, line)})

    return rule


@pytest.mark.parametrize("line", ["dW2", "db2", "dW1", "db1"])
def test_the_checksum_notices_a_gradient_that_goes_wrong_later(line: str) -> None:
    rule = partial(turning_wrong, line=line, after=12)
    with pytest.raises(WrongGradient, match="checksum, after update 15") as error:
        fit(rule, audit_every_n_updates=None)
    assert error.value.wrong == [line]


@pytest.mark.parametrize("line", ["dz2", "dz1"])
def test_the_audit_notices_what_no_checksum_can(line: str) -> None:
    rule = partial(turning_wrong, line=line, after=6)
    with pytest.raises(WrongGradient, match="after update 10") as error:
        fit(rule, checksum_every_n_updates=None)
    assert line in error.value.wrong


@pytest.mark.parametrize("rule", [feedback_alignment, sign_symmetric, sign_concordant, flat_spot])
def test_a_rule_that_deviates_on_purpose_trains_and_shows_its_angle(rule) -> None:
    check, scalars = fit(rule)
    assert check.wrong == []
    steps, angles = zip(*scalars.points["check/angle_dz1"], strict=True)
    assert steps == (0, 5, 10, 15, 20, 25, 30)  # whenever anything is checked
    data = ExampleData(Iris(), batch_size=7, validation=0, test=0.2).read()
    params = TwoLayerNetwork(4, 6, 3, rule=rule, seed=3).params
    data.setup("fit")
    X, Y = data.splits["train"].rows(slice(None))
    first = shuffled(len(X), 0, 0)[:7]
    at = (params, forward(params, X[first]), X[first], Y[first])
    turned, true = (each(cross_entropy)(*at).dz1.double().flatten() for each in (rule, autograd))
    cosine = torch.cosine_similarity(turned, true, dim=0)
    assert angles[0] == pytest.approx(math.degrees(math.acos(cosine.item())), rel=1e-3)
    assert all(0.1 < angle < 180 for angle in angles)


def test_the_quadratic_flat_spot_turns_two_lines() -> None:
    _, scalars = fit(flat_spot, cost="quadratic")
    assert {"check/angle_dz2", "check/angle_dz1"} <= scalars.points.keys()
    assert not any(name in scalars.points for name in ("check/angle_dW2", "check/angle_dW1"))


def test_a_rule_that_follows_the_equations_has_no_angle() -> None:
    _, scalars = fit(closed_form)
    assert not any("angle" in name for name in scalars.points)


def test_a_rule_of_four_gradients_trains() -> None:
    def four(cost: Cost) -> Callable[..., Gradients]:
        assert cost == cross_entropy

        def rule(params, activations, X, Y) -> Gradients:
            return backward(params, activations, X, Y)._replace(dz2=None, dz1=None)

        return rule

    assert fit(four)[0].wrong == []


def test_nothing_runs_where_it_is_switched_off(capsys) -> None:
    off = {"at_start": False, "checksum_every_n_updates": None, "audit_every_n_updates": None}
    check, scalars = fit(partial(mistake, mistake="sign"), **off)
    assert check.wrong == []
    assert not any(name.startswith("check/") for name in scalars.points)
    assert capsys.readouterr().out == ""


def test_clipping_does_not_touch_what_is_checked(train: Train) -> None:
    often = ("check.checksum_every_n_updates=1", "trainer.max_epochs=1", "data=iris")
    assert train(*often, "optimizer.clip_norm=0.001", "logger=none").code == 0


def test_what_looks_at_a_training_draws_none_of_its_numbers(train: Train) -> None:
    """A rule that draws numbers gets the same ones beside any checks and charts."""
    rule = ("backward=custom", "backward.function=faults.draws", "check.on_failure=warn")
    iris = ("data=iris", "model.hidden=5", "trainer.max_epochs=2", *rule)
    off = ("check.at_start=false", "check.audit_every_n_updates=null")
    ends = []
    for watched in (
        off,
        ("check.at_start=true", "check.audit_every_n_updates=3"),
        (*off, "callbacks.curves.gradient=true"),
        (*off, "dashboard=deep", "dashboard.share=0.9", "trainer.log_every_n_steps=2"),
    ):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        answer = train(*iris, *watched)
        assert answer.code == 0, answer.err
        ends.append(load(answer.folder / "checkpoints" / "last.ckpt")["state_dict"]["W2"])
    assert all(torch.equal(ends[0], each) for each in ends[1:])

"""The first value that is not finite is found, named, and costs nothing until then."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import several
import torch
from conftest import ROOT, Fitted, Train, composed, fit

from handgrad.devices.launch import Job
from handgrad.tasks import build, cli
from handgrad.training import nonfinite
from handgrad.training.nonfinite import NonFinite

IRIS = (
    *("data=iris", "data.batch_size=20", "model.hidden=5", "trainer.max_epochs=3"),
    "trainer.log_every_n_steps=4",
)
PLANTED = ("backward=custom", "backward.function=planted.spoils_dz1", "check.at_start=false")


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> int:
    """The position in the training split of an example whose dz1 is NaN from now on."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    data = fit(*IRIS, "trainer.max_steps=1").data
    inputs, _ = data.splits["train"].rows(slice(None))
    position = next(n for n, row in enumerate(inputs) if int((inputs == row).all(dim=1).sum()) == 1)
    monkeypatch.setattr(planted, "ROW", inputs[position].clone())
    return position


def update_with(fitted: Fitted, position: int) -> tuple[int, list[int]]:
    """The first update that sees an example, and all that it sees, in the training split."""
    plan = fitted.data.plan()
    order = plan.order(0).tolist()
    place = order.index(position)
    number = place // plan.batch_size
    return number + 1, order[number * plan.batch_size : (number + 1) * plan.batch_size]


def test_the_update_the_line_and_the_examples_are_named(train: Train, spoiled: int) -> None:
    fitted = fit(*IRIS, "trainer.max_steps=1")
    number, rows = update_with(fitted, spoiled)
    assert number > 1
    indices = fitted.data.indices["train"]
    answer = train(
        *IRIS, *PLANTED, "callbacks.checkpoint.every_n_updates=1", "dashboard=off", "logger=none"
    )
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert f"update {number}: the first value that is not finite is in dz1 = W2^T dz2" in answer.err
    assert f"for the examples {indices[spoiled]};" in answer.err
    first = sorted(indices[rows].tolist())[:8]
    assert f"its batch is the examples {', '.join(map(str, first))}" in answer.err
    last = answer.folder / "checkpoints" / "last.ckpt"
    assert f"last good checkpoint is {last} (update {number - 1})" in answer.err
    held = torch.load(last, weights_only=True)
    assert held["global_step"] == number - 1
    assert all(bool(each.isfinite().all()) for each in held["state_dict"].values())
    assert not (answer.folder / "metrics.json").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_skipped_update_changes_nothing_but_the_count(
    train: Train, spoiled: int, optimizer: str
) -> None:
    """As if the rule gave, for these updates, no step at all: compared with a loop that does so."""
    overrides = (*IRIS, f"optimizer={optimizer}", "optimizer.lr=0.1", "dashboard=off")
    skipping = fit(*overrides, *PLANTED, "on_nonfinite=skip")
    assert skipping.network.updates.skipped == 3  # once in each epoch
    assert skipping.trainer.global_step == 15
    plain = fit(*overrides, "trainer.max_steps=1")
    network, data = plain.network, plain.data
    fresh = fit(*overrides, "trainer.max_steps=1", "optimizer.lr=1e-30").network
    with torch.no_grad():
        for mine, its in zip(network.params, fresh.params, strict=True):
            mine.copy_(its)
    made = network.configure_optimizers()
    plan = data.plan()
    inputs, targets = data.splits["train"].rows(slice(None))
    for number in range(15):
        (batch,) = plan.batches(number)
        order = plan.order(number // 5)[batch.start : batch.stop]
        if spoiled in order.tolist():
            continue
        X, Y = inputs[order], targets[order]
        activations = network.updates.forward_pass(network.params, X)
        with torch.no_grad():
            gradients = network.updates.rule(network.params, activations, X, Y)  # pyright: ignore
            for parameter, name in zip(network.params, ("dW1", "db1", "dW2", "db2"), strict=True):
                parameter.grad = getattr(gradients, name)
            made.step()
    for mine, its in zip(skipping.network.params, network.params, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    answer = train(*overrides, *PLANTED, "on_nonfinite=skip", "logger=none")
    assert answer.code == 0, answer.err
    figures = json.loads((answer.folder / "metrics.json").read_text())
    assert figures["run/skipped_updates"] == 3
    assert math.isfinite(figures["cost/train"])


ALL_BAD = (
    *("backward=custom", "backward.function=planted.spoils_all", "check.at_start=false"),
    "on_nonfinite=skip",
)


@pytest.mark.parametrize("scheduler", ["none", "step"])
def test_an_epoch_of_skipped_updates_alone_stops_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    answer = train(*IRIS, *ALL_BAD, f"scheduler={scheduler}", "logger=none")
    assert answer.code == 1
    assert answer.err.count("\n") == 1, answer.err
    assert "update 5: the first value that is not finite is in dz1" in answer.err
    assert "5 updates in a row were skipped, as many as an epoch has" in answer.err
    assert not (answer.folder / "metrics.json").exists()


def test_fewer_skipped_updates_in_a_row_do_not_stop_the_run() -> None:
    streak, ends = nonfinite.Streak(longest=3), []
    for update in (1, 2, 4, 5, 7, 8, 9):
        try:
            streak.add(NonFinite(update, "W1", [], []))
        except NonFinite as stopped:
            ends.append((stopped.update, stopped.in_a_row))
    assert ends == [(9, 3)]


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam"])
def test_a_schedule_that_drives_the_rate_beyond_all_numbers_is_one_line(
    train: Train, optimizer: str, on_nonfinite: str
) -> None:
    schedule = ("scheduler=exponential", "scheduler.interval=step", "scheduler.gamma=1e15")
    answer = train(
        *IRIS, *schedule, f"optimizer={optimizer}", f"on_nonfinite={on_nonfinite}", "logger=none"
    )
    assert answer.code == 1
    assert answer.err.count("\n") == 1, answer.err
    assert re.search(r"learning rate of \d\S*e\+\d\d, .*; see optimizer and scheduler", answer.err)
    last = answer.folder / "checkpoints" / "last.ckpt"
    assert not last.exists()  # there was no epoch


TWO = (
    *("data=npz", "data.batch_size=20", "model.hidden=5", "trainer.max_epochs=3"),
    *("trainer.log_every_n_steps=3", "check.at_start=false", "trainer.timeout=120"),
    *("logger=none", "dashboard=off", "trainer.enable_progress_bar=false"),
)
OUTLIER = ("backward=custom", "backward.function=planted.spoils_outliers")
HOW = {  # the third ends at an epoch without an update
    "stop": (*OUTLIER, "on_nonfinite=stop"),
    "skip": (*OUTLIER, "on_nonfinite=skip"),
    "skip all": ALL_BAD,
}


def test_two_processes_answer_as_one_does(tmp_path: Path) -> None:
    """The bad example is on one device alone; both stop there, or both skip."""
    path = several.write_examples(tmp_path / "a.npz", 120)
    with np.load(path) as arrays:
        X, y = arrays["X"], arrays["y"]
    X[77, 0] = 1000
    np.savez(path, X=X, y=y)
    data = composed(*TWO, f"data.path={path}")
    rows = build.data(data).read().indices["train"]
    assert 77 in rows
    answers: dict[tuple[str, int], tuple[list[str], Any, Any]] = {}
    for devices in (1, 2):
        jobs = []
        for how, overrides in HOW.items():
            config = composed(*TWO, f"data.path={path}", *overrides, f"trainer.devices={devices}")
            folder = tmp_path / f"{how}{devices}"
            folder.mkdir()
            jobs.append(Job(cli.run_task, config, [], folder))
        several.run_on(devices, jobs, tmp_path)
        for how, job in zip(HOW, jobs, strict=True):
            errors = [each.read_text() for each in sorted(job.folder.glob("device*.error"))]
            told = [error.replace(str(job.folder), "FOLDER") for error in errors]
            weights = metrics = None
            if not errors:
                weights = torch.load(job.folder / "device0.pt")
                metrics = json.loads((job.folder / "metrics.json").read_text())
            answers[how, devices] = (told, weights, metrics)
    for how, n in (("stop", 0), ("skip all", 4)):
        (one,), two = answers[how, 1][0], answers[how, 2][0]
        assert two == [one, one]
        assert ("for the examples 77;" in one) == (how == "stop"), one
        assert f"{n} updates in a row" in one or how == "stop"
    (_, one, figures), (_, two, same) = answers["skip", 1], answers["skip", 2]
    assert figures["run/skipped_updates"] == same["run/skipped_updates"] == 3
    assert figures["run/updates"] == same["run/updates"] == 12
    for mine, its in zip(one, two, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("lr", [1e38, 3e38])  # beyond what the command line accepts
def test_a_step_that_overflows_is_named(lr: float) -> None:
    with pytest.raises(NonFinite) as stopped:
        fit(*IRIS, f"optimizer.lr={lr}")
    assert stopped.value.line in nonfinite.LINES


def test_looking_closely_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*IRIS, "optimizer=adam", "scheduler=step", "scheduler.interval=step")
    plain = fit(*overrides)
    looked: list[int] = []
    monkeypatch.setattr(
        "handgrad.training.updates.all_finite", lambda parameters: looked.append(1) or False
    )
    careful = fit(*overrides)
    assert looked
    for mine, its in zip(plain.network.params, careful.network.params, strict=True):
        assert torch.equal(mine, its)
    assert plain.network.published == careful.network.published

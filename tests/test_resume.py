"""A run that is continued from any update ends as if it had never stopped, to the last bit."""

import csv
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import several
import torch
from conftest import composed
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from handgrad.devices.launch import Job
from handgrad.runs import resume
from handgrad.runs.checkpointing import LastCheckpoint, Resumable
from handgrad.runs.resume import fingerprint_of
from handgrad.tasks import build, cli
from handgrad.tasks import train as tasks_train

IRIS = (
    *("data=iris", "data.batch_size=20", "model.hidden=5", "trainer.max_epochs=3"),
    *("trainer.log_every_n_steps=4", "logger=none", "trainer.enable_progress_bar=false"),
)
UPDATES = 3 * 5  # 96 examples; the last batch of an epoch has 16


class KeepAll(Callback):
    """Keeps a copy of all checkpoints for each update after which last.ckpt is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        (last,) = (each for each in trainer.callbacks if isinstance(each, LastCheckpoint))
        self.save = last.save
        last.save = self.save_and_copy  # pyright: ignore[reportAttributeAccessIssue]
        self.path = last.path

    def save_and_copy(self, trainer: L.Trainer) -> None:
        self.save(trainer)
        shutil.copytree(
            self.path.parent, self.folder / str(trainer.global_step), dirs_exist_ok=True
        )


@cache  # composing takes a third of a second
def configured(*overrides: str) -> dict[str, Any]:
    return composed(*IRIS, *overrides)


def run(folder: Path, *overrides: str, begin: Path | None = None) -> dict[str, Any]:
    """Train as task=train does, but for what it prints and reports; the last checkpoint."""
    config = configured(*overrides)
    data = build.data(config).read()
    network, made_of = build.network(config, data), fingerprint_of(config, data)
    folder.mkdir(exist_ok=True)
    resuming = {**config, "ckpt_path": begin and str(begin), "on_change": "accept"}
    start = resume.find(resuming, folder, made_of, network)
    callbacks = [
        Resumable(config, made_of),
        *build.keepers(config, data, folder),
        *([] if begin else [KeepAll(folder)]),
    ]
    trainer = build.trainer(config, folder, extra=callbacks)
    data.horizon = build.horizon(config, trainer)
    resume.prepare(start, folder, trainer)
    trainer.fit(network, datamodule=data, ckpt_path=start.hand_to(trainer))
    return last_of(folder)


def last_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def comparable(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All that two runs have in common: not their folders, nor how often they were started."""
    states = checkpoint["callbacks"]
    callbacks = {
        name: {key: state[key] for key in state if "path" not in key and key != "best_k_models"}
        for name, state in states.items()
    }
    return {**checkpoint, "callbacks": callbacks, "loops": None, "config": None}


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two trees of containers differ in any bit."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{place}: {one.keys()} {other.keys()}"]
        return [bad for key in one for bad in differing(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{place}: lengths"]
        pairs = enumerate(zip(one, other, strict=True))
        return [bad for n, (a, b) in pairs for bad in differing(a, b, f"{place}.{n}")]
    if type(one) is not type(other):
        return [f"{place}: {type(one)} {type(other)}"]
    same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
    return [] if same else [place]


def check_every_resume(
    tmp_path: Path, *overrides: str, updates: int = UPDATES, every: int = 1
) -> None:
    """Continue from every so many checkpoints of a whole run, and compare all that is kept."""
    whole = run(tmp_path / "whole", *overrides)
    assert whole["global_step"] == updates
    for number in range(every, updates, every):
        path = tmp_path / "whole" / str(number) / "last.ckpt"
        folder = tmp_path / str(number)
        resumed = run(folder, *overrides, begin=path)
        assert differing(comparable(whole), comparable(resumed)) == [], path
        shutil.rmtree(folder)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_continues_bitwise_from_every_update(tmp_path: Path, accumulate: int) -> None:
    check_every_resume(
        tmp_path,
        "optimizer=adam",
        "callbacks.checkpoint.every_n_updates=1",
        f"optimizer.accumulate={accumulate}",
        updates=3 * (5 // accumulate + 5 % accumulate),
    )


VARIANTS = {
    "sgd": (),
    "momentum": ("optimizer=momentum", "optimizer.clip_norm=0.05"),
    "nesterov": ("optimizer=nesterov", "scheduler=cosine", "scheduler.interval=step"),
    "adam": ("optimizer=adam", "scheduler=plateau", "scheduler.patience=0"),
    "adamw": ("optimizer=adamw", "scheduler=exponential", "scheduler.interval=step"),
    "lbfgs": ("optimizer=lbfgs", "optimizer.max_iter=3", "optimizer.lr=0.1"),
    "feedback": ("backward=feedback_alignment", "scheduler=step", "scheduler.step_size=1"),
    "float64": ("trainer.precision=64-true", "optimizer=adam"),
    "bfloat16": ("trainer.precision=bf16-true", "optimizer=momentum"),
    "validated": ("trainer.val_check_interval=7", "callbacks.early_stopping.patience=9"),
    "bitwise": ("reproducible=bitwise", "optimizer=adam", "data.microbatch=7"),
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_optimizer_and_schedule_continues_bitwise(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    check_every_resume(tmp_path, "callbacks.checkpoint.every_n_updates=1", *overrides, every=7)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_optimizer_and_schedule_continues_bitwise_from_every_update(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    check_every_resume(tmp_path, "callbacks.checkpoint.every_n_updates=1", *overrides)


def test_the_end_of_a_block_changes_no_bit(tmp_path: Path) -> None:
    """Where rows begin in memory rounds products of 30 features: blocks align them."""
    sizes = ("data=breast_cancer", "data.batch_size=7", "model.hidden=9", "trainer.max_epochs=2")
    cadence = "callbacks.checkpoint.every_n_updates"
    whole = run(tmp_path / "whole", *sizes, f"{cadence}=4", "trainer.log_every_n_steps=50")
    begun = tmp_path / "whole" / "8" / "last.ckpt"
    odd = run(tmp_path / "odd", *sizes, f"{cadence}=7", "trainer.log_every_n_steps=50")
    later = run(tmp_path / "later", *sizes, f"{cadence}=9", begin=begun)
    for other in (odd, later):
        assert differing(whole["state_dict"], other["state_dict"]) == []


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_continue_bitwise_from_every_update(tmp_path: Path, accumulate: int) -> None:
    updates = 2 * (5 // accumulate + 5 % accumulate)
    overrides = (
        "trainer.max_epochs=2",
        *("optimizer=adam", "callbacks.checkpoint.every_n_updates=1", "dashboard=off"),
        *(f"optimizer.accumulate={accumulate}", "trainer.devices=2"),
    )
    config = configured(*overrides)
    jobs = [Job(cli.run_task, config, [], tmp_path / "whole")]
    for number in range(1, updates):
        begun = {
            **config,
            "ckpt_path": str(tmp_path / "whole" / "kept" / str(number) / "last.ckpt"),
        }
        jobs.append(Job(cli.run_task, begun, [], tmp_path / str(number)))
    for job in jobs:
        job.folder.mkdir()
    several.run_on(2, jobs, tmp_path)
    for rank in (0, 1):
        whole, *others = (torch.load(job.folder / f"device{rank}.pt") for job in jobs)
        for number, weights in enumerate(others, 1):
            assert all(map(torch.equal, whole, weights)), number
    whole, *others = (last_of(job.folder) for job in jobs)
    for number, each in enumerate(others, 1):
        assert differing(comparable(whole), comparable(each)) == [], number


EVERY_UPDATE = "scheduler.interval=step"
SETTINGS: dict[str, tuple[str, str, float, float]] = {
    # how it begins, what is new, the rate of the next update, the rate after it
    "momentum": ("optimizer=momentum", "optimizer.momentum=0.3", 0.1, 0.1),
    "rate": ("optimizer=momentum", "optimizer.lr=0.7", 0.7, 0.7),
    "decay": ("optimizer=momentum", "optimizer.weight_decay=0.2", 0.1, 0.1),
    "averages": ("optimizer=adam", "optimizer.betas=[0.5,0.6]", 0.001, 0.001),
    "schedule": (
        f"optimizer=momentum scheduler=exponential {EVERY_UPDATE}",
        "scheduler.gamma=0.5",
        0.1 * 0.95**9,
        0.1 * 0.95**9 * 0.5,
    ),
    "rate of a schedule": (
        f"optimizer=momentum scheduler=exponential {EVERY_UPDATE}",
        "optimizer.lr=1",
        0.95**9,
        0.95**10,
    ),
    "a first schedule": (
        "optimizer=momentum",
        f"scheduler=exponential scheduler.gamma=0.5 {EVERY_UPDATE}",
        0.1,
        0.05,
    ),
    "another schedule": ("optimizer=momentum scheduler=cosine", "scheduler=step", 0.1, 0.1),
}


@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_a_new_setting_holds_from_where_the_training_goes_on(
    tmp_path: Path, case: tuple[str, str, float, float]
) -> None:
    """Compared with the formula of the update, for the gradient that the unchanged run saw."""
    began, new, rate, rate_after = case
    begun, more = began.split(), new.split()
    each = "callbacks.checkpoint.every_n_updates=1"
    run(tmp_path / "whole", each, *begun)
    at = 9  # the next update ends an epoch
    path = tmp_path / "whole" / str(at) / "last.ckpt"
    before, same = (
        torch.load(tmp_path / "whole" / str(number) / "last.ckpt", weights_only=True)
        for number in (at, at + 1)
    )
    limit = f"trainer.max_steps={at + 1}"
    found = run(tmp_path / "resumed", each, *begun, *more, limit, begin=path)
    was, now = (configured(*begun, *overrides)["optimizer"] for overrides in ([], more))
    for number, name in enumerate(("W1", "W2", "b1", "b2")):  # as the optimizer has them
        W = before["state_dict"][name]
        old, later = (each["optimizer_states"][0]["state"][number] for each in (before, same))
        if "betas" in now:
            beta = was["betas"][0]
            g = (later["exp_avg"] - beta * old["exp_avg"]) / (1 - beta)
            beta1, beta2 = now["betas"]
            first = (beta1 * old["exp_avg"] + (1 - beta1) * g) / (1 - beta1 ** (at + 1))
            second = (beta2 * old["exp_avg_sq"] + (1 - beta2) * g**2) / (1 - beta2 ** (at + 1))
            step = first / (second.sqrt() + now["eps"])
        else:
            g = later["momentum_buffer"] - was["momentum"] * old["momentum_buffer"]
            decay = now["weight_decay"] if name in ("W1", "W2") else 0
            step = now["momentum"] * old["momentum_buffer"] + g + decay * W
        torch.testing.assert_close(
            found["state_dict"][name] - W, -rate * step, rtol=2e-3, atol=2e-6
        )
    for group in found["optimizer_states"][0]["param_groups"]:
        assert group["lr"] == pytest.approx(rate_after)
    settings = ("optimizer_states", "state_dict")
    assert any(differing(found[name], same[name]) for name in settings)  # it does make a difference


CURVES = (
    *("data=parity", "model.hidden=3", "callbacks.curves.parts=[train]", "logger=none"),
    *("callbacks.curves.gradient=true", "dashboard=off", "check.at_start=false"),
    *("trainer.enable_progress_bar=false", "callbacks.checkpoint.every_n_updates=1"),
)


def with_curves(folder: Path, epochs: int, begin: str | None = None) -> Path:
    config = composed(*CURVES, f"trainer.max_epochs={epochs}") | {"ckpt_path": begin}
    folder.mkdir(exist_ok=True)
    tasks_train.run(config, [], folder)
    return folder


@pytest.fixture(scope="module")
def half_and_whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of 2 and of 60 epochs, and the first one looks interrupted."""
    folder = tmp_path_factory.mktemp("curves")
    half, whole = with_curves(folder / "half", 2), with_curves(folder / "whole", 60)
    (half / "metrics.json").unlink()
    return half, whole


def test_a_checkpoint_does_not_grow_with_the_curves(half_and_whole: tuple[Path, Path]) -> None:
    sizes = [(each / "checkpoints" / "last.ckpt").stat().st_size for each in half_and_whole]
    assert abs(sizes[1] - sizes[0]) < 500  # it was 10,000 bytes for these 58 rows
    assert len((half_and_whole[1] / "curves.csv").read_text().splitlines()) == 61


def test_the_curves_of_a_resumed_run_are_those_of_one_left_alone(
    tmp_path: Path, half_and_whole: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    half, whole = half_and_whole
    expected = (whole / "curves.csv").read_text()
    killed = Path(shutil.copytree(half, tmp_path / "killed"))
    with (killed / "curves.csv").open("a") as file:  # after the last checkpoint, within a row
        file.write("2,99,0.5,0.5,1.0,0.5,1.0,1.0,9.0\n3,1")
    with_curves(killed, 60, "last")
    assert (killed / "curves.csv").read_text() == expected
    elsewhere = with_curves(tmp_path / "elsewhere", 60, str(half))
    assert (elsewhere / "curves.csv").read_text() == expected
    older = Path(shutil.copytree(half, tmp_path / "older"))
    path = older / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    with (older / "curves.csv").open(newline="") as file:
        rows = [
            {name: float(cell) if "/" in name else int(cell) for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]
    checkpoint["callbacks"]["LearningCurves"] = {"rows": rows}
    torch.save(checkpoint, path)
    (older / "curves.csv").unlink()
    with_curves(older, 60, "last")
    assert (older / "curves.csv").read_text() == expected
    assert "rows before this update" not in capsys.readouterr().out
    lost = Path(shutil.copytree(half, tmp_path / "lost"))
    (lost / "curves.csv").unlink()
    with_curves(lost, 3, "last")
    assert "only 0 of the 2 rows before this update are there" in capsys.readouterr().out
    assert (lost / "curves.csv").read_text().splitlines()[1].startswith("2,")

"""A run's folder loses no training and mixes none with another's."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import CONF, Train

from handgrad.devices import launch
from handgrad.runs import checkpoint_file
from handgrad.tasks import cli

IRIS = (
    *("data=iris", "model.hidden=5", "logger=none", "trainer.enable_progress_bar=false"),
    *("callbacks.checkpoint.monitor=cost/val", "callbacks.checkpoint.mode=max"),
)
"""The cost falls, so that the first epoch, of 10 updates, stays the best."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two epochs, to be copied."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        command = [*IRIS, "trainer.max_epochs=2", "dashboard=off", f"hydra.run.dir={folder}"]
        patch.setattr(sys, "argv", ["train.py", *command])
        assert cli.main(CONF) == 0
    return folder


def read(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def alter_best(folder: Path, **state: Any) -> None:
    """Write other values into what last.ckpt knows of the best checkpoint."""
    checkpoint = read(folder)
    for name, values in checkpoint["callbacks"].items():
        if name.startswith("BestCheckpoint"):
            values.update(state)
    checkpoint_file.write(checkpoint, folder / "checkpoints" / "last.ckpt")


@pytest.fixture
def trained(earlier: Path, tmp_path: Path) -> Path:
    """Its copy, whose last checkpoint names the best one at this place."""
    folder = Path(shutil.copytree(earlier, tmp_path / "trained"))
    alter_best(folder, best_model_path=str(folder / "checkpoints" / "best.ckpt"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """What a folder contains, byte for byte."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def best_score(checkpoint: dict[str, Any]) -> float:
    (score,) = (
        float(state["best_model_score"])
        for name, state in checkpoint["callbacks"].items()
        if name.startswith("BestCheckpoint")
    )
    return score


# The best checkpoint lies beside the one that is read


def test_a_moved_run_keeps_its_best_score(train: Train, trained: Path, tmp_path: Path) -> None:
    score = best_score(read(trained))
    moved = trained.rename(tmp_path / "moved")
    more = train(*IRIS, "trainer.max_epochs=3", "ckpt_path=last", into=moved)
    assert more.code == 0, more.err
    assert read(moved)["global_step"] == 30
    assert read(moved, "best")["global_step"] == 10
    assert best_score(read(moved)) == score


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_copied_run_keeps_its_own_best(
    train: Train, trained: Path, tmp_path: Path, elsewhere: bool
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    much = ("optimizer.lr=300", "trainer.max_epochs=4")  # the cost rises from here on
    assert train(*IRIS, *much, "ckpt_path=last", into=trained).code == 0
    assert read(trained, "best")["global_step"] > 20
    into = tmp_path / "elsewhere" if elsewhere else copy
    more = train(*IRIS, "trainer.max_epochs=3", f"ckpt_path={copy}", into=into)
    assert more.code == 0, more.err
    assert read(into, "best")["global_step"] == 10
    assert best_score(read(into)) == best_score(read(into, "best")) == best_score(read(copy))


def test_a_path_within_a_checkpoint_copies_nothing(
    train: Train, trained: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of another user")
    (trained / "checkpoints" / "best.ckpt").unlink()
    alter_best(trained, best_model_path=str(secret), kth_best_model_path=str(secret))
    into = tmp_path / "elsewhere"
    limit = "trainer.max_steps=25"  # it ends before another validation
    more = train(*IRIS, limit, f"ckpt_path={trained}", into=into)
    assert more.code == 0, more.err
    assert not (into / "checkpoints" / "best.ckpt").exists()
    assert str(secret) not in str(read(into)["callbacks"])


@pytest.mark.parametrize("kind", ["later", "other score", "damaged"])
def test_a_best_checkpoint_of_another_training_is_not_reported(
    train: Train, trained: Path, tmp_path: Path, kind: str
) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    if kind == "later":
        checkpoint_file.write({**read(trained, "best"), "global_step": 21}, best)
    elif kind == "other score":
        alter_best(trained, best_model_score=torch.tensor(9.0))
    else:
        best.write_bytes(best.read_bytes()[:-100])
    into = tmp_path / "elsewhere"
    more = train(*IRIS, "trainer.max_epochs=3", f"ckpt_path={trained}", into=into)
    assert more.code == 0, more.err
    assert read(into, "best")["global_step"] == 30  # its own first


def test_testing_writes_no_checkpoint(
    train: Train, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device may be reading best.ckpt at that moment."""
    seen: list[list[tuple[int, int]]] = []
    test, into = L.Trainer.test, tmp_path / "elsewhere"

    def watched(*arguments: Any, **keys: Any) -> Any:
        files = sorted((into / "checkpoints").iterdir())
        seen.append([(each.stat().st_ino, each.stat().st_mtime_ns) for each in files])
        answer = test(*arguments, **keys)
        seen.append([(each.stat().st_ino, each.stat().st_mtime_ns) for each in files])
        return answer

    monkeypatch.setattr(L.Trainer, "test", watched)
    assert train(*IRIS, "trainer.max_epochs=3", f"ckpt_path={trained}", into=into).code == 0
    before, after = seen
    assert len(before) > 1
    assert before == after


# Numbers of 64 bits


def test_a_network_of_64_bits_is_tested_as_it_was_trained(train: Train) -> None:
    double = ("data=iris", "model.hidden=5", "trainer.max_epochs=2", "trainer.precision=64-true")
    trained = train(*double)
    tested = train("task=test", "trainer.precision=64-true", f"ckpt_path={trained.folder}")
    assert read(trained.folder)["state_dict"]["W1"].dtype == torch.float64
    first, second = (
        json.loads((each.folder / "metrics.json").read_text()) for each in (trained, tested)
    )
    assert first["cost/test"] == second["cost/test"]


# How long a training is


@pytest.mark.parametrize("limit", ["trainer.max_epochs=1", "trainer.max_steps=15"])
def test_a_shorter_training_than_was_made_is_refused_in_one_line(
    train: Train, trained: Path, limit: str
) -> None:
    (trained / "metrics.json").unlink()  # as if it had been interrupted
    before = contents(trained)
    answer = train(*IRIS, limit, "ckpt_path=last", into=trained)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert f"{limit}: nothing is left to do" in line
    assert contents(trained) == before


def test_the_time_limit_is_of_one_life(train: Train, trained: Path) -> None:
    """A job that is queued again would never advance."""
    checkpoint = read(trained)
    checkpoint["callbacks"]["Timer"] = {"time_elapsed": {"train": 3600.0}}
    checkpoint_file.write(checkpoint, trained / "checkpoints" / "last.ckpt")
    hour = "trainer.max_time=00:00:30:00"
    more = train(*IRIS, hour, "trainer.max_epochs=3", "ckpt_path=last", into=trained)
    assert more.code == 0, more.err
    assert read(trained)["global_step"] == 30


def test_the_last_state_knows_of_a_validation_after_the_last_update(train: Train) -> None:
    every = ("trainer.val_check_interval=7", "callbacks.checkpoint.every_n_updates=7")
    begun = train(*IRIS, *every, "trainer.max_steps=7")
    assert best_score(read(begun.folder)) == best_score(read(begun.folder, "best"))
    more = train(*IRIS, *every, "trainer.max_steps=14", "ckpt_path=last", into=begun.folder)
    assert more.code == 0, more.err
    assert read(begun.folder, "best")["global_step"] == 7  # its cost is the highest


def test_a_validation_that_never_comes_is_told(train: Train) -> None:
    answer = train(*IRIS, "trainer.max_epochs=2", "trainer.val_check_interval=21")
    assert answer.code == 0
    assert "val_check_interval=21: the training ends after 20 updates" in answer.out


# What lies in the folder


REFUSED: dict[str, tuple[str, ...]] = {
    "again": (),
    "one update": ("debug=one_update",),
    "a mistake": ("backward=mistake",),
    "elsewhere": ("ckpt_path=../another",),
    "other settings": ("ckpt_path=last", "model.hidden=6"),
    "a slip": ("data.path=nowhere", "data=csv", "data.target=y"),
}


@pytest.mark.parametrize("more", REFUSED.values(), ids=REFUSED)
def test_a_training_is_not_replaced_by_another(
    train: Train, trained: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    shutil.copytree(trained, trained.with_name("another"))
    monkeypatch.chdir(trained)
    before = contents(trained)
    answer = train(*IRIS, "trainer.max_epochs=3", *more, into=trained)
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert contents(trained) == before
    if not more:
        assert "ckpt_path=last resumes the training" in answer.err
        assert "another hydra.run.dir begins a new one" in answer.err


def test_a_training_that_left_no_state_begins_anew(train: Train, trained: Path) -> None:
    shutil.rmtree(trained / "checkpoints")
    (trained / "metrics.json").unlink()
    (trained / "events.out.tfevents.1").touch()
    answer = train(*IRIS, "trainer.max_epochs=1", into=trained)
    assert answer.code == 0, answer.err
    assert "trainer.max_epochs=1" in (trained / ".hydra" / "overrides.yaml").read_text()
    assert not (trained / ".hydra.new").exists()


@pytest.mark.parametrize("how", ["ckpt_path=last", "ckpt_path=null"])
def test_a_best_state_from_before_the_first_last_one_is_made_again(
    train: Train, trained: Path, how: str
) -> None:
    """As a kill between both leaves it."""
    for name in ("last.ckpt", "previous.ckpt"):
        (trained / "checkpoints" / name).unlink(missing_ok=True)
    (trained / "metrics.json").unlink()
    answer = train(*IRIS, "trainer.max_epochs=2", how, into=trained)
    assert answer.code == 0, answer.err
    assert read(trained, "best")["global_step"] == 10


FOREIGN = ("metrics.json", "metrics.csv", "checkpoints/best.ckpt", "events.out.tfevents.7")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_program_is_not_replaced(
    train: Train, trained: Path, tmp_path: Path, name: str
) -> None:
    own = tmp_path / "own"
    (own / name).parent.mkdir(parents=True)
    (own / name).write_text("mine")
    (own / ".notes.tmp").write_text("mine")
    answer = train(*IRIS, "trainer.max_epochs=1", into=own)
    assert answer.code == 2
    assert name in answer.err
    assert (own / name).read_text() == (own / ".notes.tmp").read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.json", "checkpoints/best.ckpt"])
def test_a_file_of_another_program_is_set_aside_by_a_training_that_goes_on(
    train: Train, trained: Path, name: str
) -> None:
    path = trained / name
    path.write_text("mine")
    more = train(*IRIS, "trainer.max_epochs=3", "ckpt_path=last", into=trained)
    assert more.code == 0, more.err
    assert path.with_name(f"{path.name}.before").read_text() == "mine"
    assert f"{path.name}.before" in more.out


@pytest.mark.parametrize("task", ["test", "check"])
def test_other_tasks_leave_a_trainings_files(train: Train, trained: Path, task: str) -> None:
    before = contents(trained)
    answer = train(*IRIS, f"task={task}", "ckpt_path=best", into=trained)
    assert answer.code == 0, answer.err
    after = contents(trained)
    assert {name: after[name] for name in before} == before
    assert f"metrics_{task}.json" in after
    assert f"metrics_{task}.json" in answer.out


# Where .latest leads


def test_all_devices_begin_where_latest_led_in_the_first_process(
    train: Train, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".latest").symlink_to(trained)
    given: list[Any] = []
    monkeypatch.setattr(launch, "run_devices", lambda job, devices: given.append(job))
    assert train(*IRIS, "trainer.devices=2", "ckpt_path=.latest").code == 0
    (job,) = given
    assert job.config["ckpt_path"] == str(trained.resolve())


def test_latest_leads_to_a_run_only_once_all_devices_have_begun(
    train: Train, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have read the checkpoint when they meet before the callbacks' setup."""
    Path(".latest").symlink_to(trained)
    led: list[Path] = []
    fit = L.Trainer.fit

    def watched(*arguments: Any, **keys: Any) -> None:
        led.append(Path(".latest").resolve())
        fit(*arguments, **keys)

    monkeypatch.setattr(L.Trainer, "fit", watched)
    answer = train(*IRIS, "trainer.max_epochs=3", "ckpt_path=.latest")
    assert answer.code == 0, answer.err
    assert led == [trained.resolve()]
    assert Path(".latest").resolve() == answer.folder.resolve()

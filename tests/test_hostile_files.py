"""Files from anywhere: nothing that a checkpoint or a data file holds or names is ever run."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Answer, Train, composed

from handgrad.config.errors import BadInput
from handgrad.data.arrays import Arrays
from handgrad.data.tables import Parquet
from handgrad.runs import loading
from handgrad.tasks import build
from handgrad.tasks import train as train_task

MARK = "it_was_run"  # the file that every planted command would make
COMMAND = f"touch {MARK}"
TASKS = ("test", "export", "check", "train")  # predict and examples read as test does
SMALL = ("data=iris", "model.hidden=3", "trainer.max_epochs=1", "logger=none", "dashboard=off")


class RunsACommand:
    """Its pickle calls os.system when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (COMMAND,)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a good checkpoint holds."""
    folder = tmp_path_factory.mktemp("trained")
    train_task.run(composed(*SMALL, "trainer.enable_progress_bar=false"), [], folder)
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def refused(answer: Answer, tmp_path: Path) -> str:
    """The one line of a refusal after which nothing was run."""
    assert answer.code == 2, answer
    assert answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / MARK).exists()
    return answer.err


@pytest.mark.parametrize("task", TASKS)
def test_a_pickle_in_a_checkpoint_is_never_run(train: Train, tmp_path: Path, task: str) -> None:
    torch.save({"state_dict": {}, "config": RunsACommand()}, tmp_path / "hostile.ckpt")
    line = refused(train(*SMALL, f"task={task}", "ckpt_path=hostile.ckpt"), tmp_path)
    assert "hostile.ckpt" in line
    assert "weights_only" not in line  # the advice to run it all the same
    assert pickle.loads(pickle.dumps(RunsACommand())) == 0  # the trap does work
    assert (tmp_path / MARK).exists()


HARMFUL = {
    "a command": {"_target_": "os.system", "command": COMMAND},
    "a command among arguments": {"_target_": "subprocess.call", "_args_": ["touch", MARK]},
    "a class of the user's own": {"_target_": "mine.Source"},
    "no class": {},
    "not a node": COMMAND,
}
WITHIN = {  # what our own sources' keys may not hold
    "instead of a path": {
        "_target_": "handgrad.data.tables.Csv",
        "path": {"_target_": "os.system", "command": COMMAND},
    },
    "beside the keys": {"extra": {"_target_": "os.system", "command": COMMAND}},
    "Hydra's own key": {"_args_": [{"_target_": "os.system", "command": COMMAND}]},
}


@pytest.mark.parametrize("name", [*HARMFUL, *WITHIN])
def test_a_class_that_a_checkpoint_names_is_never_made(
    tmp_path: Path, checkpoint: dict[str, Any], name: str
) -> None:
    was = checkpoint["config"]
    node = HARMFUL[name] if name in HARMFUL else {**was["data"], **WITHIN[name]}
    torch.save({**checkpoint, "config": {**was, "data": node}}, "hostile.ckpt")
    with pytest.raises(BadInput, match=r"ckpt_path=.*hostile\.ckpt: .*data"):
        build.restore({**was, "ckpt_path": "hostile.ckpt"}, [], tmp_path)
    assert not Path(MARK).exists()


@pytest.mark.parametrize("task", ["test", "predict", "examples"])
def test_no_task_makes_what_a_checkpoint_names(
    train: Train, tmp_path: Path, checkpoint: dict[str, Any], task: str
) -> None:
    groups = ("backward", "optimizer", "scheduler", "logger", "callbacks", "model", "trainer")
    config = dict.fromkeys(groups, HARMFUL["a command"])
    data = checkpoint["config"]["data"]
    torch.save({**checkpoint, "config": {**config, "data": data}}, tmp_path / "hostile.ckpt")
    answer = train(f"task={task}", "ckpt_path=hostile.ckpt", "logger=none")
    assert answer.code == 0, answer.err  # none of these groups is used
    hostile = {**checkpoint, "config": dict.fromkeys(("data", *groups), HARMFUL["a command"])}
    torch.save(hostile, tmp_path / "hostile.ckpt")
    assert "name the data" in refused(train(f"task={task}", "ckpt_path=hostile.ckpt"), tmp_path)


def test_data_of_ones_own_class_are_named_on_the_command_line(
    tmp_path: Path, checkpoint: dict[str, Any]
) -> None:
    was, path = checkpoint["config"], tmp_path / "own.ckpt"
    own = {**was["data"], "_target_": "mine.Source"}
    torch.save({**checkpoint, "config": {**was, "data": own}}, path)
    config = {**was, "ckpt_path": str(path)}
    with pytest.raises(BadInput, match="name the data for this run"):
        build.restore(config, [], tmp_path)
    assert len(build.restore(config, ["data=iris"], tmp_path).data.examples) == 150


def changed(checkpoint: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    """A copy of it with another value at a place."""
    name, *rest = path
    inner = changed(checkpoint[name], *rest, value=value) if rest else value
    return {**checkpoint, name: inner}


W1 = ("state_dict", "W1")
HYPER, KNOWN = "hyper_parameters", ("ExampleData", "known")
MALFORMED = [
    (W1, torch.zeros(3, 5), "W1"),
    (W1, torch.zeros(3, 4, dtype=torch.int64), "W1"),
    (W1, torch.zeros(1, 1).expand(3, 4), "W1"),
    (W1, torch.zeros(3, 4).to_sparse(), "W1"),
    (W1, "a text", "state_dict"),
    (("state_dict", "W3"), torch.zeros(3), "W3"),
    (("state_dict",), {}, "W1"),
    ((HYPER, "hidden_features"), 10**12, "W1"),  # 16 TB, if it were made
    ((HYPER, "hidden_features"), 0, "hidden_features"),
    ((HYPER, "cost"), "nothing", "cost"),
    ((HYPER, "init"), "nothing", "init"),
    ((HYPER, "_instantiator"), "os.system", "_instantiator"),
    ((HYPER,), [], HYPER),
    ((*KNOWN, "class_names"), ("a",), "class_names"),
    ((*KNOWN, "class_names"), ("a", "b"), "class_names"),
    ((*KNOWN, "feature_names"), ("a",), "feature_names"),
    ((*KNOWN, "multi_label"), "yes", "multi_label"),
    (("ExampleData", "scaling", "divisor"), [0.0], "divisor"),
    (("ExampleData", "scaling", "offset"), [0.0, 1.0], "scaling"),
    (("ExampleData",), None, "ExampleData"),
    (("config",), 3, "config"),
]


@pytest.mark.parametrize(("place", "value", "named"), MALFORMED, ids=lambda value: str(value)[:40])
def test_a_malformed_checkpoint_is_refused_by_what_is_wrong_in_it(
    tmp_path: Path, checkpoint: dict[str, Any], place: tuple[str, ...], value: Any, named: str
) -> None:
    path = tmp_path / "malformed.ckpt"
    torch.save(changed(checkpoint, *place, value=value), path)
    with pytest.raises(BadInput, match="malformed") as refusal:
        loading.load(path)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    torch.save(checkpoint, path)
    assert loading.network(loading.load(path)).W1.shape == (3, 4)


def test_a_pickle_in_a_data_file_is_never_run(train: Train, tmp_path: Path) -> None:
    objects = np.array([[RunsACommand()] * 2] * 9, dtype=object)
    np.save(tmp_path / "X.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", X=objects, y=np.arange(9) % 2)
    np.savez(tmp_path / "b.npz", X=np.eye(9), y=objects[:, 0])
    np.save(tmp_path / "y.npy", np.arange(9) % 2)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        for name in ("X", "y"):  # a bare pickle under the name of an array
            archive.writestr(f"{name}.npy", pickle.dumps(RunsACommand()))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(RunsACommand()))
    for name in ("a.npz", "b.npz", "c.npz", "d.npz", "X.npy"):
        with pytest.raises(ValueError, match=rf"{name} (contains Python objects|is damaged)"):
            Arrays(path=tmp_path / name, target="y.npy" if name == "X.npy" else None).read()
    assert "never loaded" in refused(train("data=npz", "data.path=a.npz"), tmp_path)


def test_a_pickle_in_a_parquet_file_stays_bytes(tmp_path: Path) -> None:
    cell = pickle.dumps(RunsACommand())
    pd.DataFrame({"a": [cell, cell], "y": [0, 1]}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match="column 'a' has the type binary"):
        Parquet(path="t.parquet", target="y").read()
    assert not (tmp_path / MARK).exists()

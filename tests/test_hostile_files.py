"""Files from anywhere: nothing that a checkpoint or a data file holds or names is ever run."""

import os
import pickle
import shutil
import tracemalloc
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
from handgrad.runs.checkpoint_file import Damaged
from handgrad.tasks import build, compare
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
    groups = ("backward", "optimizer", "logger", "callbacks", "model", "trainer")
    config = {name: {**HARMFUL["a command"], "lr": 0.1} for name in groups}
    own = {name: checkpoint["config"][name] for name in ("data", "scheduler")}
    torch.save({**checkpoint, "config": {**config, **own}}, tmp_path / "hostile.ckpt")
    answer = train(f"task={task}", "ckpt_path=hostile.ckpt", "logger=none")
    assert answer.code == 0, answer.err  # none of these groups is used
    hostile = {**config, **own, "data": HARMFUL["a command"]}
    torch.save({**checkpoint, "config": hostile}, tmp_path / "hostile.ckpt")
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


RESUMED = (
    *("data=iris", "model.hidden=3", "optimizer=adam", "scheduler=plateau", "logger=csv"),
    *("callbacks.early_stopping.patience=9", "dashboard=off", "trainer.enable_progress_bar=false"),
)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be resumed: it was interrupted after its last epoch."""
    folder = tmp_path_factory.mktemp("resumed")
    train_task.run(composed(*RESUMED, "trainer.max_epochs=2"), [], folder)
    (folder / "metrics.json").unlink()
    return folder


def without(checkpoint: dict[str, Any], *path: Any) -> dict[str, Any]:
    """A copy of it without what lies at a place."""
    name, *rest = path
    made = checkpoint.copy() if isinstance(checkpoint, dict) else list(checkpoint)
    if rest:
        made[name] = without(made[name], *rest)
    else:
        del made[name]
    return made  # pyright: ignore[reportReturnType]


def put(checkpoint: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    """A copy of it with another value at a place, in lists too."""
    name, *rest = path
    made = checkpoint.copy() if isinstance(checkpoint, dict) else list(checkpoint)
    made[name] = put(made[name], *rest, value=value) if rest else value
    return made  # pyright: ignore[reportReturnType]


FIT, MOMENTS = ("loops", "fit_loop"), ("optimizer_states", 0, "state")
UPDATES = "epoch_loop.manual_optimization.optim_step_progress"
RANDOM = ("random_states", 0)
DROPPED: list[tuple[Any, ...]] = [
    *(("fingerprint",), ("loops",), ("callbacks",), ("optimizer_states",), ("lr_schedulers",)),
    *(("global_step",), ("gathered",), ("random_states",), ("pytorch-lightning_version",)),
    *((*FIT,), (*FIT, "epoch_progress"), (*FIT, "epoch_progress", "current", "processed")),
    *((*FIT, "epoch_loop.batch_progress", "is_last_batch"), (*FIT, UPDATES)),
    *((*MOMENTS, 0, "exp_avg"), ("lr_schedulers", 0, "num_bad_epochs"), (*RANDOM, "numpy")),
    *(("config", "optimizer", "lr"), ("fingerprint", "data"), ("gathered", "window")),
    *(("optimizer_states", 0, "param_groups"), ("optimizer_states", 0), ("lr_schedulers", 0)),
]
REPLACED: list[tuple[tuple[Any, ...], Any]] = [
    ((*MOMENTS, 0, "exp_avg"), torch.zeros(3, 5)),
    ((*MOMENTS, 0, "exp_avg"), torch.zeros(())),
    ((*MOMENTS, 0, "exp_avg"), torch.full((3, 4), torch.nan)),
    ((*MOMENTS, 1, "exp_avg_sq"), torch.zeros(1).expand(3, 3)),
    ((*MOMENTS, 2, "step"), torch.zeros(3)),
    ((*MOMENTS, 7), {}),
    (("config", "optimizer", "lr"), 0),
    (("config", "optimizer"), "sgd"),
    (("global_step",), 21),
    (("epoch",), 10**9),
    ((*FIT, UPDATES, "total", "completed"), "x"),
    ((*FIT, "epoch_loop.scheduler_progress", "total", "ready"), "x"),
    ((*FIT, "epoch_progress", "current", "completed"), 10**9),
    (("lr_schedulers", 0, "last_epoch"), None),
    (("lr_schedulers", 0, "_last_lr"), [0.1, 0.2]),
    (("gathered", "window"), [0.0, 1]),
    ((*RANDOM, "torch"), torch.zeros(5056, dtype=torch.uint8)),
    ((*RANDOM, "numpy", 2), 10**6),  # NumPy would read beyond the state's end
    ((*RANDOM, "python", 1), torch.zeros(3, dtype=torch.int64)),
    (("pytorch-lightning_version",), "0.1"),
    (("fingerprint",), {"data": torch.zeros(3)}),
    (("callbacks",), {"Patience": {"wait_count": "x"}}),
    (("state_dict", "W1"), torch.full((3, 4), torch.inf)),
    ((HYPER, "seed"), 5),
    (("config", "seed"), 10**40),
]


def everything(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("use", [train_task.run, build.restore])
def test_resuming_and_testing_refuse_the_same_checkpoints_in_one_line_and_touch_nothing(
    tmp_path: Path, resumed: Path, use: Callable[..., Any]
) -> None:
    kept = tmp_path / "run" / "checkpoints"
    kept.mkdir(parents=True)
    good = torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)
    config = composed(*RESUMED, "trainer.max_epochs=4", "ckpt_path=run")
    altered = [without(good, *place) for place in DROPPED]
    altered += [put(good, *place, value=value) for place, value in REPLACED]
    for place, content in zip([*DROPPED, *(place for place, _ in REPLACED)], altered, strict=True):
        torch.save(content, kept / "last.ckpt")
        before = everything(tmp_path)
        with pytest.raises(BadInput, match=r"run/checkpoints/last\.ckpt: not a checkpoint") as line:
            use(config, [], tmp_path / "run")
        assert str(line.value).isprintable(), place
        assert everything(tmp_path) == before, place
    torch.save(good, kept / "last.ckpt")
    train_task.run(config, [], tmp_path / "run")  # what was not altered is resumed
    assert loading.is_done(tmp_path / "run")


def unfolding() -> list[Any]:
    """A list of 41 lists, which unfolds to two trillion values."""
    inner: list[Any] = [0]
    for _ in range(40):
        inner = [inner, inner]
    return inner


def containing_itself() -> list[Any]:
    """A list whose item is the list."""
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize("make", [unfolding, containing_itself])
@pytest.mark.parametrize("name", ["fingerprint", "config", "callbacks", "anything"])
def test_a_small_file_cannot_unfold_without_end(
    tmp_path: Path, checkpoint: dict[str, Any], make: Callable[[], list[Any]], name: str
) -> None:
    path = tmp_path / "endless.ckpt"
    torch.save({**checkpoint, name: {"data": make()}}, path)
    with pytest.raises(Damaged, match="nested without end"):
        loading.load(path)


def test_a_file_is_compared_with_its_parts_before_it_is_read(
    tmp_path: Path, checkpoint: dict[str, Any]
) -> None:
    path, bomb = tmp_path / "good.ckpt", tmp_path / "bomb.ckpt"
    torch.save(checkpoint, path)
    with (
        zipfile.ZipFile(path) as good,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for part in good.infolist():
            target.writestr(part.filename, good.read(part.filename))
        with target.open("good/data/9", "w") as file:
            for _ in range(50):
                file.write(bytes(10**6))
    assert bomb.stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(Damaged, match=r"its parts take 50\.\d MB, the file \d+\.\d kB"):
        loading.load(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**7
    tracemalloc.stop()
    content = path.read_bytes()
    with path.open("wb") as file:  # an archive may have anything before it
        file.seek(500 * 10**9)
        file.write(content)
    with pytest.raises(Damaged, match=r"the file 500\.0 GB"):
        loading.load(path)
    os.truncate(path, 400 * 10**9)
    with pytest.raises(Damaged, match="damaged or not a checkpoint"):
        loading.load(path)


def test_a_search_for_a_good_checkpoint_reads_one_of_its_neighbours(
    tmp_path: Path, resumed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("last", "previous", "best", *map(str, range(30))):
        shutil.copyfile(resumed / "checkpoints" / "last.ckpt", tmp_path / f"{name}.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    read, load = [], loading.load
    monkeypatch.setattr(
        loading, "load", lambda path, **rest: read.append(path.name) or load(path, **rest)
    )
    with pytest.raises(BadInput, match=r"ckpt_path=.*\.ckpt is good \(update 20\)"):
        loading.find(str(tmp_path / "last.ckpt"), tmp_path)
    assert read[0] == "last.ckpt"
    assert len(read) == 2


def test_texts_of_a_checkpoint_reach_the_terminal_without_control_characters(
    train: Train, tmp_path: Path, resumed: Path
) -> None:
    clear = "\x1b[2J\x1b]0;owned\x07"
    good = torch.load(resumed / "checkpoints" / "last.ckpt", weights_only=True)
    hostile = put(good, "fingerprint", clear, value=clear)
    hostile = put(hostile, "config", "model", clear, value=clear)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(hostile, tmp_path / "run" / "checkpoints" / "last.ckpt")
    for run in compare.read([str(tmp_path / "run")]):
        assert any("owned" in key for key in run.config)
        assert all(f"{key}{value}".isprintable() for key, value in run.config.items())
    keys = (*RESUMED, "trainer.max_epochs=3", "ckpt_path=last")
    for code, more in ((2, ()), (0, ("on_change=accept",))):
        answer = train(*keys, *more, into=tmp_path / "run")
        shown = answer.out + answer.err
        assert answer.code == code
        assert "owned" in shown
        assert all(each.isprintable() or each == "\n" for each in shown)


@pytest.mark.parametrize("damage", [b"", b'{"run/updates": 20, ', b"[1]", b"\xff", b"[" * 10**5])
def test_final_figures_that_were_cut_short_are_made_again(
    tmp_path: Path, resumed: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    run = Path(shutil.copytree(resumed, tmp_path / "run"))
    (run / "metrics.json").write_bytes(damage)
    assert not loading.is_done(run)
    assert "metrics.json is damaged" in capsys.readouterr().out
    if damage:
        return
    train_task.run(composed(*RESUMED, "trainer.max_epochs=2", "ckpt_path=last"), [], run)
    assert loading.figures(run)["run/updates"] == 20


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

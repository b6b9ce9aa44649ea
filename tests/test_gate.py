"""The gate: every wrong input is one clear line and exit code 2; the right one beside it passes.

The numbers are those of the list of 48 inputs that the project set out to answer; a test counts
them. What is not in a table here stands in ELSEWHERE, with the test that has it.
"""

import gzip
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import Train, composed, files
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from handgrad.config.errors import BadInput
from handgrad.config.validate import validate
from handgrad.data import checks as data_files
from handgrad.devices import launch
from handgrad.tasks import build, cli
from handgrad.tasks import predict as predict_task
from handgrad.tasks import test as test_task
from handgrad.tasks import train as train_task

ELSEWHERE = {  # -m on several devices (15) runs, and there is no port that could be busy (48)
    15: "test_launch.py::test_multirun_gives_each_job_its_values_on_all_devices",
    39: "test_checkpoint_files.py::test_a_bit_flipped_anywhere_is_noticed",
    43: "test_tasks.py::test_best_and_last_mean_this_runs_folder",
    46: "test_checkpoint_files.py::test_a_folder_in_use_is_refused_and_left_alone",
    48: "test_launch.py::test_multirun_gives_each_job_its_values_on_all_devices",
}


@cache
def base(*overrides: str) -> dict[str, Any]:
    return composed("data=iris", "logger=none", "trainer.enable_progress_bar=false", *overrides)


def applied(config: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """A configuration with other values of keys, as the command line would set them."""
    node = OmegaConf.create(config)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(node, override.get_key_element(), override.value())
    return OmegaConf.to_container(node)  # pyright: ignore[reportReturnType]


# Values of keys, which need no other composition.

VALUES = [  # number, wrong, right
    (4, "model.hidden=abc", "model.hidden=12"),
    (5, "model.hidden=3.7", "model.hidden=3"),
    (5, "model.hidden=null", "model.hidden=1"),
    (6, "model.hidden=-3", "model.hidden=100"),
    (6, "model.hidden=0", "model.hidden=1"),
    (7, "optimizer.lr=nan", "optimizer.lr=1e-3"),
    (7, "optimizer.lr=inf", "optimizer.lr=1"),
    (7, "optimizer.lr=1e300", "optimizer.lr=1e3"),
    (8, "optimizer.lr=-1", "optimizer.lr=1e-30"),
    (9, "optimizer.lr=0", "optimizer.lr=0.1"),
    (10, "optimizer.lr=", "optimizer.lr=0.1"),
    (18, "trainer.devices=0", "trainer.devices=1"),
    (18, "trainer.devices=-1", "trainer.devices=auto"),
    (18, "trainer.devices=a", "trainer.devices=2"),
    (18, "trainer.devices=[0]", "trainer.devices=3"),
    (19, "trainer.strategy=fsdp", "trainer.devices=2"),
    (20, "trainer.precision=fp8", "trainer.precision=64-true"),
    (21, "trainer.precision=16-mixed", "trainer.precision=bf16-mixed"),
    (22, "trainer.max_epochs=-5", "trainer.max_epochs=5"),
    (22, "trainer.max_epochs='3'", "trainer.max_epochs=3"),
    (22, "trainer.max_epochs=2.5", "trainer.max_epochs=2"),
    (22, "trainer.max_time='99999999999:00:00:00'", "trainer.max_time='01:00:00:00'"),
    (23, "trainer.max_epochs=0", "trainer.max_epochs=1"),
    (23, "trainer.limit_train_batches=0", "trainer.limit_train_batches=1"),
    (24, "optimizer.accumulate=0", "optimizer.accumulate=1"),
    (25, "optimizer.accumulate=1.5", "optimizer.accumulate=1000"),  # counted by its examples
    (26, "optimizer.clip_norm=-1", "optimizer.clip_norm=null"),
    (26, "optimizer.clip_norm=nan", "optimizer.clip_norm=1"),
    (27, "trainer.val_check_interval=0", "trainer.val_check_interval=10"),
    (27, "trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=2"),
    (28, "data.batch_size=0", "data.batch_size=1"),
    (28, "data.batch_size=-1", "data.batch_size=full"),
    (28, "data.batch_size=2.5", "data.batch_size=25"),
    (44, "callbacks.checkpoint.monitor=val_acc", "callbacks.checkpoint.monitor=cost/val"),
    (44, "callbacks.early_stopping.monitor=loss", "callbacks.early_stopping.monitor=cost/train"),
    (47, "seed=-1", "seed=0"),
    (47, "seed=4294967296", "seed=4294967295"),
    (0, "ckpt_path=''", "ckpt_path=null"),
    (0, "data.validation=1", "data.validation=0"),
    (0, "data.scale=255", "data.scale=/255"),
    (0, "task=fit", "task=train"),
]


@pytest.mark.parametrize(("number", "wrong", "right"), VALUES, ids=[w for _, w, _ in VALUES])
def test_a_wrong_value_is_one_line_and_the_right_one_passes(
    number: int, wrong: str, right: str
) -> None:
    with pytest.raises(BadInput) as refused:
        cli.Gate().check(OmegaConf.create(applied(base(), wrong)), [])
    assert re.fullmatch(rf"{re.escape(wrong.partition('=')[0])}\b.*", str(refused.value))
    cli.Gate().check(OmegaConf.create(applied(base(), right)), [])


# Command lines.

LINES = [  # number, arguments, what the line names, right arguments
    (1, "model.hiden=3", "model.hiden model.hidden", "model.hidden=3"),
    (1, "optimizer.learning_rate=1", "optimizer.learning_rate lr", "optimizer.lr=1"),
    (1, "sed=1", "sed seed", "seed=1"),
    (1, "typo=1", "typo accepted seed", "seed=1"),
    (1, "~model.hiden", "model.hiden model.hidden", ""),
    (1, "dtaa=digits", "dtaa data", "data=digits"),
    (1, "data=digit", "data=digit digits", "data=digits"),
    (1, "experiment=nothing", "experiment=nothing nielsen_chapter1 xor", "experiment=sklearn_iris"),
    (1, "callbacks.checkpoint.montor=1", "callbacks.checkpoint.montor monitor", ""),
    (2, "+model.hiden=3", "model.hiden model.hidden", "model.hidden=3"),
    (2, "++model.hiden=3", "model.hiden model.hidden", "++model.hidden=3"),
    (2, "+typo=1", "typo accepted seed", "seed=1"),
    (3, "data=csv", "missing: data.path=VALUE", "data=csv data.path=a.csv"),
    (3, "data=csv backward=custom", "data.path= backward.function=", "backward=autograd"),
    (10, "model.hidden=", "model.hidden", "model.hidden=1"),
    (11, "model.hidden=${nope}", "model.hidden nope", "model.hidden=${data.batch_size}"),
    (11, "model.hidden=${oc.env:NOPE}", "model.hidden NOPE", ""),
    (11, "seed=${seed}", "seed: Recursive", ""),
    (
        13,
        "data=csv data.path=a=b.csv",
        "data.path 'data.path=\"a=b.csv\"'",
        "data=csv data.path='a=b'",
    ),
    (13, "model.hidden", "model.hidden KEY=VALUE", ""),
    (13, "=3", "=3", "seed=3"),
    (13, "seed=1,2", "seed=1,2 --multirun", "seed=1"),
    (14, "model.hidden=3 -x seed=1", "-x KEY=VALUE -m", ""),
    (14, "--cfg nothing", "--cfg nothing job", ""),
    (16, "trainer.bogus=1", "trainer.bogus max_epochs", "trainer.max_epochs=1"),
    (16, "trainer.max_epoch=1", "trainer.max_epoch trainer.max_epochs", ""),
    (17, "trainer.accelerator=tpuu", "trainer.accelerator=tpuu cpu", "trainer.accelerator=auto"),
    (
        18,
        "trainer=gpu trainer.devices=[1,1]",
        "trainer.devices=[1, 1]",
        "trainer=gpu trainer.devices=[0,1]",
    ),
    (
        0,
        "optimizer.momentum=0.5",
        "optimizer.momentum optimizer",
        "optimizer=momentum optimizer.momentum=0.5",
    ),
    (0, "~model.hidden", "model.hidden", ""),
    (0, "~optimizer", "optimizer", ""),
    (0, "model=null", "model", "model=two_layer"),
    (0, "trainer=5", "trainer=5 name", "trainer=cpu"),
    (0, "data=[iris,wine]", "data=[iris,wine] one", "data=wine"),
    (0, "data=[[iris]]", "data=[[iris]] name", "data=iris"),
    (0, "data=[false]", "data=[false] name", "data=xor"),
    (0, "logger=null", "logger=null none", "logger=none"),
    (
        0,
        "scheduler=step scheduler.interval=validation",
        "scheduler.interval epoch",
        "scheduler=plateau",
    ),
    (0, "scheduler=plateau scheduler.monitor=cost/train", "scheduler.monitor cost/val", ""),
    (0, "data=moons data.examples=1000000000000", "data.examples", "data=moons data.examples=1000"),
    (0, "data=moons data.noise=1e308", "data.noise", "data=moons data.noise=0.1"),
    (0, "task=test", "task=test ckpt_path", "task=test ckpt_path=a"),
    (0, "task=predict", "task=predict ckpt_path", "task=predict ckpt_path=a"),
    (0, "task=export", "task=export ckpt_path", "task=export ckpt_path=a"),
    (0, "task=examples", "task=examples ckpt_path", "task=examples ckpt_path=a"),
    (0, "hydra.bogus=1", "hydra.bogus", ""),
    (0, "trainer.max_steps=1000000000000000000000", "trainer.max_steps", "trainer.max_steps=9"),
    (0, "optimizer=adam optimizer.eps=18446744073709551616", "optimizer.eps", "optimizer=adam"),
    (0, "--config-name=nothing", "nothing", ""),
    (0, "-m model.hidden=5,6 model.init=xavier,zeros,xavir", "model.init=xavir", ""),
    (0, "-m optimizer=sgd,sdg", "optimizer=sdg adam", ""),
    (0, "-m model.hiden=4,5", "model.hiden model.hidden", ""),
]


@pytest.mark.parametrize(
    ("number", "wrong", "named", "right"), LINES, ids=[w for _, w, *_ in LINES]
)
def test_a_wrong_command_line_is_one_line_and_makes_no_file(
    train: Train, tmp_path: Path, number: int, wrong: str, named: str, right: str
) -> None:
    answer = train(*wrong.split())
    assert (answer.code, answer.out) == (2, ""), answer
    assert re.fullmatch(r"train\.py: .+\n", answer.err), answer.err
    assert all(name in answer.err for name in named.split()), answer.err
    assert list(tmp_path.iterdir()) == []
    validate(base(*right.split()))


def test_flags_may_stand_anywhere_among_the_overrides(train: Train) -> None:  # 14, the right ones
    answer = train("data=iris", "--cfg", "job", "model.hidden=7")
    assert (answer.code, answer.err) == (0, "")
    assert "hidden: 7" in answer.out
    arguments = ["seed=1,2", "-m", "--config-dir", "own", "data=iris"]
    assert cli.flags_first(arguments) == ["-m", "--config-dir", "own", "seed=1,2", "data=iris"]


# Files. Each is of 12 rows, with columns u, v, and the class in kind.

ROWS = [f"{i},{i % 5}.5,{'cat' if i % 2 else 'dog'}" for i in range(12)]
GOOD = "\n".join(["u,v,kind", *ROWS, ""])


def with_row(row: int, text: str) -> str:
    """The good table with another text in one row; row 0 is line 2 of the file."""
    return "\n".join(["u,v,kind", *ROWS[:row], text, *ROWS[row + 1 :], ""])


class File(NamedTuple):
    """One wrong file, what the line about it names, and the right one beside it."""

    wrong: str | bytes
    named: str
    right: str | bytes = GOOD
    target: Any = "kind"


LABELS = GOOD.replace("dog", "0").replace("cat", "1")
CSVS = {
    "30 nothing": File("", "empty"),
    "30 a header alone": File("u,v,kind\n", "header alone"),
    "30 blank lines": File("\n\n", "blank lines alone"),
    "30 too few to split": File("u,v,kind\n1,2,a\n2,3,b\n", "data.validation none training"),
    "32 ragged": File(with_row(3, "1,cat"), "line 5: 2 cells, 3"),
    "32 too many": File(with_row(3, "1,2,3,cat"), "line 5: 4 cells, 3"),
    "32 no number": File(with_row(3, "1,x,cat"), "line 5: column 'v' 'x' 1"),
    "32 no header": File(LABELS.split("\n", 1)[1], "line 1: header", LABELS),
    "32 a NUL": File(with_row(3, "1,2\0,cat"), "line 5: 'v'"),
    "32 a cell without end": File(with_row(3, '"' + "1" * 200_000), "line 5 field"),
    "33 NaN": File(with_row(3, "nan,2,cat"), "line 5: 'u' missing 1"),
    "33 an empty cell": File(with_row(3, "1,,cat"), "line 5: 'v' missing 1"),
    "33 infinity": File(with_row(3, "1,-inf,cat"), "line 5: 'v' -inf 1"),
    "33 no label": File(with_row(3, "1,2,"), "line 5: target value"),
    "34 labels above 1": File(
        LABELS.replace(",1\n", ",7\n"), "line 3: 'kind' 7 [0, 1] 6 column", LABELS, ["kind"]
    ),
    "34 a digit's number": File(
        LABELS.replace(",0\n", ",9\n"),
        "9 [0, 1] class numbers belong in one column",
        LABELS,
        ["kind"],
    ),
    "34 labels below 0": File(LABELS.replace(",0\n", ",-1\n"), "line 2: -1", LABELS, ["kind"]),
    "0 one class": File(GOOD.replace("dog", "cat"), "'cat' every row two"),
    "0 names twice": File(GOOD.replace("v", "u", 1), "same name twice: u"),
    "0 a column without name": File(GOOD.replace("v", " ", 1), "column 2 no name"),
    "0 no such target": File(GOOD.replace("kind", "knd"), "data.target=kind 'knd'"),
    "0 no target named": File(GOOD, "data.target not set u, v, kind", GOOD, None),
    "0 no features": File("kind\ncat\ndog\n", "no column besides"),
    "0 latin-1": File(GOOD.replace("cat", "Käse").encode("latin-1"), "UTF-8 0xe4", "\ufeff" + GOOD),
    "0 utf-16": File(GOOD.encode("utf-16"), "UTF-8 0xff", GOOD.replace("cat", "Käse")),
    "0 cut gzip": File(gzip.compress(GOOD.encode())[:-9], "gzip", gzip.compress(GOOD.encode())),
    "0 a picture": File(b"\x89PNG\r\n\x1a\n\0\0", "UTF-8 0x89"),
    "0 too large for float32": File(with_row(3, "1e300,1,cat"), "data.scale=none float32"),
}
X, Y = np.arange(36.0).reshape(12, 3) % 7, np.arange(12) % 2
ARRAYS = {  # wrong arrays, what the line names, right arrays
    "33 NaN": ({"X": np.where(X == 5, np.nan, X), "y": Y}, "row 1 'x2' 5", {"X": X, "y": Y}),
    "35 shapes": ({"X": X, "y": Y[:-1]}, "(11,) (12,)", {"X": X, "y": Y[:, None]}),
    "35 axes": ({"X": X[:, 0], "y": Y}, "(12,) (examples, features)", {"X": X, "y": Y > 0}),
    "35 one-hot": ({"X": X, "y": 3 * np.eye(12)}, "row 0 'y0' 3 [0, 1]", {"X": X, "y": np.eye(12)}),
    "35 texts": ({"X": X.astype(str), "y": Y}, "<U real", {"X": X.astype(int), "y": Y.astype(str)}),
    "0 long": ({"X": X.astype("g"), "y": Y}, "a.npz float64", {"X": X, "y": Y}),
    "0 a name": ({"Z": X, "y": Y}, "data.features=X Z, y", {"X": X, "y": Y}),
}


def refusal(act: Callable[[], Any], folder: Path) -> str:
    """The line with which a task refuses its input, after which there is no trace of a run."""
    with pytest.raises(BadInput) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    left = files(folder)
    assert not [name for name in left if name.endswith((".ckpt", ".json")) or "tfevents" in name]
    return line


def names_all(line: str, named: str) -> bool:
    return all(word in line for word in named.split())


@cache
def reading(choice: str) -> dict[str, Any]:
    return composed(f"data={choice}", "data.scale=none", "model.hidden=3", "dashboard=off")


@pytest.mark.filterwarnings("ignore:the split is a plain shuffle")
@pytest.mark.filterwarnings("ignore:.*the same target in every row")
@pytest.mark.filterwarnings("ignore:.*values up to 1e.300")
@pytest.mark.parametrize(("name", "file"), CSVS.items(), ids=CSVS)
def test_a_wrong_csv_is_one_line_with_its_place_and_no_run(
    tmp_path: Path, name: str, file: File
) -> None:
    path, run = tmp_path / "a.csv", tmp_path / "run"
    config = reading("csv")
    config = {**config, "data": {**config["data"], "path": str(path), "target": file.target}}
    path.write_bytes(file.wrong if isinstance(file.wrong, bytes) else file.wrong.encode())
    line = refusal(lambda: train_task.run(config, [], run), run)
    assert names_all(line, file.named), line
    assert "a.csv" in line or "data." in line
    path.write_bytes(file.right if isinstance(file.right, bytes) else file.right.encode())
    config["data"]["target"] = file.target or "kind"
    assert len(build.data(config).read().examples) == 12


@pytest.mark.filterwarnings("ignore:the split is a plain shuffle")
@pytest.mark.parametrize(("name", "row"), ARRAYS.items(), ids=ARRAYS)
def test_wrong_arrays_are_one_line_and_no_run(tmp_path: Path, name: str, row: Any) -> None:
    wrong, named, right = row
    path, run = tmp_path / "a.npz", tmp_path / "run"
    config = reading("npz")
    config = {**config, "data": {**config["data"], "path": str(path)}}
    np.savez(path, **wrong)
    line = refusal(lambda: train_task.run(config, [], run), run)
    assert names_all(line, named), line
    np.savez(path, **right)
    assert len(build.data(config).read().examples) == 12


def test_a_file_that_is_not_there_is_told_from_a_folder_and_a_device(tmp_path: Path) -> None:  # 31
    config = reading("csv")
    for path, reason in (
        (tmp_path / "nothing.csv", "no such file"),
        (tmp_path, "is a folder"),
        ("/dev/null", "is a device"),
        ("a\0b", "no such file"),
        ("a" * 5000, "too long"),
    ):
        data = {**config["data"], "path": str(path), "target": "kind"}
        line = refusal(
            lambda data=data: train_task.run({**config, "data": data}, [], tmp_path), tmp_path
        )
        assert reason in line
    good = tmp_path / "good.csv"
    good.write_text(GOOD)
    data = {**config["data"], "path": str(good), "target": "kind"}
    assert len(build.data({**config, "data": data}).read().examples) == 12


# Machines, memory.


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_that_offers_the_processor() -> None:  # 17
    config = base()
    trainer = {**config["trainer"], "accelerator": "gpu"}
    with pytest.raises(BadInput, match=r"trainer\.accelerator=gpu.*trainer=cpu"):
        build.trainer({**config, "trainer": trainer}, Path("none"), extra=[])
    build.trainer(config, Path("none"), extra=[])


def test_what_the_memory_cannot_hold_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build.data(base()).read()
    with pytest.raises(BadInput, match=r"model\.hidden=1000000000000.*GiB"):
        build.network(applied(base(), "model.hidden=1000000000000"), data)
    build.network(applied(base(), "model.hidden=1000"), data)
    config = reading("csv")
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    config["data"].update(path=str(tmp_path / "sparse.csv"), target="kind")
    with pytest.raises(ValueError, match=r"1024\.0 GiB"):
        build.data(config).read()
    packed = gzip.compress(b"u,v,kind\n" + b"1,2,cat\n3,4,dog\n" * 40_000)
    (tmp_path / "bomb.csv.gz").write_bytes(packed)
    config["data"]["path"] = str(tmp_path / "bomb.csv.gz")
    monkeypatch.setattr(data_files, "available_memory", lambda: 2**20)
    assert len(packed) < 2**12
    with pytest.raises(ValueError, match="too much to read"):
        build.data(config).read()
    one_line = gzip.compress(b"u" * 2**25)
    (tmp_path / "bomb.csv.gz").write_bytes(one_line)
    with pytest.raises(ValueError, match="a line has"):
        build.data(config).read()


# Checkpoints.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run on iris."""
    folder = tmp_path_factory.mktemp("trained")
    train_task.run(applied(base("dashboard=off"), "trainer.max_epochs=1"), [], folder)
    return folder


def test_a_wrong_checkpoint_is_one_line_and_a_right_one_passes(
    tmp_path: Path, trained: Path
) -> None:  # 38, 40
    good = (trained / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "cut.ckpt").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.ckpt").write_text("no checkpoint\n")
    torch.save({"weights": torch.ones(3)}, tmp_path / "other.ckpt")
    (tmp_path / "good.ckpt").write_bytes(good)
    (tmp_path / "folder").mkdir()
    run, config = tmp_path / "run", base("dashboard=off")
    for name in ("nothing", "folder", "empty.ckpt", "cut.ckpt", "text.ckpt", "other.ckpt"):
        config = {**config, "ckpt_path": str(tmp_path / name)}
        for task in (test_task, train_task, predict_task):
            line = refusal(lambda task=task, c=config: task.run(c, [], run), run)
            assert "ckpt_path=" in line
            assert str(tmp_path / name) in line
    test_task.run({**config, "ckpt_path": str(tmp_path / "good.ckpt")}, [], tmp_path)
    test_task.run({**config, "ckpt_path": str(trained)}, [], tmp_path)


@pytest.mark.filterwarnings("ignore:the split is a plain shuffle")
def test_what_does_not_fit_the_checkpoint_is_one_line(tmp_path: Path, trained: Path) -> None:
    config = {**base("dashboard=off"), "ckpt_path": str(trained)}
    run = tmp_path / "run"
    wide = applied(config, "model.hidden=5")  # 41
    line = refusal(lambda: train_task.run(wide, [], run), run)
    assert names_all(line, "model.hidden"), line
    for width in (6, 4):  # 36
        np.savez(tmp_path / "a.npz", X=np.ones((5, width)))
        data = {**reading("npz")["data"], "path": str(tmp_path / "a.npz")}
        named = {**config, "data": data}
        if width == 6:
            line = refusal(lambda named=named: predict_task.run(named, ["data=npz"], run), run)
            assert names_all(line, "6 features, the model 4"), line
    tmp_path.joinpath("out").mkdir()
    predict_task.run(named, ["data=npz"], tmp_path / "out")
    assert (tmp_path / "out" / "predictions.csv").exists()


CHANGES = [  # a setting, and what the line tells of it
    ("seed=1", "seed=0, now 1"),
    ("cost=quadratic", "cost=cross_entropy, now quadratic"),
    ("data.batch_size=7", "data.batch_size=10, now 7"),
    ("data.scale=none", "data= digest , now digest"),
    ("optimizer.clip_norm=3", "optimizer.clip_norm=None, now 3"),
    ("trainer.precision=64-true", "trainer.precision=32-true, now 64-true"),
]


@pytest.mark.parametrize(("changed", "named"), CHANGES, ids=[c for c, _ in CHANGES])
def test_a_checkpoint_of_another_training_is_one_line_with_both_values(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    trained: Path,
    changed: str,
    named: str,
) -> None:  # 42
    more = (f"ckpt_path={trained}", "trainer.max_epochs=2")
    config = applied(base("dashboard=off"), *more)
    run = tmp_path / "run"
    line = refusal(lambda: train_task.run(applied(config, changed), [], run), run)
    assert names_all(line, f"ckpt_path={trained} {named} on_change=accept"), line
    for right in (config, applied(config, changed, "on_change=accept")):
        run.mkdir()
        train_task.run(right, [], run)
        assert (run / "metrics.json").exists()
        said = capfd.readouterr().out
        assert names_all(said, named) == ("on_change=accept: " in said) == (right is not config)
        shutil.rmtree(run)


def test_a_run_folder_that_cannot_be_one_is_one_line(train: Train, tmp_path: Path) -> None:  # 45
    (tmp_path / "file").touch()
    short = ("data=iris", "trainer.max_epochs=1", "logger=none")
    for folder in ("file", "file/below", "/proc/run", "a" * 300, "a/" * 3000):
        answer = train(*short, into=Path(folder))
        assert (answer.code, answer.err.count("\n")) == (2, 1), answer
        assert "hydra.run.dir=" in answer.err
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert train(*short, into=tmp_path / "folder").code == 0


# What is accepted and looks like a slip.


def test_slips_are_warned_of_in_one_line_each(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run_devices", lambda job, devices: None)
    answer = train("data=iris", "model.hidden=3", "model.hidden=4", "trainer.devices=999")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (  # 12, 18
        "train.py: warning: model.hidden is given 2 times; the last one counts: model.hidden=4\n"
        f"train.py: warning: trainer.devices=999: this machine has {launch.os.cpu_count()} cores, "
        "so each process is slower\n"
    )
    data = build.data(applied(base(), "data.batch_size=1000")).read()
    build.network(base(), data)
    assert capfd.readouterr().out == (  # 29
        "train.py: warning: data.batch_size=1000: there are 96 training examples, so every update "
        "sees all of them, as with full\n"
    )
    data.batch_size = 96
    build.network(base(), data)
    assert capfd.readouterr() == ("", "")


def test_constant_and_huge_features_are_warned_of_in_one_line_each(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 37
    rows = [f"1,{i}e30,{'cat' if i % 2 else 'dog'}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["u,v,kind", *rows, ""]))
    run = ("data=csv", "data.path=a.csv", "data.target=kind", "model.hidden=3", "data.batch_size=9")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(
            warnings,
            "showwarning",
            lambda *shown, **_: sys.stderr.write(warnings.formatwarning(*shown[:4])),
        )
        answer = train(*run, "dashboard=off", "logger=none", "trainer.max_epochs=1")
    assert answer.code == 0, answer.err
    first, second = answer.err.splitlines()
    assert names_all(first, "train.py: warning: a.csv same value u"), first
    assert names_all(second, "train.py: warning: a.csv 3.9e+31 v data.scale=standard"), second


def test_every_row_of_the_list_has_its_answer() -> None:
    tables = [*(number for number, *_ in VALUES), *(number for number, *_ in LINES)]
    tables += [int(name.split()[0]) for name in (*CSVS, *ARRAYS)]
    comments = re.findall(r"# (\d+(?:, \d+)*)\b", Path(__file__).read_text(encoding="utf-8"))
    tables += [int(number) for comment in comments for number in comment.split(", ")]
    assert set(tables) - {0} | ELSEWHERE.keys() >= set(range(1, 49))
    assert not set(tables) & ELSEWHERE.keys()
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"\ndef {name}(" in Path(__file__).with_name(file).read_text(encoding="utf-8"), place

"""Every wrong command line or file is one clear line and exit code 2; the right one passes.

The values of single keys are judged in test_config.py. What has its answer elsewhere stands in
ELSEWHERE, with the test that gives it.
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
from conftest import CONF, Train, composed, files
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

ELSEWHERE = {
    "a sweep on several devices": (
        "test_launch.py::test_multirun_gives_each_job_its_values_on_all_devices"
    ),
    "a checkpoint with a flipped bit": (
        "test_checkpoint_files.py::test_a_bit_flipped_anywhere_is_noticed"
    ),
    "ckpt_path=last where no run has been": (
        "test_tasks.py::test_best_and_last_mean_this_runs_folder"
    ),
    "two runs in one folder": (
        "test_checkpoint_files.py::test_a_folder_in_use_is_refused_and_left_alone"
    ),
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


# Command lines.

EXPERIMENTS = " ".join(file.stem for file in CONF.glob("experiment/*.yaml"))
LINES = [  # arguments, what the line names, right arguments
    # A key or choice that does not exist, with the nearest one.
    ("model.hiden=3", "model.hiden model.hidden", "model.hidden=3"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate lr", "optimizer.lr=1"),
    ("sed=1", "sed seed", "seed=1"),
    ("typo=1", "typo accepted seed", "seed=1"),
    ("~model.hiden", "model.hiden model.hidden", ""),
    ("dtaa=digits", "dtaa data", "data=digits"),
    ("data=digit", "data=digit digits", "data=digits"),
    ("data=data", "data=data digits", "data=digits"),  # keys that the choices share
    ("optimizer=optimizer", "optimizer=optimizer sgd", "optimizer=sgd"),
    ("experiment=nothing", f"experiment=nothing {EXPERIMENTS}", "experiment=sklearn_iris"),
    ("callbacks.checkpoint.montor=1", "callbacks.checkpoint.montor monitor", ""),
    ("optimizer=sdg", "optimizer=sdg sgd", "optimizer=sgd"),
    ("hydra.bogus=1", "hydra.bogus", ""),
    ("--config-name=nothing", "nothing", ""),
    ("-m optimizer=sgd,sdg", "optimizer=sdg adam", ""),
    ("-m model.hiden=4,5", "model.hiden model.hidden", ""),
    # A key that is added and does not exist.
    ("+model.hiden=3", "model.hiden model.hidden", "model.hidden=3"),
    ("++model.hiden=3", "model.hiden model.hidden", "++model.hidden=3"),
    ("+typo=1", "typo accepted seed", "seed=1"),
    ("+model.hidden=3", "+model.hidden=3 exists model.hidden=3", "model.hidden=3"),
    ("+data=wine", "+data=wine write data=wine", "data=wine"),
    ("data=iris +data=wine", "+data=wine one write data=wine", "data=wine"),
    ("++optimizer=adam", "++optimizer=adam write optimizer=adam", "optimizer=adam"),
    # A key by its last part, or by the name that other programs give it.
    ("trainer.epochs=5", "trainer.epochs trainer.max_epochs?", "trainer.max_epochs=5"),
    ("epochs=5", "epochs trainer.max_epochs?", "trainer.max_epochs=5"),
    ("lr=0.1", "lr optimizer.lr?", "optimizer.lr=0.1"),
    ("learning_rate=0.1", "learning_rate optimizer.lr?", "optimizer.lr=0.1"),
    ("model.lr=0.1", "model.lr optimizer.lr?", "optimizer.lr=0.1"),
    ("batch_size=10", "batch_size data.batch_size?", "data.batch_size=10"),
    ("hidden=5", "hidden model.hidden?", "model.hidden=5"),
    ("patience=5", "callbacks.early_stopping.patience scheduler.patience?", ""),
    ("model.seed=5", "model.seed seed, data.seed backward.seed?", "seed=5"),
    ("--lr=0.1", "--lr=0.1 optimizer.lr=VALUE", "optimizer.lr=0.1"),
    ("--model.hidden 3", "--model.hidden write model.hidden=VALUE", "model.hidden=3"),
    # A word without a key.
    ("train", "train write task=train\n", "task=train"),
    ("check", "check write task=check\n", "task=check"),
    ("iris", "iris write data=iris\n", "data=iris"),
    ("data/iris", "data/iris write data=iris\n", "data=iris"),
    ("mine.csv", "data=csv data.path=mine.csv\n", "data=csv data.path=mine.csv"),
    ("data=mine.csv", "data=csv data.path=mine.csv?\n", "data=csv data.path=mine.csv"),
    ("optimizer=Adam", "optimizer=Adam adam?\n", "optimizer=adam"),
    ("task=trian", "task=trian train?\n", "task=train"),
    ("nonsense", "nonsense KEY=VALUE --help", ""),
    # A value that has to be given.
    ("backward=mistake", "backward.mistake=VALUE no_sprime transposed", "backward=autograd"),
    ("data=csv", "missing: data.path=VALUE", "data=csv data.path=a.csv"),
    ("data=csv backward=custom", "data.path= backward.function=", "backward=autograd"),
    ("backward=custom", "backward.function", "backward=closed_form"),
    ("task=test", "task=test ckpt_path", "task=test ckpt_path=a"),
    ("task=predict", "task=predict ckpt_path", "task=predict ckpt_path=a"),
    ("task=export", "task=export ckpt_path", "task=export ckpt_path=a"),
    ("task=examples", "task=examples ckpt_path", "task=examples ckpt_path=a"),
    # A value left empty.
    ("model.hidden=", "model.hidden", "model.hidden=1"),
    # A reference that leads nowhere.
    ("model.hidden=${nope}", "model.hidden nope", "model.hidden=${data.batch_size}"),
    ("model.hidden=${oc.env:NOPE}", "model.hidden NOPE", ""),
    ("seed=${seed}", "seed: Recursive", ""),
    # A line that Hydra's grammar does not take.
    ("data=csv data.path=a=b.csv", "data.path 'data.path=\"a=b.csv\"'", "data=csv data.path='a=b'"),
    ("model.hidden", "model.hidden KEY=VALUE", ""),
    ("=3", "=3", "seed=3"),
    ("seed=1,2", "seed=1,2 --multirun", "seed=1"),
    # A flag that is none, or stands among the overrides.
    ("model.hidden=3 -x seed=1", "-x KEY=VALUE -m", ""),
    ("--cfg nothing", "--cfg nothing job", ""),
    # A flag of Lightning's Trainer that does not exist.
    ("trainer.bogus=1", "trainer.bogus max_epochs", "trainer.max_epochs=1"),
    ("trainer.max_epoch=1", "trainer.max_epoch trainer.max_epochs", ""),
    # A device that does not exist, or is named twice.
    ("trainer.accelerator=tpuu", "trainer.accelerator=tpuu cpu", "trainer.accelerator=auto"),
    (
        "trainer=gpu trainer.devices=[1,1]",
        "trainer.devices=[1, 1]",
        "trainer=gpu trainer.devices=[0,1]",
    ),
    # A group that is removed, emptied, or set to what is no name of a choice.
    ("~model.hidden", "~model.hidden removed model.hidden=VALUE", ""),
    ("~optimizer", "~optimizer optimizer=CHOICE", ""),
    ("~data=digits data=iris", "~data=digits data=digits", "data=iris"),
    ("model=null", "model", "model=two_layer"),
    ("trainer=5", "trainer=5 name choice", "trainer=cpu"),
    ("data=[iris,wine]", "data=[iris,wine] one", "data=wine"),
    ("data=[[iris]]", "data=[[iris]] name", "data=iris"),
    ("data=[false]", "data=[false] name", "data=xor"),
    ("logger=null", "logger=null none", "logger=none"),
    # A value out of range, or one that does not fit the other choices.
    ("optimizer.lr=nan", "optimizer.lr=nan finite", "optimizer.lr=1e-3"),
    ("optimizer.lr=inf", "optimizer.lr=inf finite", "optimizer.lr=1"),
    ("-m model.hidden=abc,5", "model.hidden=abc", "model.hidden=5"),
    ("-m experiment=glob(nothing*)", "experiment=glob(nothing*) matches nothing", ""),
    ("-m seed=range(3,1)", "seed=range(3,1) matches nothing", ""),
    ("-m seed=range(0,1000000000)", "seed=range(0,1000000000) 10,000", ""),
    (
        "optimizer.momentum=0.5",
        "optimizer.momentum optimizer",
        "optimizer=momentum optimizer.momentum=0.5",
    ),
    (
        "scheduler=step scheduler.interval=validation",
        "scheduler.interval epoch",
        "scheduler=plateau",
    ),
    ("scheduler=plateau scheduler.monitor=cost/train", "scheduler.monitor cost/val", ""),
    ("data=moons data.examples=1000000000000", "data.examples", "data=moons data.examples=1000"),
    ("data=moons data.noise=1e308", "data.noise", "data=moons data.noise=0.1"),
    ("trainer.max_steps=1000000000000000000000", "trainer.max_steps", "trainer.max_steps=9"),
    ("optimizer=adam optimizer.eps=18446744073709551616", "optimizer.eps", "optimizer=adam"),
    ("-m model.hidden=5,6 model.init=xavier,zeros,xavir", "model.init=xavir", ""),
]


@pytest.mark.parametrize(("wrong", "named", "right"), LINES, ids=[w for w, *_ in LINES])
def test_a_wrong_command_line_is_one_line_and_makes_no_file(
    train: Train, tmp_path: Path, wrong: str, named: str, right: str
) -> None:
    answer = train(*wrong.split())
    assert (answer.code, answer.out) == (2, ""), answer
    assert re.fullmatch(r"train\.py: .+\n", answer.err), answer.err
    assert all(name in answer.err for name in named.split(" ")), answer.err
    assert list(tmp_path.iterdir()) == []
    validate(base(*right.split()))


def test_flags_may_stand_anywhere_among_the_overrides(train: Train) -> None:
    answer = train("data=iris", "--cfg", "job", "model.hidden=7")
    assert (answer.code, answer.err) == (0, "")
    assert "hidden: 7" in answer.out
    arguments = ["seed=1,2", "-m", "--config-dir", "own", "data=iris"]
    assert cli.flags_first(arguments, CONF) == [
        "-m",
        "--config-dir",
        "own",
        "seed=1,2",
        "data=iris",
    ]


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
    "nothing": File("", "empty"),
    "a header alone": File("u,v,kind\n", "a header but no rows"),
    "blank lines": File("\n\n", "only blank lines"),
    "too few to split": File("u,v,kind\n1,2,a\n2,3,b\n", "data.validation no training"),
    "ragged": File(with_row(3, "1,cat"), "line 5: 2 cells, 3"),
    "too many": File(with_row(3, "1,2,3,cat"), "line 5: 4 cells, 3"),
    "no number": File(with_row(3, "1,x,cat"), "line 5: column 'v' 'x' 1"),
    "no header": File(LABELS.split("\n", 1)[1], "line 1: header", LABELS),
    "a NUL": File(with_row(3, "1,2\0,cat"), "line 5: 'v'"),
    "a cell without end": File(with_row(3, '"' + "1" * 200_000), "line 5 field"),
    "NaN": File(with_row(3, "nan,2,cat"), "line 5: 'u' missing 1"),
    "an empty cell": File(with_row(3, "1,,cat"), "line 5: 'v' missing 1"),
    "infinity": File(with_row(3, "1,-inf,cat"), "line 5: 'v' -inf 1"),
    "no label": File(with_row(3, "1,2,"), "line 5: target value"),
    "labels above 1": File(
        LABELS.replace(",1\n", ",7\n"), "line 3: 'kind' 7 [0, 1] 6 column", LABELS, ["kind"]
    ),
    "a digit's number": File(
        LABELS.replace(",0\n", ",9\n"),
        "9 [0, 1] class numbers belong in one column",
        LABELS,
        ["kind"],
    ),
    "labels below 0": File(LABELS.replace(",0\n", ",-1\n"), "line 2: -1", LABELS, ["kind"]),
    "one class": File(GOOD.replace("dog", "cat"), "'cat' every row two"),
    "names twice": File(GOOD.replace("v", "u", 1), "same name twice: u"),
    "a column without name": File(GOOD.replace("v", " ", 1), "column 2 no name"),
    "no such target": File(GOOD.replace("kind", "knd"), "data.target=kind 'knd'"),
    "no target named": File(GOOD, "data.target not set u, v, kind", GOOD, None),
    "no features": File("kind\ncat\ndog\n", "no column besides"),
    "latin-1": File(GOOD.replace("cat", "Käse").encode("latin-1"), "UTF-8 0xe4", "\ufeff" + GOOD),
    "utf-16": File(GOOD.encode("utf-16"), "UTF-8 0xff", GOOD.replace("cat", "Käse")),
    "cut gzip": File(gzip.compress(GOOD.encode())[:-9], "gzip", gzip.compress(GOOD.encode())),
    "a picture": File(b"\x89PNG\r\n\x1a\n\0\0", "UTF-8 0x89"),
    "too large for float32": File(with_row(3, "1e300,1,cat"), "data.scale=none float32"),
}
X, Y = np.arange(36.0).reshape(12, 3) % 7, np.arange(12) % 2
ARRAYS = {  # wrong arrays, what the line names, right arrays
    "NaN": ({"X": np.where(X == 5, np.nan, X), "y": Y}, "row 1 'x2' 5", {"X": X, "y": Y}),
    "shapes": ({"X": X, "y": Y[:-1]}, "(11,) (12,)", {"X": X, "y": Y[:, None]}),
    "axes": ({"X": X[:, 0], "y": Y}, "(12,) (examples, features)", {"X": X, "y": Y > 0}),
    "one-hot": ({"X": X, "y": 3 * np.eye(12)}, "row 0 'y0' 3 [0, 1]", {"X": X, "y": np.eye(12)}),
    "texts": ({"X": X.astype(str), "y": Y}, "<U real", {"X": X.astype(int), "y": Y.astype(str)}),
    "long": ({"X": X.astype("g"), "y": Y}, "a.npz float64", {"X": X, "y": Y}),
    "a name": ({"Z": X, "y": Y}, "data.features=X Z, y", {"X": X, "y": Y}),
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


def test_a_file_that_is_not_there_is_told_from_a_folder_and_a_device(tmp_path: Path) -> None:
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
def test_a_gpu_that_is_not_there_is_one_line_that_offers_the_processor() -> None:
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
) -> None:
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
    wide = applied(config, "model.hidden=5")
    line = refusal(lambda: train_task.run(wide, [], run), run)
    assert names_all(line, "model.hidden"), line
    for width in (6, 4):
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
) -> None:
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


def test_a_run_folder_that_cannot_be_one_is_one_line(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    short = ("data=iris", "trainer.max_epochs=1", "logger=none")
    for folder in ("file", "file/below", "/proc/run", "a" * 300, "a/" * 3000):
        answer = train(*short, into=Path(folder))
        assert (answer.code, answer.err.count("\n")) == (2, 1), answer
        assert "hydra.run.dir=" in answer.err
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert train(*short, into=tmp_path / "folder").code == 0


# What is accepted but looks like a mistake.


def test_slips_are_warned_of_in_one_line_each(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run_devices", lambda job, devices: None)
    slips = ("data=digits", "data=iris", "data.scale=none", "model.hidden=3", "model.hidden=4")
    many = 2 * (launch.os.cpu_count() or 1)
    answer = train(*slips, f"trainer.devices={many}")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        "train.py: warning: data is given 2 times; the last one counts: data=iris\n"
        "train.py: warning: model.hidden is given 2 times; the last one counts: model.hidden=4\n"
        f"train.py: warning: trainer.devices={many}: this machine has {many // 2} cores, so "
        "each process is slower\n"
    )
    data = build.data(applied(base(), "data.batch_size=1000")).read()
    build.network(base(), data)
    assert capfd.readouterr().out == (
        "train.py: warning: data.batch_size=1000: there are 96 training examples, so every update "
        "sees all of them, as with full\n"
    )
    data.batch_size = 96
    build.network(base(), data)
    assert capfd.readouterr() == ("", "")


def test_constant_and_huge_features_are_warned_of_in_one_line_each(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_answered_elsewhere_is_there(place: str) -> None:
    file, _, name = place.partition("::")
    assert f"\ndef {name}(" in Path(__file__).with_name(file).read_text(encoding="utf-8")

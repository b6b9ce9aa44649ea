"""train.py as its users start it: as a command, from anywhere, with exit codes one can rely on."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import forked
import pytest
import yaml
from conftest import CONF, ROOT, Train, files
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from handgrad.tasks.cli import get_group_options, with_a_copy

IRIS = ("data=iris", "model.hidden=5", "trainer.max_epochs=1", "logger=none")
HEAVY = ("torch", "lightning", "numpy", "pandas", "sklearn", "tensorboard")


def traces(folder: Path) -> list[str]:
    """What a run with wrong data must not leave."""
    return [
        name
        for name in files(folder)
        if name.endswith((".ckpt", "metrics.json")) or "tfevents" in name
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["modle.hidden=3"], 2),
        (["data.batch_size=-3"], 2),
        (["data.validation=nan"], 2),
        (["data=npz"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_answers_that_need_no_torch_do_not_import_it(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    program = (
        "import sys, pathlib, handgrad.tasks.cli\n"
        "sys.argv = ['train.py', *sys.argv[1:]]\n"
        "try:\n"
        f"    code = handgrad.tasks.cli.main(pathlib.Path({str(ROOT / 'conf')!r}))\n"
        "except SystemExit as left:\n"
        "    code = left.code or 0\n"
        f"print('IMPORTED', [name for name in {HEAVY} if name in sys.modules], code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"IMPORTED [] {code}", done.stderr
    assert done.stderr.count("\n") == (code == 2)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_groups_and_examples(command: Train) -> None:
    answer = command("--help")
    assert answer.code == 0
    groups, choices = answer.out.split("Groups (GROUP=CHOICE):\n")[1].split("\n\n")[0], {}
    for file in sorted((ROOT / "conf").glob("*/*.yaml")):  # data.yaml beside data/ is no choice
        choices.setdefault(file.parent.name, []).append(file.stem)
    shown = dict(line.split(": ") for line in groups.splitlines())
    assert shown == {group: ", ".join(stems) for group, stems in choices.items()}
    assert "python train.py data=breast_cancer" in answer.out


@pytest.mark.parametrize("kind", [ObjectType.CONFIG, ObjectType.GROUP])
def test_groups_are_listed_as_hydra_lists_them(kind: ObjectType) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for group in (*loader.list_groups(""), *loader.list_groups("hydra"), "", "nowhere"):
            assert get_group_options(loader, group, kind) == with_a_copy(loader, group, kind)  # pyright: ignore


def test_the_whole_configuration_is_shown(command: Train) -> None:
    answer = command("--cfg", "job", "data=wine", "seed=7")
    shown = yaml.safe_load(answer.out)
    assert shown["seed"] == 7
    assert shown["data"]["_target_"].endswith("Wine")


def test_a_wrong_config_is_one_line_and_no_file(command: Train, tmp_path: Path) -> None:
    answer = command("model.hidden=abc")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "train.py: model.hidden=abc: must be a valid integer\n"
    assert list(tmp_path.iterdir()) == []


WRONG_DATA = {
    "missing": (["data=csv", "data.path=nowhere.csv"], ["nowhere.csv"]),
    "not a number": (["data=csv", "data.path=bad.csv", "data.target=kind"], ["bad.csv", "oops"]),
    "no such column": (["data=csv", "data.path=bad.csv", "data.target=kin"], ["kin", "kind"]),
    "no IDX files": (["data=mnist", "data.download=false"], ["data/mnist", "idx3"]),
    "damaged": (["data=npz", "data.path=bad.csv"], ["bad.csv"]),
    "no rule": (["data=iris", "backward=custom", "backward.function=nowhere.rule"], ["nowhere.py"]),
    "no mistake": (["data=iris", "backward=mistake", "backward.mistake=nothing"], ["nothing"]),
    "no validation": (
        ["data=iris", "data.validation=0", "callbacks.early_stopping.patience=1"],
        ["callbacks.early_stopping.monitor", "data.validation"],
    ),
}


@pytest.mark.parametrize(("arguments", "named"), WRONG_DATA.values(), ids=WRONG_DATA)
def test_wrong_data_are_one_line_and_leave_no_trace(
    train: Train, tmp_path: Path, arguments: list[str], named: list[str]
) -> None:
    (tmp_path / "bad.csv").write_text("a,kind\n1,x\noops,y\n3,x\n")
    answer = train(*arguments)
    assert answer.code == 2, answer.err
    assert answer.err.startswith("train.py: ")
    assert answer.err.count("\n") == 1, answer.err
    assert all(name in answer.err for name in named), answer.err
    assert traces(tmp_path) == []
    assert not (tmp_path / ".latest").is_symlink()


def test_runs_started_together_from_any_folder_with_ones_own_experiment(
    tmp_path: Path,
) -> None:
    own, elsewhere = tmp_path / "mine" / "experiment", tmp_path / "else where"
    own.mkdir(parents=True)
    elsewhere.mkdir()
    (own / "small.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: iris\n"
        "model:\n  hidden: 3\ntrainer:\n  max_epochs: 1\n"
    )
    arguments = ("--config-dir", str(tmp_path / "mine"), "experiment=small", "logger=none")
    runs = []
    for seed in range(2):
        (tmp_path / str(seed)).mkdir()  # for its output
        there = partial(os.chdir, elsewhere)
        folder = tmp_path / str(seed)
        runs.append(forked.start(*arguments, f"seed={seed}", folder=folder, prepare=there))
    assert [(run.wait(), run.err) for run in runs] == [(0, ""), (0, "")]
    assert {path.name for path in elsewhere.iterdir()} == {".latest", "logs"}
    folders = list((elsewhere / "logs").iterdir())
    configs = [yaml.safe_load((each / ".hydra" / "config.yaml").read_text()) for each in folders]
    assert sorted(config["seed"] for config in configs) == [0, 1]  # each in a folder of its own
    assert all(config["model"]["hidden"] == 3 for config in configs)
    assert all((folder / "metrics.json").exists() for folder in folders)

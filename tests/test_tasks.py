"""What a run leaves behind, and what test, predict and export make of it."""

import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import Answer, Train, composed, files, fit
from sklearn.datasets import load_iris
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from handgrad import backprop
from handgrad.config.errors import BadInput
from handgrad.module import TwoLayerNetwork
from handgrad.tasks import build
from handgrad.tasks import train as tasks_train

IRIS = ("data=iris", "model.hidden=5")


def metrics(answer: Answer) -> dict[str, float]:
    return json.loads((answer.folder / "metrics.json").read_text())


def checkpoint(answer: Answer, name: str = "last") -> dict:
    return torch.load(answer.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(answer: Answer, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint(answer, name)["state_dict"]


def assert_bitwise(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each scalar in a folder's event files."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# A run's folder


def test_a_run_leaves_its_figures_checkpoints_and_curves(train: Train, tmp_path: Path) -> None:
    every = "callbacks.checkpoint.every_n_updates=115"  # so that the clock decides nothing
    answer = train("dashboard=lite", "trainer.max_epochs=2", "model.hidden=16", every)
    assert answer.code == 0
    events = {name for name in files(answer.folder) if name.startswith("events.out.tfevents")}
    assert events
    assert files(answer.folder) - events == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "metrics.json",
        "report.md",
        "run.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == {".latest", "logs"}
    figures = metrics(answer)
    parts = [f"{name}/{part}" for name in ("cost", "accuracy") for part in ("train", "val", "test")]
    assert figures.keys() == {
        *parts,
        "run/updates",
        "run/fit_seconds",
        "run/devices",
        "check/wrong",
    }
    assert figures["run/updates"] == 2 * 115  # 1150 examples, 10 an update
    assert figures["run/devices"] == 1
    assert figures["run/fit_seconds"] > 0
    assert figures["check/wrong"] == []
    assert all(math.isfinite(figures[name]) and figures[name] > 0 for name in parts)
    assert figures["accuracy/test"] > 0.8

    found = curves(answer.folder)
    assert set(parts) <= found.keys()
    assert [step for step, _ in found["cost/train"]] == [50, 100, 115, 150, 200, 230]
    assert [step for step, _ in found["accuracy/val"]] == [115, 230]
    for points in found.values():
        assert all(math.isfinite(value) for _, value in points)
    assert found["cost/val"][-1][1] == pytest.approx(figures["cost/val"], rel=1e-6)
    assert found["accuracy/test"][-1][1] == pytest.approx(figures["accuracy/test"], rel=1e-6)

    record = json.loads((answer.folder / "run.json").read_text())
    assert record["command"][:3] == ["train.py", "dashboard=lite", "trainer.max_epochs=2"]
    assert record["seed"] == 0
    percent = f"{figures['accuracy/test']:.2%}"
    assert percent in answer.out
    assert f"tensorboard --logdir {answer.folder.parent}" in answer.out.splitlines()[-2]


def test_the_newest_run_is_easy_to_find(train: Train, tmp_path: Path) -> None:
    for _ in range(2):
        answer = train(*IRIS, "trainer.max_epochs=1")
        assert os.path.realpath(tmp_path / ".latest") == str(answer.folder)


def test_two_runs_with_one_seed_are_bitwise_equal_and_0_is_a_seed(train: Train) -> None:
    runs = [
        train(*IRIS, "trainer.max_epochs=2", f"seed={seed}", "optimizer=momentum")
        for seed in (0, 0, 1)
    ]
    assert_bitwise(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0])["W1"], weights(runs[2])["W1"])
    first, again = ({**metrics(run), "run/fit_seconds": 0} for run in runs[:2])
    assert first == again


# Checkpoints


def test_a_checkpoint_needs_nothing_else(train: Train) -> None:
    answer = train(*IRIS, "trainer.max_epochs=2", "model.init=nielsen_large", "cost=quadratic")
    path = answer.folder / "checkpoints" / "last.ckpt"
    held = checkpoint(answer)
    assert held["config"]["model"]["hidden"] == 5
    assert held["global_step"] == metrics(answer)["run/updates"]
    network = TwoLayerNetwork.load_from_checkpoint(path)
    assert_bitwise(dict(network.state_dict()), held["state_dict"])
    assert network(torch.zeros(2, 4)).shape == (2, 3)
    scaling = held["ExampleData"]["scaling"]
    assert len(scaling["offset"]) == len(scaling["divisor"]) == 4
    assert held["ExampleData"]["known"]["class_names"] == ("setosa", "versicolor", "virginica")


@pytest.mark.parametrize(
    ("monitor", "mode"), [("accuracy/val", "max"), ("cost/val", "min"), ("cost/val", "max")]
)
def test_best_is_the_best_epoch_and_the_earlier_one_on_a_tie(
    train: Train, monitor: str, mode: str
) -> None:
    answer = train(
        *IRIS,
        "trainer.max_epochs=20",
        f"callbacks.checkpoint.monitor={monitor}",
        f"callbacks.checkpoint.mode={mode}",
    )
    points = curves(answer.folder)[monitor]
    best = (max if mode == "max" else min)(value for _, value in points)
    tied = [step for step, value in points if value == best]
    assert checkpoint(answer, "best")["global_step"] == tied[0]
    assert checkpoint(answer, "last")["global_step"] == points[-1][0] == 200
    if monitor == "accuracy/val":
        assert len(tied) > 1, "no tie: the test shows nothing"


@pytest.mark.parametrize("monitor", ["cost/train", "accuracy/train"])
def test_best_may_be_judged_by_the_training_part(train: Train, monitor: str) -> None:
    mode = "min" if monitor.startswith("cost") else "max"
    for overrides in ((), ("data.validation=0",)):
        answer = train(
            *IRIS,
            "trainer.max_epochs=3",
            f"callbacks.checkpoint.monitor={monitor}",
            f"callbacks.checkpoint.mode={mode}",
            *overrides,
        )
        assert answer.code == 0, answer.err
        assert checkpoint(answer, "best")["epoch"] == 2


def test_last_is_the_state_after_the_final_update(train: Train) -> None:
    answer = train(*IRIS, "trainer.max_steps=17", "callbacks.checkpoint.every_n_updates=5")
    assert checkpoint(answer)["global_step"] == 17 == metrics(answer)["run/updates"]
    straight = train(*IRIS, "trainer.max_steps=17")
    assert_bitwise(weights(answer), weights(straight))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_run_resumed_at_an_epochs_end_is_bitwise_the_uninterrupted_one(
    train: Train, optimizer: str
) -> None:
    common = (*IRIS, f"optimizer={optimizer}", "optimizer.lr=0.05", "scheduler=exponential")
    whole = train(*common, "trainer.max_epochs=5")
    half = train(*common, "trainer.max_epochs=2")
    resumed = train(*common, "trainer.max_epochs=5", f"ckpt_path={half.folder}")
    assert resumed.code == 0, resumed.err
    assert_bitwise(weights(resumed), weights(whole))
    first, again = checkpoint(whole), checkpoint(resumed)
    assert first["lr_schedulers"] == again["lr_schedulers"]
    assert metrics(resumed)["run/updates"] == metrics(whole)["run/updates"] == 50
    mine, its = ({**metrics(run), "run/fit_seconds": 0} for run in (resumed, whole))
    assert mine == its


def test_the_best_state_of_the_first_half_comes_along(train: Train) -> None:
    common = (*IRIS, "callbacks.checkpoint.monitor=cost/val", "callbacks.checkpoint.mode=max")
    half = train(*common, "trainer.max_epochs=2")  # the cost falls: its first epoch is the "best"
    resumed = train(*common, "trainer.max_epochs=4", f"ckpt_path={half.folder}")
    assert checkpoint(resumed, "best")["global_step"] == 10
    assert_bitwise(weights(resumed, "best"), weights(half, "best"))
    assert metrics(resumed)["cost/test"] == metrics(half)["cost/test"]


@pytest.mark.parametrize("name", ["best", "last"])
def test_best_and_last_mean_this_runs_folder(train: Train, name: str) -> None:
    answer = train(*IRIS, f"ckpt_path={name}", "trainer.max_epochs=1")  # its folder is new
    assert answer.code == {"best": 2, "last": 0}[name]
    said = {"best": answer.err, "last": answer.out}[name].splitlines()
    assert len(said) == 1 or "training starts from the beginning" in said[0]
    assert f"ckpt_path={name}" in said[0]
    first = train(*IRIS, "trainer.max_epochs=2")
    again = train(*IRIS, "trainer.max_epochs=3", f"ckpt_path={name}", into=first.folder)
    assert again.code == 0, again.err
    assert checkpoint(again)["global_step"] == 30


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.hidden=6", ["W1", "(5, 4)", "(6, 4)", "model.hidden"]),
        ("data=wine", ["W1", "(5, 4)", "(5, 13)"]),
        ("optimizer=adam", ["Adam", "optimizer"]),
    ],
)
def test_a_run_that_does_not_fit_the_checkpoint_is_refused(
    train: Train, override: str, named: list[str]
) -> None:
    first = train(*IRIS, "trainer.max_epochs=1")
    answer = train(*IRIS, "trainer.max_epochs=2", f"ckpt_path={first.folder}", override)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert all(name in answer.err for name in [*named, str(first.folder)]), answer.err


# Ends


def test_early_stopping_stops(train: Train) -> None:
    answer = train(
        *IRIS,
        "trainer.max_epochs=50",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.monitor=accuracy/val",
        "callbacks.early_stopping.mode=max",
    )
    values = [value for _, value in curves(answer.folder)["accuracy/val"]]
    assert len(values) < 50
    best = values.index(max(values))
    assert len(values) == best + 3  # the best, and two that are not better
    assert metrics(answer)["run/updates"] == 10 * len(values)


def test_early_stopping_may_watch_the_training_part(train: Train) -> None:
    answer = train(
        *IRIS,
        "trainer.max_epochs=30",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.monitor=cost/train",
        "callbacks.early_stopping.min_delta=0.2",
        "data.validation=0",
    )
    assert answer.code == 0, answer.err
    assert metrics(answer)["run/updates"] < 30 * 12


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.validation=0",),
        ("data.test=0",),
        ("data.validation=0", "data.test=0"),
        ("trainer.limit_val_batches=0",),
        ("trainer.limit_test_batches=0",),
        ("trainer.check_val_every_n_epoch=2",),
        ("trainer.num_sanity_val_steps=2",),
        ("trainer.fast_dev_run=true",),
        ("logger=csv",),
        ("logger=none",),
        ("trainer.max_time=00:00:00:30",),
        ("trainer.enable_model_summary=true",),
        ("trainer.profiler=simple",),
        ("trainer.deterministic=true",),
        ("optimizer=lbfgs", "data.batch_size=full"),
        ("data=xor", "data.examples=4", "data.noise=0", "data.validation=0", "data.test=0"),
        ("trainer.max_steps=3",),  # it ends before the first validation
        ("trainer.max_steps=3", "callbacks.early_stopping.patience=1"),
    ],
    ids=" ".join,
)
def test_a_run_without_some_part_ends_well(train: Train, overrides: tuple[str, ...]) -> None:
    answer = train(*IRIS, "trainer.max_epochs=2", *overrides)
    assert answer.code == 0, answer.err
    figures = metrics(answer)
    assert "cost/train" in figures
    assert ("cost/test" in figures) == (not any("test" in override for override in overrides[-1:]))


def test_a_fraction_of_a_part_is_a_fraction_of_its_examples(train: Train) -> None:
    """Compared with a part that is as small, of the same examples: their order is kept."""
    half = ("trainer.limit_val_batches=0.5", "trainer.limit_test_batches=0.5")
    answer = train(*IRIS, "trainer.max_epochs=2", *half)
    assert answer.code == 0, answer.err
    fitted = fit(*IRIS, "trainer.max_epochs=2")
    checkpoint_of = torch.load(answer.folder / "checkpoints" / "last.ckpt", weights_only=True)
    for mine, its in zip(fitted.network.params, checkpoint_of["state_dict"].values(), strict=True):
        assert torch.equal(mine, its)
    X, Y = fitted.data.splits["val"].rows(slice(len(fitted.data.splits["val"]) // 2))
    with torch.no_grad():
        expected = backprop.cost(backprop.forward(fitted.network.params, X), Y)
    assert metrics(answer)["cost/val"] == pytest.approx(float(expected), rel=1e-5)


# Test, predict, export


@pytest.fixture
def trained(train: Train) -> Answer:
    return train(*IRIS, "trainer.max_epochs=4", "optimizer.lr=1")


def test_testing_again_gives_the_figures_of_the_run(train: Train, trained: Answer) -> None:
    wanted = {name: value for name, value in metrics(trained).items() if name.endswith("/test")}
    for path in (trained.folder, trained.folder / "checkpoints" / "best.ckpt"):
        answer = train("task=test", f"ckpt_path={path}")
        assert answer.code == 0, answer.err
        found = metrics(answer)
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)
        assert "30 examples" in answer.out
        assert not (answer.folder / "checkpoints").exists()


def test_predictions_are_those_of_the_network(train: Train, trained: Answer) -> None:
    answer = train("task=predict", f"ckpt_path={trained.folder}")
    assert answer.code == 0, answer.err
    table = pd.read_csv(answer.folder / "predictions.csv")
    names = list(load_iris().target_names)
    columns = [f"probability_{name}" for name in names]
    assert list(table.columns) == ["row", *columns, "prediction", "label"]
    assert len(table) == 30
    iris = load_iris()
    scaling = checkpoint(trained, "best")["ExampleData"]["scaling"]
    X = (iris.data[table["row"]] - scaling["offset"]) / scaling["divisor"]
    best = trained.folder / "checkpoints" / "best.ckpt"
    with torch.no_grad():
        A2 = TwoLayerNetwork.load_from_checkpoint(best).double()(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(table[columns], A2, rtol=1e-5)
    assert table["prediction"].tolist() == [names[k] for k in A2.argmax(axis=1)]
    assert table["label"].tolist() == [names[k] for k in iris.target[table["row"]]]
    right = (table["prediction"] == table["label"]).mean()
    assert right == pytest.approx(metrics(trained)["accuracy/test"])


def test_every_row_of_ones_own_file_is_predicted_without_a_target(
    train: Train, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(80, 3)), columns=["a", "b", "c"])
    table["kind"] = np.where(table["a"] + table["b"] > 0, "yes", "no")
    table.to_csv(tmp_path / "mine.csv", index=False)
    ran = train("data=csv", "data.path=mine.csv", "data.target=kind", "trainer.max_epochs=20")
    assert ran.code == 0, ran.err
    table.drop(columns="kind").iloc[:25, ::-1].to_csv(tmp_path / "new.csv", index=False)
    answer = train("task=predict", f"ckpt_path={ran.folder}", "data=csv", "data.path=new.csv")
    assert answer.code == 0, answer.err
    found = pd.read_csv(answer.folder / "predictions.csv")
    assert list(found.columns) == ["row", "probability_no", "probability_yes", "prediction"]
    assert found["row"].tolist() == list(range(25))
    np.testing.assert_allclose(found["probability_no"] + found["probability_yes"], 1, rtol=1e-6)
    assert (found["prediction"] == table["kind"][:25]).mean() > 0.85
    again = train(
        "task=test", f"ckpt_path={ran.folder}", "data=csv", "data.path=mine.csv", "data.target=kind"
    )
    assert again.code == 0, again.err
    assert "80 examples" in again.out


def test_exported_models_answer_as_the_network(train: Train, trained: Answer) -> None:
    answer = train("task=export", f"ckpt_path={trained.folder}")
    assert answer.code == 0, answer.err
    network = TwoLayerNetwork.load_from_checkpoint(trained.folder / "checkpoints" / "best.ckpt")
    X = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        A2 = network(X)
        plain = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Sigmoid())
        plain.load_state_dict(torch.load(answer.folder / "sequential.pt", weights_only=True))
        torch.testing.assert_close(plain(X), A2)
    session = onnxruntime.InferenceSession(answer.folder / "model.onnx")
    (found,) = session.run(None, {"inputs": X.numpy()})
    np.testing.assert_allclose(found, A2.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "damage"),
    [
        *(("train", damage) for damage in ("missing", "empty", "cut", "text", "other")),
        *(
            ("test", "missing"),
            ("predict", "cut"),
            ("export", "other"),
            ("examples", "text"),
        ),  # they read it alike
    ],
)
def test_a_checkpoint_that_is_none_is_one_clear_line(
    train: Train, tmp_path: Path, task: str, damage: str
) -> None:
    path = tmp_path / "a.ckpt"
    whole = tmp_path / "whole.ckpt"
    torch.save({"W1": torch.zeros(3)}, whole)
    content = {"empty": b"", "cut": whole.read_bytes()[:300], "text": b"hello", "other": None}
    if damage == "other":
        whole.rename(path)
    elif damage != "missing":
        path.write_bytes(content[damage])
    answer = train(*IRIS, f"task={task}", f"ckpt_path={path}")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert str(path) in answer.err
    left = files(answer.folder)
    assert not [name for name in left if "ckpt" in name or "events" in name or "metrics" in name]


BRIEF = (
    *("model.hidden=3", "trainer.max_epochs=1", "logger=none", "dashboard=off"),
    *("check.at_start=false", "trainer.enable_progress_bar=false"),
)


@pytest.fixture(scope="module")
def small_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept 36 of the 1,797 digits for the test."""
    folder = tmp_path_factory.mktemp("digits")
    tasks_train.run(composed("data=digits", "data.test=0.02", *BRIEF), [], folder)
    return folder


def restored(run: Path, *overrides: str, **options: Any) -> build.Restored:
    """The network of a run with the data that these overrides name."""
    config = composed("task=test", *overrides) | {"ckpt_path": str(run)}
    return build.restore(config, list(overrides), run, **options)


@pytest.mark.parametrize(
    "named", [(), ("data=digits",), ("data=digits", "data.batch_size=7"), ("trainer=cpu",)]
)
def test_the_test_split_is_that_of_the_training_unless_another_one_is_asked_for(
    small_test: Path, named: tuple[str, ...]
) -> None:
    trained = restored(small_test, *named)
    assert len(trained.data.indices["test"]) == 36
    assert trained.note == ""


def test_a_test_split_with_examples_of_the_training_is_refused_with_their_number(
    small_test: Path,
) -> None:
    asked = ("data=digits", "data.test=0.2")
    with pytest.raises(BadInput, match=r"on_change=accept") as refusal:
        restored(small_test, *asked)
    again = restored(small_test, *asked, "on_change=accept")
    own = build.data(composed("data=digits", "data.test=0.02")).read()
    seen = np.isin(again.data.indices["test"], own.indices["train"]).sum()
    assert 200 < seen < 359
    told = f"{seen} of the 359 examples to test were trained on"
    assert told in str(refusal.value)
    assert told in again.note


OF_FILE = ("data=csv", "data.target=kind")


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.csv, and the run in it that was trained on them."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "rows.csv", range(60))
    tasks_train.run(composed(*OF_FILE, f"data.path={folder}/rows.csv", *BRIEF), [], folder / "run")
    return folder


def write_rows(path: Path, rows: Iterable[int]) -> None:
    """Write a table with a row for each number."""
    lines = [f"{row},{row * row % 11},{'ab'[row % 2]}" for row in rows]
    path.write_text("\n".join(["u,v,kind", *lines, ""]))


@pytest.mark.parametrize("target_required", [True, False])
def test_a_file_that_was_rewritten_is_refused_unless_it_is_named(
    tmp_path: Path, of_file: Path, target_required: bool
) -> None:
    folder = Path(shutil.copytree(of_file, tmp_path / "copy"))
    elsewhere = torch.load(folder / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    elsewhere["config"]["data"]["path"] = str(folder / "rows.csv")
    torch.save(elsewhere, folder / "run" / "checkpoints" / "best.ckpt")
    options = {"target_required": target_required}
    assert restored(folder / "run", **options).note == ""  # another folder, the same rows
    write_rows(folder / "rows.csv", range(80))
    with pytest.raises(BadInput, match=r"the data are not those of the training .* are gone"):
        restored(folder / "run", **options)
    assert "are gone" in restored(folder / "run", "on_change=accept", **options).note
    named = restored(folder / "run", *OF_FILE, f"data.path={folder}/rows.csv", **options)
    assert len(named.data.indices["test"]) == 80
    assert ("are gone" in named.note) == target_required


def test_rows_of_a_file_that_were_trained_on_are_counted(tmp_path: Path, of_file: Path) -> None:
    config = composed(*OF_FILE, f"data.path={of_file}/rows.csv")
    trained_on = build.data(config).read().indices["train"].tolist()
    for rows, told in (
        ([*trained_on[:3], 100, 101], "3 of the 5 examples to test were trained on"),
        ([100, 101], "none of the 2 examples to test were trained on"),
    ):
        write_rows(tmp_path / "new.csv", rows)
        assert told in restored(of_file / "run", *OF_FILE, "data.path=new.csv").note


def test_rows_without_a_target_are_predicted_whatever_they_are(
    tmp_path: Path, of_file: Path
) -> None:
    (tmp_path / "new.csv").write_text("u,v\n1,2\n300,4\n")
    named = ("data=csv", "data.path=new.csv")
    trained = restored(of_file / "run", *named, target_required=False)
    assert (len(trained.data.indices["test"]), trained.note) == (2, "")


def test_another_source_is_said_and_its_test_split_taken(small_test: Path, of_file: Path) -> None:
    run = of_file.with_name("moons")
    tasks_train.run(composed("data=moons", *BRIEF), [], run)
    same = restored(run, "data=moons")
    assert same.note == ""
    other = restored(run, "data=circles")
    assert "none of the" in other.note
    drawn_anew = restored(run, "data=moons", "data.seed=5")
    assert "none of the" in drawn_anew.note
    assert len(drawn_anew.data.indices["test"]) == len(same.data.indices["test"])

"""Sweeps: names, the summary, and what happens when the same sweep is started again."""

import csv
import json
import math
import os
import shlex
import statistics
import sys
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import CONF, Train, files, fit
from events import curves
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from handgrad.config.validate import validate
from handgrad.tasks import compare, tune
from handgrad.tasks import train as tasks_train
from handgrad.tasks.sweep import job, results
from handgrad.tasks.sweep.job import Outcome
from handgrad.tasks.sweep.results import Row

QUICK = (
    *("trainer.max_epochs=1", "model.hidden=3", "logger=none", "check.at_start=false"),
    *("trainer.enable_progress_bar=false", "dashboard=off", "hydra.sweep.dir=logs/grid"),
)


# Names


@pytest.mark.parametrize(
    ("overrides", "same", "name"),
    [
        (["data=iris", "model.hidden=10", "seed=1"], ["data"], "hidden-10_seed-1"),
        (["data=iris", "seed=1"], ["data", "seed"], "data-iris_seed-1"),
        (
            ["callbacks.checkpoint.mode=max", "callbacks.early_stopping.mode=min"],
            [],
            "callbacks.checkpoint.mode-max_callbacks.early_stopping.mode-min",
        ),
        ([], [], "run"),
    ],
)
def test_a_run_is_named_after_what_was_set_for_it_alone(
    overrides: list[str], same: list[str], name: str
) -> None:
    assert job.run_name(overrides, same) == name


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_are_good_for_files_bounded_and_unique(first: str, second: str) -> None:
    one, other = (job.name_of({"data.path": text}) for text in (first, second))
    assert (one == other) == (first == second)
    for name in (one, other):
        assert len(name) <= job.LONGEST + 7
        assert name.startswith("path-")
        assert not set(name) & set('/\\:*?"<>|\n\0 ')
        for path in (f"logs/{name}", f"7_{name}"):  # of a run, of a trial: typed as they are
            assert shlex.quote(path) == path
            read = OverridesParser.create().parse_override(f"hydra.run.dir={path}")
            assert read.value() == path


def test_two_runs_never_share_a_name() -> None:
    one = job.name_of({"data.path": "1_target-2", "data.target": "3"})
    assert one != job.name_of({"data.path": "1", "data.target": "2_target-3"})


# The table


def row(name: str, figure: float | None, seed: int | None = None, **more: str) -> Row:
    settings = {**more, **({} if seed is None else {"seed": str(seed)})}
    return Row(name, settings, Outcome("done"), {} if figure is None else {"accuracy/val": figure})


def test_the_best_run_stands_first_and_what_has_no_figure_last() -> None:
    failed = Row("failed", {}, Outcome("failed", "why"), {"accuracy/val": 0.99})
    rows = [row("none", None), failed, row("nan", math.nan), row("b", 0.5), row("a", 0.9)]
    assert [each.name for each in results.ordered(rows, "accuracy/val")][:2] == ["a", "b"]
    costs = [Row(name, {}, Outcome("done"), {"cost/val": c}) for name, c in (("a", 2), ("b", 1))]
    assert [each.name for each in results.ordered(costs, "cost/val")] == ["b", "a"]


def test_runs_over_seeds_have_a_median_and_a_spread() -> None:
    figures = {"3": [0.1, 0.5, 0.2], "5": [0.3, 0.9, 0.4]}
    rows = [
        row(f"{hidden}{seed}", figure, seed, hidden=hidden)
        for hidden, values in figures.items()
        for seed, figure in enumerate(values)
    ]
    rows.append(Row("failed", {"hidden": "3", "seed": "9"}, Outcome("failed"), {}))
    best, other = results.over_seeds(rows, "accuracy/val").itertuples()
    assert best.Index == "hidden=5"
    assert (best.median, best.least, best.most) == (statistics.median(figures["5"]), 0.3, 0.9)
    assert (other.known, other.runs) == (3, 4)
    assert results.over_seeds([row("a", 0.1, 1), row("b", 0.2, 1)], "accuracy/val").empty


# Sweeps that are run


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_with_one_line_a_run_and_the_worst_code(train: Train, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,kind\n1,x\noops,y\n3,x\n")
    (tmp_path / "good.csv").write_text("a,kind\n" + "1,x\n2,y\n" * 20)
    sweep = tmp_path / "logs" / "grid"
    grid = ("-m", "data=csv", "data.path=bad.csv,good.csv", "data.target=kind", "seed=1,2", *QUICK)
    answer = train(*grid)
    assert answer.code == 2
    assert answer.err.count("\n") == 2  # a line for each run with wrong data
    folders = {path.name for path in sweep.iterdir() if path.is_dir()}
    runs = {f"path-{name}.csv_seed-{seed}" for name in ("bad", "good") for seed in (1, 2)}
    assert folders == runs == {line["run"] for line in lines(sweep)}
    *good, bad, _ = lines(sweep)
    assert bad["ended"].startswith("refused: bad.csv, line 3")
    assert "refused: bad.csv, line 3" in (sweep / "results.md").read_text()
    scores = []
    for line in good:
        final = json.loads((sweep / line["run"] / "metrics.json").read_text())
        assert float(line["accuracy/test"]) == final["accuracy/test"]
        assert line["overrides"] == f"data.path=good.csv seed={line['seed']}"
        scores.append(final["accuracy/val"])
    assert scores == sorted(scores, reverse=True)
    assert "1 of" not in answer.out
    assert "2 of 2" in answer.out  # of the good file's seeds
    assert {"results.png", "results.md", "multirun.yaml"} <= files(sweep)


def test_a_sweep_started_again_continues(train: Train, tmp_path: Path) -> None:
    sweep = tmp_path / "logs" / "grid"
    grid = ("-m", "data=iris", "trainer.max_epochs=2", *QUICK[1:])
    assert train(*grid, "seed=1,2").code == 0
    whole = (sweep / "seed-2" / "metrics.json").read_text()
    untouched = (sweep / "seed-1" / "metrics.json").stat().st_mtime_ns
    os.remove(sweep / "seed-2" / "metrics.json")  # as if it had been ended before that
    (sweep / "seed-2").rename(sweep / "seed=2")  # as an earlier version named it
    again = train(*grid, "seed=1,2,3")
    assert again.code == 0, again.err
    assert "seed-1 is done already and is not run again" in again.out
    assert "seed=2 continues where it was interrupted" in again.out
    assert (sweep / "seed-1" / "metrics.json").stat().st_mtime_ns == untouched
    final, before = json.loads((sweep / "seed=2" / "metrics.json").read_text()), json.loads(whole)
    assert final["run/updates"] == before["run/updates"]
    assert final["cost/test"] == before["cost/test"]
    assert len(lines(sweep)) == 3
    other = train(*grid, "seed=1,2", "model.init=zeros")
    assert other.code == 2
    assert other.err.startswith("train.py: hydra.sweep.dir=logs/grid: belongs to another sweep")
    assert other.err.count("\n") == 1


def test_a_sweep_over_the_choices_that_a_pattern_finds(train: Train, tmp_path: Path) -> None:
    answer = train("-m", "data=iris", "optimizer=glob(ada*)", *QUICK)
    assert (answer.code, answer.err) == (0, "")
    runs = {line["run"]: line["optimizer"] for line in lines(tmp_path / "logs" / "grid")}
    assert runs == {"optimizer-adam": "adam", "optimizer-adamw": "adamw"}


def test_a_crash_is_a_failure_of_its_run_alone(train: Train, tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(
        "from handgrad.backprop import backward\n"
        "def error(params, activations, X, Y):\n"
        "    raise ZeroDivisionError('the planted error')\n"
    )
    answer = train(
        *("-m", "data=iris", "backward=custom", "data.batch_size=full"),
        *("backward.function=crashing.error,crashing.backward", *QUICK),
    )
    assert answer.code == 1
    assert answer.err.rstrip().endswith("ZeroDivisionError: the planted error")
    good, bad = lines(tmp_path / "logs" / "grid")
    assert (good["ended"], bad["ended"]) == ("done", "failed: ZeroDivisionError: the planted error")


def test_each_run_is_validated_once_in_the_combination_that_it_has(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count()

    def counted(config: dict[str, Any]) -> None:
        next(seen)
        validate(config)

    monkeypatch.setattr("handgrad.config.validate.validate", counted)
    untrained = ("task=test", "ckpt_path=nowhere")
    assert train(*untrained).code == 2
    assert next(seen) == 1  # by the gate alone
    pair = ("trainer.max_epochs=1,-1", "trainer.max_steps=-1,5")  # the gate sees 1,-1 and -1,5
    assert train("-m", *untrained, *pair, *QUICK[1:]).code == 2
    assert next(seen) == 2 + 2 + 4  # a number was taken above
    wrong = [
        line["run"] for line in lines(tmp_path / "logs" / "grid") if "requires" in line["ended"]
    ]
    assert wrong == ["max_epochs--1_max_steps--1"]


# Searches


SPACE = "tune.space={optimizer.lr: {low: 0.1, high: 8, log: true}, model.hidden: {choices: [3, 5]}}"
SEARCH = ("task=tune", "data=iris", SPACE, "tune.pruner=none", "data.batch_size=full", *QUICK[2:-1])


def tried(folder: Path) -> set[tuple[str, str]]:
    return {(line["run"], line["accuracy/val"]) for line in lines(folder)}


def test_a_search_from_before_the_classes_moved_continues(train: Train) -> None:
    search = (*SEARCH, "trainer.max_epochs=1", "optimizer=sgd")
    first = train(*search, "tune.trials=1")
    assert first.code == 0, first.err
    journal = JournalStorage(JournalFileBackend(str(first.folder / "study.journal")))
    study = optuna.load_study(study_name="tune", storage=journal)
    settings = study.user_attrs["settings"]
    settings["optimizer"]["_target_"] = "handgrad.optimizers.GradientDescent"
    study.set_user_attr("settings", settings)
    second = train(*search, "tune.trials=2", into=first.folder)
    assert second.code == 0, second.err
    assert len(tried(first.folder)) == 2


def test_an_interrupted_search_tries_what_an_uninterrupted_one_does(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = (*SEARCH, "trainer.max_epochs=2", "tune.sampler=tpe")
    whole = train(*search, "tune.trials=3")
    assert whole.code == 0, whole.err
    assert whole.out.count("optimizer.lr=") == 1  # the best one's command
    fit, calls = tasks_train.fit_and_test, count()

    def interrupted(*arguments: Any) -> dict[str, Any]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return fit(*arguments)

    folder = tmp_path / "parts"
    monkeypatch.setattr(tasks_train, "fit_and_test", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(*search, "tune.trials=3", into=folder)
    journal = folder / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')  # killed within a write
    again = train(*search, "tune.trials=3", into=folder)
    assert again.code == 0, again.err
    assert "study.journal was cut short" in again.out
    assert next(calls) == 4  # the first trial was not trained again
    assert tried(folder) == tried(whole.folder)
    other = train(*search, "tune.trials=3", "seed=1", into=folder)
    assert other.code == 2
    assert "contains a search with other settings of seed" in other.err
    journal.write_bytes(journal.read_bytes().replace(b"op_code", b"\x00\x1b[2J", 1))
    damaged = train(*search, "tune.trials=4", into=folder)
    assert (damaged.code, damaged.err.count("\n")) == (2, 1)
    assert "study.journal: damaged" in damaged.err


@pytest.mark.parametrize("damage", ["", '{"how": "do', "[1]", '{"how": "lost"}', "{}"])
def test_an_outcome_that_was_cut_short_counts_as_unfinished(tmp_path: Path, damage: str) -> None:
    Outcome("failed", "why").keep(tmp_path)
    assert Outcome.of(tmp_path) == Outcome("failed", "why")
    (tmp_path / "outcome.json").write_text(damage)
    assert Outcome.of(tmp_path) == Outcome("unfinished")


def test_a_trial_that_diverges_is_counted_and_passed_over(train: Train, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from handgrad import backprop\n"
        "def rule(params, activations, X, Y):\n"
        "    given = backprop.backward(params, activations, X, Y)\n"
        "    bad = float('nan') if len(params.b1) == 5 else 1.0\n"
        "    return given._replace(dW1=given.dW1 * bad)\n"
    )
    answer = train(
        *("task=tune", "data=iris", "tune.space={model.hidden: {low: 3, high: 7, step: 2}}"),
        *("tune.sampler=random", "tune.trials=6", "trainer.max_epochs=1", *QUICK[2:-1]),
        *("backward=custom", "backward.function=mine.rule"),
    )
    assert answer.code == 0, answer.err
    found = lines(answer.folder)
    failed = [line["run"] for line in found if line["ended"].startswith("failed")]
    assert len(found) == 6
    assert failed
    assert all(("hidden-5" in line["run"]) == (line["run"] in failed) for line in found)


def test_an_unpromising_trial_is_pruned_after_an_epoch() -> None:
    study = optuna.create_study(direction="maximize", pruner=tune.pruner("median", 5))
    for _ in range(5):
        good = study.ask()
        for epoch in (1, 2, 3):
            good.report(0.9, epoch)
        study.tell(good, 0.9)
    unpromising = tune.Pruning(study.ask(), "accuracy/val")
    fitted = fit("data=iris", "trainer.max_epochs=5", "optimizer.lr=1e-9", callbacks=[unpromising])
    assert unpromising.pruned
    assert fitted.trainer.current_epoch == 2  # the first is never judged


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ("null", "task=tune requires a search space"),
        ("{optimizer.rate: {low: 1, high: 2}}", "tune.space: optimizer.rate is not a key"),
        ("{optimizer.lr: {low: 2, high: 1}}", "tune.space.optimizer.lr="),
        ("{optimizer.lr: {low: -1.0, high: 1.0}}", "optimizer.lr=-1.0: must be greater than 0"),
    ],
)
def test_a_search_that_cannot_be_is_refused(train: Train, space: str, line: str) -> None:
    answer = train("task=tune", f"tune.space={space}", *QUICK[2:-1])
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"train.py: {line}")


def test_without_optuna_the_extra_is_named(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as if it could not be imported
    monkeypatch.delitem(sys.modules, "handgrad.tasks.tune")
    answer = train(*SEARCH)
    assert answer.code == 2
    assert answer.err == 'train.py: task=tune requires Optuna: pip install -e ".[sweep]"\n'


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_compose(launcher: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert launcher.split("_")[0] in config.hydra.launcher._target_


# Comparisons


class Order(Callback):
    """Notes the examples of every batch, and the weights before the first."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.weights = self.weights or [each.detach().clone() for each in pl_module.params]
        self.rows.append(batch.rows)


@pytest.mark.parametrize("rule", ["autograd", "feedback_alignment"])
def test_rules_with_the_same_seed_see_the_same_batches(rule: str) -> None:
    one, other = Order(), Order()
    common = ("data=iris", "trainer.max_epochs=2", "seed=3")
    fit(*common, callbacks=[one], one_by_one=True)
    fit(*common, f"backward={rule}", callbacks=[other], one_by_one=True)
    assert len(one.rows) == len(other.rows) >= 20
    assert all((a == b).all() for a, b in zip(one.rows, other.rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def test_a_comparison_shows_what_differs(train: Train) -> None:
    common = ("data=iris", "trainer.max_epochs=2", "logger=tensorboard", QUICK[1], *QUICK[3:-1])
    first = train(*common, "seed=1")
    rule = train(*common, "seed=1", "backward=feedback_alignment")
    seed = train(*common, "seed=2")
    answer = train("task=compare", f"compare.runs=[{first.folder},{rule.folder}]")
    assert answer.code == 0, answer.err
    page = (answer.folder / "results.md").read_text()
    assert "The same batches in the same order.\n\nThe same initial weights." in page
    assert "| backward | " in page
    assert "model.hidden" not in page
    for line in lines(answer.folder):
        folder = first.folder.parent / line["run"]
        final = json.loads((folder / "metrics.json").read_text())
        assert float(line["cost/test"]) == final["cost/test"]
        drawn = compare.curves(folder)
        assert {tag: points[1] for tag, points in drawn.items()} == {
            tag: [value for _, value in points]
            for tag, points in curves(folder).items()
            if tag in compare.CURVES
        }
        assert len(drawn) == 4
    assert (answer.folder / "results.png").stat().st_size > 10_000
    runs = compare.read([str(first.folder), str(seed.folder)])
    assert compare.shared(runs)[0] == "Not the same batches in the same order: seed is 1, 2."
    missing = train("task=compare", "compare.runs=[nowhere,nothing]")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "compare.runs: nowhere contains no trained run" in missing.err

"""Sweeps: names, the summary, and what happens when the same sweep is started again."""

import csv
import json
import math
import os
import statistics
from pathlib import Path

import pytest
from conftest import Train, files
from hypothesis import given
from hypothesis import strategies as st

from handgrad.sweep import names, results
from handgrad.sweep.outcome import Outcome
from handgrad.sweep.results import Row

QUICK = (
    *("trainer.max_epochs=1", "model.hidden=3", "logger=none", "check.at_start=false"),
    *("trainer.enable_progress_bar=false", "dashboard=off", "hydra.sweep.dir=logs/grid"),
)


# Names


@pytest.mark.parametrize(
    ("overrides", "same", "name"),
    [
        (["data=iris", "model.hidden=10", "seed=1"], ["data"], "hidden=10,seed=1"),
        (["data=iris", "seed=1"], ["data", "seed"], "data=iris,seed=1"),
        (
            ["callbacks.checkpoint.mode=max", "callbacks.early_stopping.mode=min"],
            [],
            "callbacks.checkpoint.mode=max,callbacks.early_stopping.mode=min",
        ),
        ([], [], "run"),
    ],
)
def test_a_run_is_named_after_what_was_set_for_it_alone(
    overrides: list[str], same: list[str], name: str
) -> None:
    assert names.run_name(overrides, same) == name


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_are_good_for_files_bounded_and_unique(first: str, second: str) -> None:
    one, other = (names.name_of({"data.path": text}) for text in (first, second))
    assert (one == other) == (first == second)
    for name in (one, other):
        assert len(name) <= names.LONGEST + 7
        assert name.startswith("path=")
        assert not set(name) & set('/\\:*?"<>|\n\0 ')


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
    best, other = results.over_seeds(rows, "accuracy/val")
    assert best.settings == {"hidden": "5"}
    assert results.spread(best, "accuracy/val") == (statistics.median(figures["5"]), 0.3, 0.9)
    assert (len(other.rows), other.runs) == (3, 4)
    assert results.over_seeds([row("a", 0.1, 1), row("b", 0.2, 1)], "accuracy/val") == []


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
    runs = {f"path={name}.csv,seed={seed}" for name in ("bad", "good") for seed in (1, 2)}
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


def test_a_sweep_started_again_goes_on_where_it_was(train: Train, tmp_path: Path) -> None:
    sweep = tmp_path / "logs" / "grid"
    grid = ("-m", "data=iris", "trainer.max_epochs=2", *QUICK[1:])
    assert train(*grid, "seed=1,2").code == 0
    whole = (sweep / "seed=2" / "metrics.json").read_text()
    untouched = (sweep / "seed=1" / "metrics.json").stat().st_mtime_ns
    os.remove(sweep / "seed=2" / "metrics.json")  # as if it had been ended before that
    again = train(*grid, "seed=1,2,3")
    assert again.code == 0, again.err
    assert "seed=1 is done already and not run again" in again.out
    assert "seed=2 goes on where it was interrupted" in again.out
    assert (sweep / "seed=1" / "metrics.json").stat().st_mtime_ns == untouched
    final, before = json.loads((sweep / "seed=2" / "metrics.json").read_text()), json.loads(whole)
    assert final["run/updates"] == before["run/updates"]
    assert final["cost/test"] == before["cost/test"]
    assert len(lines(sweep)) == 3
    other = train(*grid, "seed=1,2", "model.init=zeros")
    assert other.code == 2
    assert other.err.startswith("train.py: hydra.sweep.dir=logs/grid: holds another sweep")
    assert other.err.count("\n") == 1


def test_a_crash_is_a_failure_of_its_run_alone(train: Train, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(
        "from handgrad.backprop import backward\n"
        "def error(params, activations, X, Y):\n"
        "    raise ZeroDivisionError('the planted error')\n"
    )
    answer = train(
        *("-m", "data=iris", "backward=custom", "data.batch_size=full"),
        *("backward.function=planted.error,planted.backward", *QUICK),
    )
    assert answer.code == 1
    assert answer.err.rstrip().endswith("ZeroDivisionError: the planted error")
    good, bad = lines(tmp_path / "logs" / "grid")
    assert (good["ended"], bad["ended"]) == ("done", "failed: ZeroDivisionError: the planted error")

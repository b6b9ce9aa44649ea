"""No cell of a file of ours is a formula, whatever the user called a class, a run or a key."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Train

from handgrad.config.schema import PublishedFigure
from handgrad.runs.tables import safe
from handgrad.tasks.replay import report
from handgrad.tasks.replay.verdict import Comparison
from handgrad.tasks.sweep import results, summary
from handgrad.tasks.sweep.job import Outcome

COMMANDS = ["=1+1", "+A1", "-A1", "@SUM(A1)"]
HIDDEN = ["\t=1+1", "\n=1+1"]  # CSV files of the user's cannot begin a cell with these


def cells(path: Path) -> list[str]:
    """All cells of a file, of which a spreadsheet would run none."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [cell for row in csv.reader(file) for cell in row]
    for cell in found:
        if cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
            assert float(cell) is not None, cell  # a number alone is none
    return found


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-x", "@SUM", "\tx", "\nx", "-1+cmd|A0", "-inf"])
def test_what_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["\rx", "\r\nx"])
def test_breaks_of_lines_are_such_as_writers_quote(text: str) -> None:
    assert safe(text) == "'\nx"


@pytest.mark.parametrize("text", ["-1", "+2.5", "-.5e-3", "3", "setosa", "a=b", "", "'"])
def test_numbers_and_plain_words_are_left_alone(text: str) -> None:
    assert safe(text) == text


def test_names_of_classes_are_no_formulas_in_predictions_and_examples(
    train: Train, tmp_path: Path
) -> None:
    points = np.random.default_rng(0).normal(size=(100, 2))
    names = [*COMMANDS, "a\r=1+1"]  # a break of lines in a quoted cell
    table = pd.DataFrame(points, columns=["u", "v"]).assign(kind=names * 20)
    table.to_csv(tmp_path / "mine.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    ran = train("data=csv", "data.path=mine.csv", "data.target=kind", "trainer.max_epochs=1")
    assert ran.code == 0, ran.err
    for task, name in (("predict", "predictions.csv"), ("examples", "examples.csv")):
        answer = train(f"task={task}", f"ckpt_path={ran.folder}", "logger=none")
        assert answer.code == 0, answer.err
        assert {*(f"'{each}" for each in COMMANDS), "a\n=1+1"} <= set(cells(answer.folder / name))


def test_names_of_outputs_are_no_formulas(train: Train, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(80, 2))
    tags = {name: [0, 1] * 40 for name in COMMANDS[:2]}
    pd.DataFrame(points, columns=["u", "v"]).assign(**tags).to_csv(tmp_path / "a.csv", index=False)
    data = ("data=csv", "data.path=a.csv", "data.target=['=1+1','+A1']")
    ran = train(*data, "trainer.max_epochs=1")
    assert ran.code == 0, ran.err
    for task, name in (("predict", "predictions.csv"), ("examples", "examples.csv")):
        answer = train(f"task={task}", f"ckpt_path={ran.folder}", "logger=none")
        assert answer.code == 0, answer.err
        assert any("'=1+1" in cell for cell in cells(answer.folder / name))


@pytest.mark.parametrize("text", [*COMMANDS, *HIDDEN])
def test_runs_and_overrides_are_no_formulas_in_the_table_of_a_sweep(
    tmp_path: Path, text: str
) -> None:
    """The table of a grid, of task=tune and of task=compare."""
    row = results.Row(text, {text: text, "seed": "-1"}, Outcome("failed", text), {"cost/val": -1.0})
    summary.write_csv([row], "cost/val", tmp_path / "results.csv")
    found = cells(tmp_path / "results.csv")
    assert found.count(f"'{text}") == 3
    assert found.count("-1") == 1
    assert f"'{text}={text} seed=-1" in found


@pytest.mark.parametrize("text", [*COMMANDS, *HIDDEN])
def test_experiments_and_sources_are_no_formulas_in_the_table_of_a_replay(
    tmp_path: Path, text: str
) -> None:
    figure = PublishedFigure(run="-run", value="last cost/val", seeds="mean", published=1.0)
    config = {"replay": {"source": text}}
    report.write_csv(text, config, [Comparison(figure, [0.5, 0.25])], tmp_path / "results.csv")
    found = cells(tmp_path / "results.csv")
    assert found.count(f"'{text}") == 2
    assert "'-run" in found

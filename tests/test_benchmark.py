"""The benchmark compares the same work: all contenders end where float64 does."""

import csv
import importlib
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import forked
import numpy as np
import pytest
import torch
from conftest import Train, composed, files

from handgrad.tasks.benchmark import measure, report
from handgrad.tasks.benchmark.measure import Entry, Measured, distance
from handgrad.tasks.benchmark.worker import CONTENDERS, Server, Unfit
from handgrad.tasks.benchmark.workload import Contender, Shape, Workload, allocations

UPDATES = 13  # in batches of 4 of 20 examples: two and a half epochs
SHAPES = {"mini-batches": "4x6-5-3:20", "full": "7x6-5-3:full", "one output": "4x6-5-1:20"}
OURS_AND_OTHERS = [
    name for name in CONTENDERS if name not in ("truth", "products", "two_processes")
]


def contender(name: str, row: str, folder: Path) -> Contender:
    shape = Shape.parse(row, 50_000)
    shape.write_data(0, folder / "data.npz")
    module, title = CONTENDERS[name]
    kind = getattr(importlib.import_module(f"handgrad.tasks.benchmark.{module}"), title)
    config = composed("task=benchmark", "trainer.enable_progress_bar=false")
    return kind(Workload(shape, folder / "data.npz", config, kind.dtype))


def weights(name: str, row: str, folder: Path, updates: int) -> list[np.ndarray]:
    found = contender(name, row, folder).run(updates).weights
    assert found is not None
    return [tensor.detach().double().numpy() for tensor in found]


@cache
def truth(row: str, updates: int) -> list[np.ndarray]:
    with TemporaryDirectory() as folder:
        return weights("truth", row, Path(folder), updates)


@pytest.mark.parametrize("row", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "compiled" else name
        for name in OURS_AND_OTHERS
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inside torch.compile
def test_every_contender_ends_at_the_weights_of_float64(
    name: str, row: str, tmp_path: Path
) -> None:
    if name == "jax":
        pytest.importorskip("jax")
    start, exact = (truth(row, updates) for updates in (0, UPDATES))
    assert distance(weights(name, row, tmp_path, UPDATES), exact, start) < 1e-5
    assert distance(weights(name, row, tmp_path, UPDATES - 1), exact, start) > 1e-3


def test_the_batches_are_those_of_the_plan(tmp_path: Path) -> None:
    work = contender("bare", SHAPES["mini-batches"], tmp_path).work
    order = np.concatenate([work.plan.order(number) for number in range(3)])
    batches = list(work.batches(UPDATES))
    assert len(batches) == UPDATES
    rows = torch.from_numpy(order[: 4 * UPDATES])
    assert torch.equal(torch.cat([X for X, _ in batches]), work.inputs[rows])
    assert np.array_equal(np.concatenate(list(work.orders(UPDATES))), order[: 4 * UPDATES])


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ("10x784-30-10", (10, 784, 30, 10, 50_000)),
        ("64x784-100-10", (64, 784, 100, 10, 49_984)),
        ("64x784-100-10:5000", (64, 784, 100, 10, 4992)),
        ("569x30-16-1:full", (569, 30, 16, 1, 569)),
        ("4096x2048-2048-10", (4096, 2048, 2048, 10, 20_480)),
    ],
)
def test_a_row_holds_whole_batches(row: str, shape: tuple[int, ...]) -> None:
    assert Shape.parse(row, 50_000) == shape


def test_the_peak_counts_what_is_held_at_once() -> None:
    before = torch.zeros(1000)
    with allocations() as peak:
        first = torch.zeros(100)
        del first
        second = torch.zeros(30)
        del before
        third = torch.zeros(80)
    assert peak == [4 * (30 + 80)]
    assert len(second) + len(third) == 110


@pytest.mark.parametrize("name", ["trainer", "bare", "autograd"])
def test_an_update_needs_more_memory_than_its_gradients(name: str, tmp_path: Path) -> None:
    found = contender(name, "8x30-20-3:full", tmp_path)
    peak = found.peak_bytes()
    assert peak is not None
    gradients = 4 * (20 * 31 + 3 * 21)
    assert gradients < peak < 20 * gradients


def test_a_checkpoint_is_timed(tmp_path: Path) -> None:
    seconds = contender("trainer", "64x6-5-3:full", tmp_path).checkpoint_seconds()
    assert seconds is not None
    assert 0 < seconds < 10


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape.parse("4x6-5-3", 20)
    shape.write_data(0, tmp_path / "data.npz")
    monkeypatch.setitem(sys.modules, "jax", None)
    server = Server("jax", composed("task=benchmark"))
    answer = server.answer("prepare", (shape, tmp_path / "data.npz"))
    assert isinstance(answer, Unfit)
    assert str(answer) == "not installed: jax"


class FakeWorker:
    """A contender whose updates take 5 us after a start-up of 300 us."""

    name = "autograd"

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def ask(self, method: str, *arguments: Any) -> Any:
        if self.fails:
            raise Unfit("its process ended with exit code -9")
        return (300e-6 + 5e-6 * arguments[0], None) if method == "run" else None


def test_start_up_does_not_count_as_update() -> None:
    entry = Entry(FakeWorker())  # pyright: ignore[reportArgumentType]
    entry.prepare(Shape.parse("4x6-5-3", 20), Path("none"), 0.1)
    entry.repeat()
    assert entry.measured("update", "row").values == [pytest.approx(5.0)]
    assert 0.05 < 5e-6 * entry.long <= 0.1


def test_a_contender_that_fails_stands_aside() -> None:
    entry = Entry(FakeWorker(fails=True))  # pyright: ignore[reportArgumentType]
    entry.prepare(Shape.parse("4x6-5-3", 20), Path("none"), 0.1)
    entry.repeat()
    found = entry.measured("update", "row")
    assert (found.values, found.note) == ([], "its process ended with exit code -9")
    page = report.markdown([found, found._replace(contender="bare", values=[2.0], note="")])
    assert "exit code -9" in page


def test_ratios_are_of_medians_in_the_same_row() -> None:
    line = Measured("update", "a", "autograd", "us", [4.0, 8.0, 100.0], 16, 0.0)
    ours = line._replace(contender="bare", values=[2.0, 1.0, 50.0])
    other = line._replace(row="b", values=[1.0])
    assert ours.ratio_to("autograd", [other, line, ours]) == 0.25
    assert ours.ratio_to("products", [other, line, ours]) is None


def test_wrong_weights_are_named() -> None:
    entry = Entry(FakeWorker())  # pyright: ignore[reportArgumentType]
    entry.weight_error = 2 * measure.TOLERANCE
    assert "weights are" in entry.measured("update", "row").note


def test_the_figure_has_a_panel_for_each_row_and_one_for_growth() -> None:
    line = Measured("update", "a", "trainer", "us", [4.0, 8.0], 16, 0.0)
    growth = line._replace(part="growth", row="c")
    figure = report.draw([line, line._replace(row="b"), growth, growth._replace(row="d")])
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "growth", ""]
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]


def test_start_up_is_timed_and_a_failure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {"good": ["-c", "pass"], "bad": ["-c", "raise SystemExit(3)"]}
    monkeypatch.setattr(measure, "COMMANDS", commands)
    good, bad = measure.startup(Path("train.py"), 1)
    assert 0 < good.median < 30
    assert (good.note, bad.note) == ("", "exit code 3")


def test_the_task_writes_table_csv_and_figure(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked.replace_spawn(monkeypatch)
    answer = train(
        "task=benchmark",
        "benchmark.rows=[4x6-5-3]",
        "benchmark.contenders=[bare,products]",
        "benchmark.repeats=1",
        "benchmark.seconds=0.01",
        "benchmark.examples=20",
    )
    assert answer.code == 0, answer.err
    assert {"benchmark.md", "benchmark.csv", "benchmark.png"} <= files(answer.folder)
    assert any("tfevents" in name for name in files(answer.folder))
    with (answer.folder / "benchmark.csv").open() as file:
        rows = {(row["part"], row["contender"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("update", "bare"), ("update", "products"), ("memory", "bare")}
    assert float(rows["update", "bare"]["weight_error"]) < 1e-5
    assert "## 4x6-5-3: an update" in (answer.folder / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer=adam", "optimizer._target_"),
        ("optimizer.weight_decay=0.1", "optimizer.weight_decay"),
        ("cost=quadratic", "cost"),
        ("benchmark.rows=[64x784]", "benchmark.rows"),
        ("benchmark.contenders=[tensorflow]", "benchmark.contenders"),
    ],
)
def test_what_cannot_be_compared_is_refused(train: Train, override: str, key: str) -> None:
    answer = train("task=benchmark", override)
    assert answer.code == 2
    assert key in answer.err
    assert not answer.folder.exists()

"""Replays: the statistic and the verdict on hand-made curves, and small experiments replayed."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import results
import torch
from conftest import CONF, Train, composed, files, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from handgrad.config.schema import PublishedFigure
from handgrad.tasks.replay import report
from handgrad.tasks.replay.runs import ALONE, TrainedRun
from handgrad.tasks.replay.verdict import PATTERNS, Comparison, value_of
from handgrad.training import optimizers
from handgrad.training.initialization import initialize

NOWHERE = Path("nowhere")


def figure(**given: Any) -> PublishedFigure:
    return PublishedFigure(**{"value": "best accuracy/test", "seeds": "median", **given})


def trained(column: str, *curves: list[float], name: str = ALONE) -> list[TrainedRun]:
    """Runs of several seeds, with these values of one column after each epoch."""
    return [
        TrainedRun(name, pd.DataFrame({"epoch": range(len(curve)), column: curve}), NOWHERE)
        for curve in curves
    ]


# The value of one run


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("first accuracy/test", 50.0),
        ("best accuracy/test", 90.0),
        ("last accuracy/test", 70.0),
        ("best cost/train", 0.1),
        ("last cost/train", 0.3),
        ("first angle/dz1", 80.0),
    ],
)
def test_a_value_is_the_best_first_or_last_epochs(value: str, expected: float) -> None:
    curve = pd.DataFrame(
        {
            "accuracy/test": [0.5, 0.9, 0.7],
            "cost/train": [0.5, 0.1, 0.3],
            "angle/dz1": [80.0, 60.0, 50.0],
        }
    )
    assert value_of(value, curve, NOWHERE, 0.1) == pytest.approx(expected)


def test_sweeps_are_the_updates_when_every_output_was_first_close() -> None:
    curve = pd.DataFrame({"updates": [10, 20, 30], "deviation/train": [0.5, 0.09, 0.2]})
    assert value_of("sweeps", curve, NOWHERE, 0.1) == 20
    assert value_of("solved", curve, NOWHERE, 0.1) == 100
    assert value_of("solved", curve, NOWHERE, 0.05) == 0
    assert math.isnan(value_of("sweeps", curve, NOWHERE, 0.05))


@pytest.mark.parametrize(
    ("weights", "antisymmetric", "in_ratio"),
    [
        ([1.0, 2.0, 4.0, -4.0, -2.0, -1.0], True, True),
        ([4.1, -1.0, 2.1, -2.0, 1.05, -4.0], True, True),
        ([1.0, 1.5, 2.0, -2.0, -1.5, -1.0], True, False),
        ([1.0, 2.0, 4.0, -4.0, -2.0, -1.2], False, False),
        ([1.0, 2.0, 4.0, 4.0, 2.0, 1.0], False, False),
    ],
)
def test_patterns_of_weights_are_recognised(
    weights: list[float], antisymmetric: bool, in_ratio: bool
) -> None:
    both = torch.tensor([weights, [-3 * weight for weight in weights]])
    found = {name: pattern(both) for name, pattern in PATTERNS.items()}
    assert found["antisymmetric"] is antisymmetric
    assert (found["antisymmetric"] and found["weights 1:2:4"]) is in_ratio


def test_every_hidden_unit_must_have_the_pattern() -> None:
    right, wrong = [1.0, 2.0, 4.0, -4.0, -2.0, -1.0], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    assert not PATTERNS["weights 1:2:4"](torch.tensor([right, wrong]))
    assert not PATTERNS["antisymmetric"](torch.tensor([right, [1.0] * 6]))


# The statistic over the seeds, and the verdict


@pytest.mark.parametrize(
    ("seeds", "expected"), [("best_of_3", 95.0), ("mean", 94.25), ("median", 94.0)]
)
def test_the_statistic_is_the_sources(seeds: Any, expected: float) -> None:
    runs = trained("accuracy/test", [0.9, 0.95], [0.93], [0.92, 0.91], [0.97])
    row = Comparison.of(figure(seeds=seeds), runs, 0.1)
    assert row.ours == pytest.approx(expected)
    assert row.known.median() == pytest.approx(94.0)


def test_the_best_of_three_costs_is_the_least() -> None:
    assert Comparison(figure(value="last cost/train", seeds="best_of_3"), [3, 2, 4, 1]).ours == 2


@pytest.mark.parametrize(
    ("accepted", "ours", "expected"),
    [
        ({"published": 95.0, "within": 0.5}, 94.5, "PASS"),
        ({"published": 95.0, "within": 0.5}, 94.4, "FAIL"),
        ({"published": 95.0, "within": 0.5}, 95.6, "FAIL"),
        ({"at_least": 75}, 75.0, "PASS"),
        ({"at_least": 75}, 74.9, "FAIL"),
        ({"at_most": 30}, 30.1, "FAIL"),
        ({"at_least": 75, "at_most": 80}, 81.0, "FAIL"),
        ({"published": 95.0}, 10.0, ""),
        ({}, 10.0, ""),
        ({"at_least": 75}, math.nan, "FAIL"),
        ({"published": 95.0, "within": 0.5}, math.nan, "FAIL"),
    ],
)
def test_the_verdict_follows_what_is_accepted(
    accepted: dict[str, float], ours: float, expected: str
) -> None:
    assert Comparison(figure(**accepted), [ours]).verdict == expected


def test_seeds_without_a_value_are_left_out_of_the_statistic() -> None:
    row = Comparison(figure(value="sweeps"), [100, math.nan, 300])
    assert (row.ours, row.known.tolist()) == (200, [100, 300])


def test_a_figure_may_be_a_difference_of_runs_seed_by_seed() -> None:
    one = trained("accuracy/test", [0.9], [0.8], name="one")
    two = trained("accuracy/test", [0.7], [0.75], name="two")
    row = Comparison.of(figure(run="one", minus="two"), [*one, *two], 0.1)
    assert row.values == pytest.approx([20, 5])


# The learning curves


def test_curves_are_of_the_network_after_each_epoch(tmp_path: Path, train: Train) -> None:
    answer = train(
        *("data=iris", "model.hidden=4", "trainer.max_epochs=2", "logger=none"),
        *("callbacks.curves.parts=[train,test]", "callbacks.curves.gradient=true"),
        *("callbacks.checkpoint.monitor=cost/train", "callbacks.checkpoint.mode=min"),
        "optimizer.weight_decay=0.01",
    )
    assert answer.code == 0, answer.err
    curve = pd.read_csv(answer.folder / "curves.csv")
    assert curve["epoch"].tolist() == [0, 1]
    state = torch.load(answer.folder / "checkpoints" / "last.ckpt", weights_only=True)
    W1, b1, W2, b2 = (
        state["state_dict"][name].double().numpy() for name in ("W1", "b1", "W2", "b2")
    )
    examples = fit("data=iris", "trainer.max_epochs=1").data
    for part in ("train", "test"):
        X, Y = (each.double().numpy() for each in examples.splits[part].rows(slice(None)))
        A2 = 1 / (1 + np.exp(-(1 / (1 + np.exp(-(X @ W1.T + b1))) @ W2.T + b2)))
        cost = -(Y * np.log(A2) + (1 - Y) * np.log(1 - A2)).sum() / len(X)
        last = curve.iloc[-1]
        assert last[f"cost/{part}"] == pytest.approx(cost, rel=1e-5)
        assert last[f"accuracy/{part}"] == (A2.argmax(1) == Y.argmax(1)).mean()
        assert last[f"deviation/{part}"] == pytest.approx(np.abs(A2 - Y).max(), rel=1e-5)
        decay = 0.005 * ((W1**2).sum() + (W2**2).sum())
        assert last[f"objective/{part}"] - cost == pytest.approx(decay, rel=1e-4)
    assert curve["angle/dz1"].tolist() == [0, 0]


def test_the_penaltys_gradient_is_what_weight_decay_adds() -> None:
    weight, bias = (torch.nn.Parameter(torch.randn(3, 2).double()) for _ in range(2))
    optimizer = optimizers.build(
        lambda params: optimizers.GradientDescent(params, lr=1.0), [weight], [bias], 0.3
    )
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    before = weight.detach().clone().requires_grad_()
    decay = 0.15 * before.square().sum()
    assert optimizers.penalty(optimizer) == pytest.approx(decay.item())
    (expected,) = torch.autograd.grad(decay, before)
    optimizer.step()
    torch.testing.assert_close(before.detach() - weight.detach(), expected)


def test_curves_of_a_part_that_is_empty_are_refused(train: Train) -> None:
    answer = train("data=iris", "data.validation=0", "callbacks.curves.parts=[val]")
    assert answer.code == 2
    assert "callbacks.curves.parts" in answer.err


# task=replay


def replayed(train: Train, *arguments: str) -> list[dict[str, str]]:
    """The rows of results.csv."""
    answer = train("task=replay", *arguments)
    assert answer.code == 0, answer.err
    with (answer.folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_replay_leaves_its_results_and_shows_them(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = train(
        *("task=replay", "experiment=sklearn_iris", "replay.seeds=2", "trainer.max_epochs=2")
    )
    assert answer.code == 0, answer.err
    assert "97.11%" in answer.out
    assert "FAIL" in answer.out  # two epochs are too few: a replay is completed all the same
    left = files(answer.folder)
    assert {"results.md", "results.csv", "results.png", "run.json"} <= left
    assert {f"runs/replay_seed{seed}/curves.csv" for seed in (0, 1)} <= left
    assert not any("runs/" in name and "tfevents" in name for name in left)
    gathered(answer.folder, tmp_path / "page", monkeypatch)
    events = EventAccumulator(str(answer.folder)).Reload().Tags()
    assert "replay/figures" in events["images"]
    assert "replay/results/text_summary" in events["tensors"]


def gathered(folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of results, its picture and the README's lines come from the replay's folder."""
    page.mkdir()
    readme = page / "README.md"
    readme.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    monkeypatch.setattr(results, "ROOT", page)
    monkeypatch.setattr(results, "DOCS", page)
    monkeypatch.setattr(results, "HEADLINES", ("sklearn_iris",))
    results.main([folder])
    text = (page / "results.md").read_text()
    assert "| [sklearn_iris](#sklearn_iris) | 0 | 1 | 0 | 2 |" in text
    assert "`xor`" in text.split("Not replayed for this page:")[1].splitlines()[0]
    assert (page / "results" / "sklearn_iris.png").stat().st_size < 60_000
    assert str(folder.parent) not in text
    lines = readme.read_text()
    assert lines.startswith("before\n")
    assert lines.endswith("after\n")
    assert "old" not in lines
    assert "| sklearn_iris | last accuracy/test, mean of 2 | 97.11 | +- 2 |" in lines


def test_a_published_curve_is_drawn_beside_its_own_run() -> None:
    replay = composed("experiment=nielsen_chapter3_initialization")["replay"]
    small, large = (report.published_points(replay, name, 29) for name in ("small", "large"))
    assert (small[0], large[0], len(small), len(large)) == ([0, 92.70], [0, 86.43], 30, 30)
    recorded = {**replay, "published_curves": []}
    assert report.published_points(recorded, "large", 7) == [[0, 86.43]]


@pytest.mark.parametrize("file", sorted(CONF.glob("experiment/*.yaml")), ids=lambda file: file.stem)
def test_an_experiment_tells_its_question_command_and_source(file: Path) -> None:
    package, question, command, source, *_ = file.read_text().splitlines()
    assert package == "# @package _global_"
    assert question.endswith("?")
    assert command.startswith(f"# python train.py task=replay experiment={file.stem}")
    assert source.startswith("# Source: ")


def test_a_replay_trains_what_the_command_line_would(train: Train) -> None:
    short = ("experiment=sklearn_wine", "trainer.max_epochs=2", "logger=none")
    train("task=replay", *short, "replay.seeds=2", "seed=3")
    alone = train(*short, "seed=4")
    other = alone.folder.parent / "run0" / "runs" / "replay_seed4"
    assert (alone.folder / "curves.csv").read_text() == (other / "curves.csv").read_text()
    assert pd.read_csv(other / "curves.csv").shape[0] == 2


def test_an_interrupted_replay_goes_on_where_it_was(train: Train, tmp_path: Path) -> None:
    again = ("task=replay", "experiment=sklearn_wine", "trainer.max_epochs=3", "logger=none")
    whole = train(*again, "replay.seeds=2")
    folder = tmp_path / "interrupted"
    half = ("experiment=sklearn_wine", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")
    cut = [folder / "runs" / f"replay_seed{seed}" for seed in (0, 1)]
    assert train(*again, "replay.seeds=1", into=folder).code == 0
    finished = (cut[0] / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    train(*half, "seed=1", "logger=none", into=cut[1])
    pretend_interrupted(cut[1], max_epochs=3)
    answer = train(*again, "replay.seeds=2", into=folder)
    assert answer.code == 0, answer.err
    assert (cut[0] / "checkpoints" / "last.ckpt").stat().st_mtime_ns == finished
    for seed in (0, 1):
        name = f"replay_seed{seed}/curves.csv"
        expected = (whole.folder / "runs" / name).read_text()
        assert (folder / "runs" / name).read_text() == expected


def pretend_interrupted(folder: Path, max_epochs: int) -> None:
    """Make a run that has ended look like a longer one that was interrupted after an epoch."""
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["trainer"]["max_epochs"] = max_epochs
    torch.save(checkpoint, path)
    (folder / "metrics.json").unlink()


def test_the_folder_of_another_replay_is_refused(train: Train) -> None:
    short = ("task=replay", "experiment=sklearn_iris", "replay.seeds=1", "logger=none")
    first = train(*short, "trainer.max_epochs=1")
    answer = train(*short, "trainer.max_epochs=2", into=first.folder)
    assert answer.code == 2
    assert "other settings of trainer" in answer.err


def test_the_random_matrix_comes_along_with_the_training(train: Train) -> None:
    common = ("data=iris", "backward=feedback_alignment", "logger=none")
    whole = train(*common, "trainer.max_epochs=2", "callbacks.curves.gradient=true")
    angles = pd.read_csv(whole.folder / "curves.csv")["angle/dz1"]
    assert angles.between(5, 120).all()
    half = train(*common, "trainer.max_epochs=1")
    resumed = train(
        *(*common, "trainer.max_epochs=2", "backward.seed=5", f"ckpt_path={half.folder}"),
        "on_change=accept",
    )
    assert resumed.code == 0, resumed.err
    one, two = (torch.load(a.folder / "checkpoints/last.ckpt") for a in (whole, resumed))
    assert one["feedback"].shape == one["state_dict"]["W2"].shape
    assert torch.equal(one["feedback"], two["feedback"])
    assert torch.equal(one["state_dict"]["W1"], two["state_dict"]["W1"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["task=replay"], "experiment="),
        (["task=replay", "experiment=xor", "replay.figures=[]"], "experiment="),
        (["experiment=xor", "replay.runs=[]"], "run=2-2-1"),
        (["experiment=sklearn_iris", "replay.runs=[{name: a, overrides: []}]"], "run=None"),
        (["task=replay", "experiment=xor", "replay.seeds=0"], "replay.seeds=0"),
        (
            ["task=replay", "experiment=sklearn_iris", "replay.figures=[{value: x, seeds: mean}]"],
            "replay.figures.0.value",
        ),
    ],
)
def test_a_replay_of_nothing_or_of_unknown_runs_is_refused(
    train: Train, arguments: list[str], named: str
) -> None:
    answer = train(*arguments)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert named in answer.err


@pytest.mark.parametrize("name", ["xor", "parity4", "symmetry"])
def test_truth_tables_sum_over_their_rows(name: str) -> None:
    rate = {"xor": 0.5, "parity4": 0.5, "symmetry": 0.1}[name]
    config = composed(f"experiment={name}")
    assert config["data"]["batch_size"] == "full"
    assert config["optimizer"]["lr"] == pytest.approx(rate * 2 ** config["data"]["bits"])


def test_xor_is_solved_but_from_a_start_that_ends_in_a_local_minimum(train: Train) -> None:
    short = ("seed=4", "replay.seeds=2", "trainer.max_epochs=30")
    rows = replayed(train, "experiment=xor", *short)
    shares = {row["run"]: float(row["ours"]) for row in rows if row["figure"].startswith("solved")}
    assert shares == {"2-2-1": 50, "2-4-1": 100}


def test_parity_takes_as_many_sweeps_as_a_bare_loop(train: Train) -> None:
    short = ("seed=3", "replay.seeds=3", "trainer.max_epochs=25")
    rows = replayed(train, "experiment=parity4", *short)
    ours = [float(sweeps) for sweeps in rows[1]["values"].split()]
    expected = [bare_parity_sweeps(seed, 500) for seed in (3, 4, 5)]
    assert [math.ceil(sweeps / 20) * 20 for sweeps in expected if sweeps] == [
        sweeps for sweeps in ours if not math.isnan(sweeps)
    ]
    assert [math.isnan(sweeps) for sweeps in ours] == [sweeps is None for sweeps in expected]
    assert [sweeps is None for sweeps in expected] == [False, True, False]


def bare_parity_sweeps(seed: int, most: int) -> int | None:
    """Sweeps of summed gradients, rate 0.5 and momentum 0.9, until each output is within 0.1."""
    start = initialize("uniform", 4, 4, 1, generator=torch.Generator().manual_seed(seed))
    params = [each.detach().double().numpy().copy() for each in start]
    velocity = [np.zeros_like(each) for each in params]
    X = np.array([[int(bit) for bit in f"{row:04b}"] for row in range(16)], dtype=float)
    Y = np.where(X.sum(1) % 2 == 1, 0.9, 0.1)[:, None]
    for sweep in range(most + 1):
        W1, b1, W2, b2 = params
        A1 = 1 / (1 + np.exp(-(X @ W1.T + b1)))
        A2 = 1 / (1 + np.exp(-(A1 @ W2.T + b2)))
        if np.abs(A2 - Y).max() <= 0.1:
            return sweep
        dz2 = (A2 - Y) * A2 * (1 - A2)
        dz1 = dz2 @ W2 * A1 * (1 - A1)
        sums = [dz1.T @ X, dz1.sum(0), dz2.T @ A1, dz2.sum(0)]
        for each, speed, gradient in zip(params, velocity, sums, strict=True):
            speed *= 0.9
            speed -= 0.5 * gradient
            each += speed
    return None


def test_iris_is_learned_as_well_as_scikit_learn_does(train: Train) -> None:
    short = ("replay.seeds=2", "trainer.max_epochs=60")
    (row,) = replayed(train, "experiment=sklearn_iris", *short)
    assert float(row["ours"]) > 90


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sklearn_iris", "sklearn_wine", "sklearn_breast_cancer", "sklearn_digits"]
)
def test_figures_of_scikit_learn_are_met(train: Train, name: str) -> None:
    assert {row["verdict"] for row in replayed(train, f"experiment={name}")} == {"PASS"}


@pytest.mark.slow
def test_symmetry_is_learned_as_published(train: Train) -> None:
    rows = replayed(train, "experiment=symmetry", "replay.seeds=16", "replay.jobs=2")
    assert {row["verdict"] for row in rows} == {"PASS", ""}

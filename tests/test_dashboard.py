"""The dashboard's files, read back; and what it is made of."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import events
import lightning as L
import numpy as np
import pandas as pd
import pytest
import several
import torch
from conftest import CONF, Train, composed, fit
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from handgrad.backprop import Parameters, backward, cross_entropy, forward
from handgrad.dashboard import equations, hparams, report, sections
from handgrad.dashboard.callback import Dashboard
from handgrad.dashboard.histograms import histogram
from handgrad.dashboard.loggers import EventLog
from handgrad.dashboard.scalars import ObservedUpdate, Scalars
from handgrad.dashboard.sections import layout
from handgrad.dashboard.time_budget import TimeBudget
from handgrad.devices.launch import Job, run_task
from handgrad.tasks import build, cli

SMALL = (
    *("data=iris", "model.hidden=5", "trainer.max_epochs=6", "trainer.log_every_n_steps=7"),
    *("check.checksum_every_n_updates=20", "trainer.enable_progress_bar=false"),
)
GENEROUS = "dashboard.share=0.99"  # so that no point is left out on a busy machine
UPDATES = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run of each tier."""
    logs = tmp_path_factory.mktemp("logs")
    wanted = {
        "off": (),
        "lite": ("optimizer=momentum",),
        "full": ("cost=quadratic", "backward=feedback_alignment"),
        "deep": ("check.audit_every_n_updates=30",),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(logs)  # where .latest is made
        patch.setattr(build, "PictureCallback", lambda *_: None)  # pictures have tests of their own
        for tier, overrides in wanted.items():
            share = () if tier == "off" else (GENEROUS,)
            config = composed(*SMALL, f"dashboard={tier}", *share, *overrides)
            (logs / tier).mkdir()
            run_task(Job(cli.run_task, config, [], logs / tier))
    return {tier: logs / tier for tier in wanted}


def shown(tier: str) -> set[str]:
    """The tags that a tier promises."""
    return {
        tag
        for charts in sections.charts_of(tier).values()
        for tags in charts.values()
        for tag in tags
    }


# Event files


@pytest.mark.parametrize("tier", sections.TIERS[1:])
def test_a_tier_shows_what_it_promises(runs: dict[str, Path], tier: str) -> None:
    found = {tag for tag in events.curves(runs[tier]) if not tag.startswith("check/")}
    promised = {tag for tag in shown(tier) if not tag.startswith("check/")}
    assert found - {*sections.TOTALS} == promised


def test_off_leaves_cost_accuracy_and_check(runs: dict[str, Path]) -> None:
    found = events.curves(runs["off"])
    assert {tag.partition("/")[0] for tag in found} == {"cost", "accuracy", "check", "run"}
    assert not (runs["off"] / "report.md").exists()


@pytest.mark.parametrize("tier", sections.TIERS)
def test_steps_increase_and_values_are_finite(runs: dict[str, Path], tier: str) -> None:
    for tag, points in events.curves(runs[tier]).items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
        assert all(math.isfinite(value) for _, value in points), tag
        first = 0 if tag.startswith("check/angle") else 1  # the check goes before the first update
        assert steps[0] >= first, f"{tag} has a point that nobody measured"


def test_the_first_update_and_every_seventh_are_watched(runs: dict[str, Path]) -> None:
    steps = [step for step, _ in events.curves(runs["deep"])["backward/kept_by_slope"]]
    assert steps == [1, *range(7, UPDATES + 1, 7)]


PLAIN = ("run/", "accuracy/", "noise/", "step/", "check/")  # not of one equation


@pytest.mark.parametrize("tier", sections.TIERS)
def test_every_curve_carries_its_equation(runs: dict[str, Path], tier: str) -> None:
    held = events.read(runs[tier])
    for tag in held.Tags()["scalars"]:
        description = held.SummaryMetadata(tag).summary_description
        assert description == sections.DESCRIPTIONS[tag]
        assert "`" in description or tag.startswith(PLAIN)


def test_what_comes_with_the_curves(runs: dict[str, Path]) -> None:
    tags = events.read(runs["lite"]).Tags()
    drawn = {f"{group}/{name}" for group, names in sections.HISTOGRAMS.items() for name in names}
    assert set(tags["histograms"]) == drawn
    assert tags["graph"]
    texts = {f"{name}/text_summary" for name in events.TEXTS}
    classes = {f"precision_recall/{name}" for name in ("setosa", "versicolor", "virginica")}
    assert set(tags["tensors"]) == {
        *texts,
        *classes,
        "custom_scalars__config__",
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }


def test_a_histogram_counts_every_value_once() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    summary = histogram("a", values)
    assert summary is not None
    held = summary.value[0].histo
    edges = [held.min, *held.bucket_limit]
    counts, _ = np.histogram(values.numpy(), bins=np.asarray(edges, dtype=np.float32))
    assert len(held.bucket) == 64
    assert abs(np.asarray(held.bucket) - counts).max() <= 1  # a value on an edge
    assert sum(held.bucket) == held.num == 1000
    assert held.sum == pytest.approx(float(values.double().sum()), abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_histogram_of_one_value_is_drawn(value: float) -> None:
    summary = histogram("a", torch.full((4,), value))
    assert summary is not None
    assert sum(summary.value[0].histo.bucket) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_histogram_of_what_is_not_finite_is_left_out(value: float) -> None:
    assert histogram("a", torch.tensor([1.0, value])) is None


# The numbers


class Spy(L.Callback):
    """Keeps the parameters before each update, and its examples."""

    def __init__(self) -> None:
        self.before: dict[int, tuple[Any, ...]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        params = [each.detach().clone() for each in pl_module.params]
        inputs, targets = batch.examples(batch.updates[0])
        rows = batch.updates[0].microbatches[0]
        self.before[trainer.global_step] = (Parameters(*params), inputs[rows], targets[rows])


def test_the_curves_are_those_of_the_watched_update(tmp_path: Path) -> None:
    spy = Spy()
    fit(*SMALL, "trainer.max_steps=14", callbacks=[spy], one_by_one=True)
    board = Dashboard("lite", 0.99, tmp_path, "", {}, checked=True)
    fitted = fit(*SMALL, "trainer.max_steps=14", callbacks=[board])
    params, inputs, targets = spy.before[6]  # of update 7, the second that is watched
    activations = forward(params, inputs)
    dz2, dW2, _, dz1, dW1, _ = backward(params, activations, inputs, targets)
    lr = fitted.trainer.optimizers[0].param_groups[0]["lr"]
    expected = {
        "backward/log10_dz1": math.log10(float((dz1**2).sum(1).mean()) ** 0.5),
        "backward/kept_by_W2": float((dz2 @ params.W2).norm() / dz2.norm()),
        "backward/kept_by_slope": float(dz1.norm() / (dz2 @ params.W2).norm()),
        "backward/log10_norm_dW2": math.log10(float(dW2.norm())),
        "step/log10_update_to_weight_W1": math.log10(float(lr * dW1.norm() / params.W1.norm())),
        "noise/log10_batch_size": math.log10(len(inputs)),
        "health/saturated_output": float(((activations.A2 - 0.5).abs() > 0.45).float().mean()),
        "step/learning_rate": lr,
        "cost/chance": 3 * math.log(2),
    }
    for tag, value in expected.items():
        assert board.points[tag][1] == pytest.approx(value, rel=1e-4), tag


def watched(seed: int, examples: int = 32) -> ObservedUpdate:
    """An update of its own."""
    generator = torch.Generator().manual_seed(seed)
    params = Parameters(
        torch.randn(4, 6, generator=generator),
        torch.zeros(4),
        torch.randn(3, 4, generator=generator),
        torch.zeros(3),
    )
    inputs = torch.randn(examples, 6, generator=generator)
    targets = torch.eye(3)[torch.randint(3, (examples,), generator=generator)]
    activations = forward(params, inputs)
    gradients = backward(params, activations, inputs, targets)
    means = [gradients.dW1, gradients.db1, gradients.dW2, gradients.db2]
    after = Parameters(*(p - 0.1 * g for p, g in zip(params, means, strict=True)))
    return ObservedUpdate(
        before=params,
        after=after,
        activations=activations,
        gradients=gradients,
        inputs=inputs,
        targets=targets,
        step_gradient=means,
        examples=examples,
        learning_rate=0.1,
        cost=cross_entropy,
    )


def test_a_rule_of_four_gradients_shows_the_rest() -> None:
    update = watched(0)
    four = update._replace(gradients=update.gradients._replace(dz2=None, dz1=None))
    found = Scalars("deep", update.before).of(four)
    assert "step/log10_update_to_weight_W1" in found
    assert not any(tag.startswith("backward/kept") for tag in found)


def test_a_single_example_has_no_noise_and_no_alarm() -> None:
    update = watched(0, examples=1)
    found = Scalars("full", update.before).of(update)
    assert "noise/log10_scale" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_the_curvature_is_that_of_autograd() -> None:
    update = watched(1)
    found = Scalars("deep", update.before).of(update)
    shapes = [each.shape for each in update.after]

    def cost(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        params = Parameters(*(p.view(s) for p, s in zip(parts, shapes, strict=True)))
        return cross_entropy.value(forward(params, update.inputs), update.targets)

    flat = torch.cat([each.flatten() for each in update.after])
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(cost, flat))[-1]
    assert found["step/rate_times_curvature"] == pytest.approx(0.1 * float(top), rel=0.02)


# It reads, and changes nothing


@pytest.mark.parametrize("overrides", [(), ("optimizer=adam",), ("data.microbatch=3",)])
def test_the_weights_are_the_same_with_and_without(tmp_path: Path, overrides: tuple) -> None:
    board = Dashboard("deep", 0.99, tmp_path, "", {}, checked=True)
    one = fit(*SMALL, "dashboard=deep", *overrides, callbacks=[board]).network.params
    other = fit(*SMALL, "dashboard=off", *overrides).network.params
    assert board.points
    for with_it, without in zip(one, other, strict=True):
        assert torch.equal(with_it, without)


# The share of the time


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "share"), [(0.010, 0.05), (0.3, 0.05), (0.001, 0.25)])
def test_the_share_is_kept_whatever_a_point_costs(cost: float, share: float) -> None:
    clock = Clock()
    budget, points = TimeBudget(share, clock), 0
    for _ in range(2000):
        clock.now += 0.025  # fifty updates
        if budget.affords():
            with budget.spending():
                clock.now += cost
            points += 1
    training = 2000 * 0.025
    assert budget.spent <= share * training + cost * (points == 1)
    assert points >= min(2000, 0.9 * share * training / cost)


def test_the_interval_stretches_when_points_grow_dear() -> None:
    clock = Clock()
    budget, made = TimeBudget(0.05, clock), []
    for number in range(4000):
        clock.now += 0.025
        if budget.affords():
            made.append(number)
            with budget.spending():
                clock.now += 0.001 if number < 2000 else 0.02
    assert np.diff(made[:1000]).max() == 1
    assert np.diff(made)[-5:].min() >= 10


# Resuming, loggers, devices, failures


def test_a_resumed_run_has_no_step_twice(train: Train) -> None:
    early = ("callbacks.checkpoint.monitor=cost/val", "callbacks.checkpoint.mode=max")
    first = train(*SMALL, GENEROUS, *early)  # whose "best" is the worst, one of the first
    assert first.code == 0, first.err
    checkpoints = first.folder / "checkpoints"
    middle = shutil.copy(checkpoints / "best.ckpt", checkpoints / "last.ckpt")
    assert 0 < torch.load(middle, weights_only=True)["global_step"] < UPDATES
    again = train(*SMALL, GENEROUS, *early, "ckpt_path=last", into=first.folder)
    assert again.code == 0, again.err
    for tag, points in events.curves(first.folder).items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
        if tag.startswith("backward/"):
            assert steps == [1, *range(7, UPDATES + 1, 7)], tag


def test_a_run_killed_at_its_very_end_has_every_last_point_once(train: Train) -> None:
    first = train(*SMALL, GENEROUS)
    whole = events.curves(first.folder)
    for _ in range(2):
        (first.folder / "metrics.json").unlink()  # written after all points
        again = train(*SMALL, GENEROUS, "ckpt_path=last", into=first.folder)
        assert again.code == 0, again.err
    curves = events.curves(first.folder)
    assert {tag: len(points) for tag, points in curves.items()} == {
        tag: len(points) for tag, points in whole.items()
    }
    assert curves["cost/test"] == whole["cost/test"]


def test_the_end_of_a_life_that_is_forgotten_is_written_again(tmp_path: Path) -> None:
    def life(step: int | None, **points: int) -> EventLog:
        log = EventLog(save_dir=str(tmp_path), name="", version="")
        if step is not None:
            log.forget_after(step)
        for name, at in points.items():
            log.log_metrics({name: at}, at)
        log.save()
        return log

    life(None, early=40, end=60)
    life(40, end=60)
    last = life(60, early=60, end=60)
    assert last.written_before == {"end"}
    curves = events.curves(tmp_path)
    assert {tag: [step for step, _ in points] for tag, points in curves.items()} == {
        "early": [40, 60],
        "end": [60],
    }
    life(40)
    assert life(60).written_before == frozenset()


def test_other_loggers_and_none_get_what_they_can_hold(train: Train) -> None:
    csv = train(*SMALL, GENEROUS, "logger=csv")
    columns = pd.read_csv(csv.folder / "metrics.csv").columns
    assert {"backward/kept_by_slope", "noise/example_norm_q50", "cost/train"} <= {*columns}
    none = train(*SMALL, "dashboard=lite", "logger=none")
    assert "kept_by_slope" in (none.folder / "report.md").read_text()
    one = train(*SMALL, "trainer.fast_dev_run=true", GENEROUS)
    assert (csv.code, none.code, one.code) == (0, 0, 0)


def test_the_first_of_two_devices_writes(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    config = composed(*SMALL, "trainer=ddp_cpu", "trainer.devices=2", GENEROUS)
    several.run_on(2, [Job(cli.run_task, config, [], folder)], tmp_path)
    found = events.curves(folder)
    assert [step for step, _ in found["backward/kept_by_slope"]] == [1, *range(7, 61, 7)]
    assert found["noise/log10_batch_size"][0][1] == pytest.approx(1)  # over both
    for tag, points in found.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag


def end_of(folder: Path) -> list[int]:
    """The states that a run's end was given."""
    found = []
    for path in sorted(folder.glob("events.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_end_info":
                    content = value.metadata.plugin_data.content
                    data = plugin_data_pb2.HParamsPluginData.FromString(content)
                    found.append(data.session_end_info.status)
    return found


def test_a_wrong_gradient_is_reported_and_the_run_has_failed(train: Train) -> None:
    done = train(*SMALL, "dashboard=lite", "backward=mistake", "backward.mistake=no_sprime")
    assert done.code == 1
    said = (done.folder / "report.md").read_text()
    assert "**No**: the check found dz1 wrong (`check/audit_dz1`)" in said
    assert end_of(done.folder) == [api_pb2.STATUS_FAILURE]


def test_a_run_that_ended_well_says_so_once(runs: dict[str, Path]) -> None:
    assert end_of(runs["lite"]) == [api_pb2.STATUS_SUCCESS]


# Equations


def test_the_graph_is_that_of_the_equations() -> None:
    sizes = {"m": 7, "n_x": 4, "n_h": 5, "n_y": 3}
    for cost in ("cross_entropy", "quadratic"):
        nodes = {node.name: node for node in equations.graph(cost, sizes).node}
        assert {name: {*node.input} for name, node in nodes.items()} == {
            **{name: set() for name in ("X", "Y", "W1", "b1", "W2", "b2")},
            "z1": {"X", "W1", "b1"},
            "A1": {"z1"},
            "z2": {"A1", "W2", "b2"},
            "A2": {"z2"},
            "dz2": {"A2", "Y"} | ({"z2"} if cost == "quadratic" else set()),
            "dW2": {"dz2", "A1"},
            "db2": {"dz2"},
            "dz1": {"dz2", "W2", "A1"},
            "dW1": {"dz1", "X"},
            "db1": {"dz1"},
        }
    dims = nodes["dW1"].attr["_output_shapes"].list.shape[0].dim
    assert [dim.size for dim in dims] == [5, 4]


@pytest.mark.parametrize("cost", ["cross_entropy", "quadratic"])
def test_the_table_has_every_line_with_the_costs_own_dz2(cost: str) -> None:
    said = equations.table(cost, {"m": 1, "n_x": 1, "n_h": 1, "n_y": 1})
    rows = [line for line in said.splitlines() if line.startswith("| `")]
    assert len(rows) == 10
    assert ("sigma'(z2)" in said) == (cost == "quadratic")


# Layout and address


def test_each_chart_of_the_layout_finds_its_curves(runs: dict[str, Path]) -> None:
    for tier in sections.TIERS[1:]:
        found = events.curves(runs[tier])
        for charts in layout(tier).values():
            for title, (kind, patterns) in charts.items():
                if title.startswith("angle to the true") and tier != "full":
                    continue
                for pattern in patterns:
                    matches = [tag for tag in found if re.fullmatch(pattern, tag)]
                    assert matches or "audit" in pattern or "angle_" in pattern, (tier, pattern)
                assert kind == "Multiline" or len(patterns) == 3


def test_the_sections_come_in_the_order_in_which_one_asks() -> None:
    titles = list(layout("lite"))
    assert titles == sorted(titles)
    words = ("cost", "backward", "noise", "step", "health", "check", "run")
    assert all(word in title for word, title in zip(words, titles, strict=True))


@pytest.mark.parametrize("tier", sections.TIERS)
def test_pinned_cards_exist(runs: dict[str, Path], tier: str) -> None:
    assert {*sections.pinned(tier)} <= {*events.curves(runs[tier])}
    assert len(sections.pinned(tier)) >= 3


def test_one_command_and_one_address_are_printed(train: Train) -> None:
    answer = train(*SMALL, "dashboard=lite")
    *_, command, url = answer.out.splitlines()
    assert command.startswith(f"tensorboard --logdir {answer.folder.parent} --host 127.0.0.1")
    assert "images=200" in command
    assert url == sections.url("lite")
    assert re.fullmatch(
        r"http://127\.0\.0\.1:6006/\?pinnedCards=\S+&smoothing=0#timeseries&_smoothingWeight=0", url
    )


# HParams


def test_configurations_with_different_keys_have_the_same_columns() -> None:
    choices = [
        f"{group}={path.stem}"
        for group in ("optimizer", "scheduler")
        for path in sorted((CONF / group).glob("*.yaml"))
    ]
    choices += ["experiment=symmetry", "backward=mistake"]
    found = {choice: hparams.values(composed(choice)) for choice in choices}
    for values in found.values():
        assert values.keys() <= hparams.COLUMNS.keys()
        for key, value in values.items():
            assert isinstance(value, int | float) == hparams.COLUMNS[key]
    assert "optimizer.momentum" not in found["optimizer=sgd"]
    assert found["optimizer=momentum"]["optimizer.momentum"] == 0.9
    assert found["scheduler=cosine"]["scheduler"] == "CosineAnnealingLR"
    assert found["scheduler=none"]["scheduler"] == "none"


# The report


def facts(figures: dict | None = None, **points: float) -> report.Facts:
    tags = {
        "cost/chance": 2.0,
        "backward/kept_by_W2": 0.8,
        "backward/kept_by_slope": 0.2,
        "noise/log10_scale": 1.0,
        "step/log10_update_to_weight_W1": -3.0,
    }
    renamed = {name.replace("__", "/"): value for name, value in points.items()}
    held = {tag: [value] for tag, value in {**tags, **renamed}.items() if value is not None}
    common = {"cost/train": 0.1, "cost/val": 0.12, "accuracy/test": 0.97, "check/wrong": []}
    return report.Facts({**common, **(figures or {})}, held, checked=True, batch_size=10)


QUESTIONS = ("learned", "proved", "shrinks", "batch", "step")  # in the order of the report
CASES = [
    ("learned", {}, {}, "**Yes**: the cost of the training split is 0.1"),
    ("learned", {"cost/train": 1.99}, {}, "**No**"),
    ("learned", {"cost/train": math.nan}, {}, "**No**"),
    ("learned", {"cost/val": 0.5}, {}, "costs 5.0 times as much"),
    ("learned", {"cost/train": None}, {}, "Unknown"),
    ("proved", {}, {}, "**Yes**"),
    ("proved", {"check/wrong": ["dW2"]}, {}, "**No**: the check found dW2 wrong"),
    ("shrinks", {}, {"backward__kept_by_slope": 0.05}, "many hidden units are saturated"),
    ("shrinks", {}, {"backward__kept_by_W2": 0.1}, "**Most is lost in the weights**"),
    ("shrinks", {}, {"backward__kept_by_W2": 3.0}, "by 0.6 in all"),
    ("shrinks", {}, {"backward__kept_by_W2": None}, "Unknown"),
    ("batch", {}, {}, "**About right**"),
    ("batch", {}, {"noise__log10_scale": 2.5}, "**Small**"),
    ("batch", {}, {"noise__log10_scale": -1.0}, "**Big**"),
    ("batch", {}, {"noise__log10_scale": None}, "Unknown"),
    ("step", {}, {}, "**About right.**"),
    ("step", {}, {"step__log10_update_to_weight_W1": -1.0}, "**Big**"),
    ("step", {}, {"step__log10_update_to_weight_W1": -5.0}, "**Small**"),
    ("step", {}, {"step__rate_times_curvature": 3.0}, "**Big**"),
]


@pytest.mark.parametrize(("question", "figures", "points", "answer"), CASES)
def test_the_report_answers(question: str, figures: dict, points: dict, answer: str) -> None:
    answers = report.render("run", facts(figures, **points)).split("\n## ")[1:]
    assert answer in dict(zip(QUESTIONS, answers, strict=True))[question]


def test_a_report_has_five_answers_whose_tags_exist(runs: dict[str, Path]) -> None:
    for tier in sections.TIERS[1:]:
        said = (runs[tier] / "report.md").read_text()
        assert said.count("\n## ") == 5
        named = set(re.findall(r"`(\w+/\w+)`", said))
        assert named
        assert named <= {*sections.DESCRIPTIONS}
        for section in ("cost/", "check/", "backward/", "noise/", "step/"):
            assert any(tag.startswith(section) for tag in named), section


def test_a_report_without_a_check_says_so() -> None:
    assert "Not checked" in report.render("run", facts()._replace(checked=False))


def test_the_reports_figures_are_those_of_the_run(runs: dict[str, Path]) -> None:
    figures = json.loads((runs["lite"] / "metrics.json").read_text())
    said = (runs["lite"] / "report.md").read_text()
    assert f"{figures['cost/train']:.4g} (`cost/train`)" in said
    assert f"{figures['accuracy/test']:.2%} are right (`accuracy/test`)" in said

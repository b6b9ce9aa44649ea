"""The number of devices is no hyperparameter: the same weights and figures on one, two, three."""

import json
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import several
import torch
from conftest import composed
from torch import Tensor

from handgrad.config.validate import validate
from handgrad.devices.launch import Job
from handgrad.tasks import cli

VARIANTS = {
    "sgd": [],
    "momentum": ["optimizer=momentum"],
    "adam": ["optimizer=adam", "optimizer.weight_decay=0.01"],
    "clipping": ["optimizer.clip_norm=0.05"],
    "accumulate_2": ["optimizer.accumulate=2"],
    "accumulate_3": ["optimizer=adam", "optimizer.accumulate=3", "optimizer.clip_norm=0.05"],
    "microbatch": ["data.microbatch=5"],
    "step_scheduler": ["scheduler=step", "scheduler.interval=step", "scheduler.step_size=2"],
    "cosine": ["optimizer=momentum", "scheduler=cosine"],
    "plateau": ["scheduler=plateau", "scheduler.patience=0", "scheduler.monitor=cost/val"],
}
MORE_VARIANTS = {
    "nesterov": ["optimizer=nesterov"],
    "adamw": ["optimizer=adamw"],
    "adam_accumulate_2": ["optimizer=adam", "optimizer.accumulate=2"],
    "momentum_accumulate_3": ["optimizer=momentum", "optimizer.accumulate=3"],
    "exponential": ["optimizer=adam", "scheduler=exponential"],
    "quadratic": ["cost=quadratic", "optimizer=momentum"],
    "autograd": ["backward=autograd"],
    "lbfgs": ["optimizer=lbfgs", "optimizer.max_iter=4", "optimizer.lr=0.1"],
    "passes": ["data.passes_per_epoch=2", "optimizer.accumulate=3"],
    "early_stopping": ["callbacks.early_stopping.patience=1", "optimizer.lr=3"],
}
BITWISE = {
    f"bitwise_{name}": ["reproducible=bitwise", "trainer.precision=32-true", *overrides]
    for name, overrides in {
        "sgd": [],
        "adam_accumulate": ["optimizer=adam", "optimizer.accumulate=3"],
        "clipped_microbatch": [
            "optimizer=momentum",
            "optimizer.clip_norm=0.05",
            "data.microbatch=5",
        ],
    }.items()
}
QUICK_VARIANTS = ("accumulate_3", "microbatch", "step_scheduler", "cosine", "plateau")
EXAMPLES = {97: 151, 101: 157, 997: 1557}  # for training: with the other parts
COMMON = (
    *("data=npz", "trainer.max_epochs=3", "trainer.precision=64-true", "model.hidden=5"),
    *("logger=none", "trainer.enable_progress_bar=false", "check.at_start=false"),
    "trainer.log_every_n_steps=2",
)


class Case(NamedTuple):
    """One training, to be made on one, two and three devices."""

    examples: int  # 97: the last batch of 32 has one example, for two of three devices none
    batch_size: int | str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.examples}-{self.batch_size}-{self.variant}"


# Each feature once: momentum is in cosine, Adam, accumulation and clipping in accumulate_3.
QUICK = [
    *(Case(101, 32, variant) for variant in QUICK_VARIANTS),
    *(Case(97, 32, "sgd"), Case(997, "full", "clipping")),
    *(Case(101, 32, "bitwise_adam_accumulate"), Case(997, 32, "bitwise_clipped_microbatch")),
]
# L-BFGS amplifies rounding: on ONE device, the same batches summed in other pieces change its
# weights by 6e-12 (full batch, 97 examples: its line search divides differences of costs) and, on
# batches of 32, by 3e-12 (97) to 0.6 (997). So the full batch is compared, with a wider bound.
# The bitwise variants train in float32: their weights are compared exactly, their costs within it.
BOUND = {"lbfgs": 1e-10, **dict.fromkeys(BITWISE, 1e-6)}
REST = [
    case
    for each in product(EXAMPLES, (32, "full"), (*VARIANTS, *MORE_VARIANTS, *BITWISE))
    if (case := Case(*each)) not in QUICK and each[1:] != (32, "lbfgs")
]


class Outcome(NamedTuple):
    """What a case came to on some number of devices."""

    weights: list[list[Tensor]]  # of each device
    metrics: dict[str, Any]


Outcomes = dict[tuple[Case, int], Outcome]


@cache  # composing takes a third of a second
def config_of(variant: str) -> dict[str, Any]:
    return composed(*COMMON, *{**VARIANTS, **MORE_VARIANTS, **BITWISE}[variant])


def job(case: Case, devices: int, folder: Path) -> Job:
    where = folder / f"{case.name}-{devices}"
    where.mkdir()
    config = deepcopy(config_of(case.variant))
    config["data"] |= {
        "path": f"{folder / str(case.examples)}.npz",
        "batch_size": case.batch_size,
    }
    config["trainer"]["devices"] = devices
    validate(config)
    return Job(cli.run_task, config, [], where)


def run_all(cases: list[Case], folder: Path) -> Outcomes:
    """Every case on one, two and three devices; one group of processes for each number."""
    for size, examples in EXAMPLES.items():
        several.write_examples(folder / f"{size}.npz", examples)
    outcomes: Outcomes = {}
    for devices in (1, 2, 3):
        jobs = {case: job(case, devices, folder) for case in cases}
        several.run_on(devices, list(jobs.values()), folder)
        for case, done in jobs.items():
            weights = [torch.load(done.folder / f"device{rank}.pt") for rank in range(devices)]
            metrics = json.loads((done.folder / "metrics.json").read_text())
            outcomes[case, devices] = Outcome(weights, metrics)
    return outcomes


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return run_all(QUICK, tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return run_all(REST, tmp_path_factory.mktemp("devices"))


def check_same_training(outcomes: Outcomes, case: Case, devices: int) -> None:
    alone, together = outcomes[case, 1], outcomes[case, devices]
    if case.variant in BITWISE:
        assert all(map(torch.equal, alone.weights[0], together.weights[0]))
    reference = torch.cat([each.flatten() for each in alone.weights[0]])
    first = torch.cat([each.flatten() for each in together.weights[0]])
    assert (first - reference).norm() <= BOUND.get(case.variant, 1e-12) * reference.norm()
    for others in together.weights[1:]:
        for mine, theirs in zip(together.weights[0], others, strict=True):
            assert torch.equal(mine, theirs)


def check_same_figures(outcomes: Outcomes, case: Case, devices: int) -> None:
    alone, together = dict(outcomes[case, 1].metrics), dict(outcomes[case, devices].metrics)
    assert (alone.pop("run/devices"), together.pop("run/devices")) == (1, devices)
    del alone["run/fit_seconds"], together["run/fit_seconds"]
    assert alone.keys() == together.keys() >= {"accuracy/val", "accuracy/test", "cost/train"}
    for name, figure in alone.items():
        if name.startswith("cost/"):
            assert together[name] == pytest.approx(figure, rel=BOUND.get(case.variant, 1e-12))
        else:
            assert together[name] == figure, name


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_devices_make_the_same_training(quick: Outcomes, case: Case, devices: int) -> None:
    check_same_training(quick, case, devices)
    check_same_figures(quick, case, devices)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("case", REST, ids=lambda case: case.name)
def test_devices_make_the_same_training_in_all_variants(
    rest: Outcomes, case: Case, devices: int
) -> None:
    check_same_training(rest, case, devices)
    check_same_figures(rest, case, devices)


def test_the_cases_reach_the_corners(quick: Outcomes) -> None:
    updates = {case.name: quick[case, 3].metrics["run/updates"] for case in QUICK}
    assert updates["97-32-sgd"] == 3 * 4  # three batches of 32 and one of 1
    assert updates["101-32-microbatch"] == 3 * 4
    assert updates["101-32-accumulate_3"] == 3 * 2  # the last window is one batch of 5
    assert updates["997-full-clipping"] == 3


def test_a_wrong_gradient_on_one_device_stops_all_devices(tmp_path: Path) -> None:
    several.write_examples(tmp_path / "101.npz", EXAMPLES[101])
    variants = {
        "right": ["check.at_start=true"],
        "planted": ["check.at_start=true", "backward=mistake", "backward.mistake=no_sprime"],
        "on_one": ["backward=custom", "backward.function=faults.is_wrong"],
    }
    jobs = {}
    for name, overrides in variants.items():
        config = composed(*COMMON, "check.checksum_every_n_updates=4", *overrides)
        config["data"] |= {"path": f"{tmp_path / '101.npz'}", "batch_size": 32}
        config["trainer"] |= {"devices": 2, "log_every_n_steps": 4}
        validate(config)
        (tmp_path / name).mkdir()
        jobs[name] = Job(cli.run_task, config, [], tmp_path / name)
    several.run_on(2, list(jobs.values()), tmp_path)
    errors = {
        name: [path.read_text() for path in sorted(job.folder.glob("device*.error"))]
        for name, job in jobs.items()
    }
    assert errors == {
        "right": [],
        "planted": 2 * ["the gradient is wrong in dz1 (on the first batch)"],
        "on_one": 2 * ["the gradient is wrong in dW2 (checksum, after update 8)"],
    }
    metrics = json.loads((jobs["on_one"].folder / "metrics.json").read_text())
    assert metrics == {"check/wrong": ["dW2"]}

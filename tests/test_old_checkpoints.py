"""A run folder written before classes moved is still used, and their old names still mean them."""

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Train
from torch import Tensor

from handgrad.config.compose import MOVED, with_present_names
from handgrad.runs.loading import load

KEPT = Path(__file__).parent / "runs_of_before"
SETTINGS = (
    *("data=symmetry", "data.batch_size=8", "data.validation=0.2", "data.test=0.2"),
    *("model.hidden=4", "optimizer=sgd", "scheduler=exponential", "logger=csv"),
    "trainer.enable_progress_bar=false",
)
NAMEABLE = {  # every class of the package that a configuration of that time could name
    *(f"handgrad.data.sources.{name}" for name in ("BreastCancer", "Circles", "Digits", "Iris")),
    *(f"handgrad.data.sources.{name}" for name in ("Moons", "Spirals", "Wine", "Xor")),
    *("handgrad.data.boolean.Parity", "handgrad.data.boolean.Symmetry"),
    *("handgrad.data.idx.FashionMnist", "handgrad.data.idx.Mnist", "handgrad.data.arrays.Arrays"),
    *("handgrad.data.tables.Csv", "handgrad.data.tables.Parquet"),
    *(f"handgrad.rules.{name}" for name in ("autograd", "closed_form", "custom", "flat_spot")),
    *(f"handgrad.rules.{name}" for name in ("feedback_alignment", "mistake")),
    *(f"handgrad.rules.{name}" for name in ("sign_concordant", "sign_symmetric")),
    *("handgrad.optimizers.GradientDescent", "handgrad.csv_log.CsvLog"),
    "handgrad.dashboard.event_log.EventLog",
}


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy of a run of 4 epochs; longer.pt beside it has the weights after 8."""
    return Path(shutil.copytree(KEPT / "symmetry", tmp_path / "old"))


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", sorted(NAMEABLE))
def test_every_name_of_that_time_imports(name: str) -> None:
    module, _, attribute = with_present_names(name).rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_the_table_holds_names_that_are_gone_alone() -> None:
    assert MOVED.keys() <= NAMEABLE
    for name, present in MOVED.items():
        assert name.rpartition(".")[2] == present.rpartition(".")[2]
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name.rpartition(".")[0])


def test_only_a_whole_name_is_replaced() -> None:
    (old, present), *_ = MOVED.items()
    was = {"a": [{"_target_": old}, 3, None], "path": f"{old}.csv", old: True}
    assert with_present_names(was) == {**was, "a": [{"_target_": present}, 3, None]}


def test_the_kept_run_names_classes_of_before() -> None:
    text = (KEPT / "symmetry" / ".hydra" / "config.yaml").read_text()
    assert [name for name in MOVED if name in text] == [
        *("handgrad.optimizers.GradientDescent", "handgrad.data.boolean.Symmetry"),
        "handgrad.csv_log.CsvLog",
    ]


def test_it_loads_with_the_names_of_now(old_run: Path) -> None:
    checkpoint = load(old_run / "checkpoints" / "last.ckpt")
    assert checkpoint["config"]["data"]["_target_"] == "handgrad.data.sources.Symmetry"
    assert checkpoint["fingerprint"]["optimizer._target_"] in MOVED.values()


@pytest.mark.parametrize("task", ["test", "predict", "export", "examples", "check"])
def test_a_task_takes_it(train: Train, old_run: Path, task: str) -> None:
    done = train(f"task={task}", f"ckpt_path={old_run}", *(SETTINGS if task == "check" else ()))
    assert done.code == 0, done.err


def test_it_resumes_to_the_weights_of_the_code_of_before(train: Train, old_run: Path) -> None:
    again = train(*SETTINGS, "trainer.max_epochs=4", into=old_run.with_name("again"))
    assert again.code == 0, again.err
    rounds_alike = all(map(torch.equal, weights(again.folder).values(), weights(old_run).values()))
    done = train(*SETTINGS, "trainer.max_epochs=8", "ckpt_path=last", into=old_run)
    assert done.code == 0, done.err
    assert "last.ckpt after update 20" in done.out
    expected = torch.load(KEPT / "longer.pt", weights_only=True)
    tolerance = 0 if rounds_alike else 1e-5  # another processor rounds otherwise
    torch.testing.assert_close(weights(old_run), expected, rtol=tolerance, atol=tolerance)
    rows = (old_run / "metrics.csv").read_text().splitlines()
    assert len(rows) > len((KEPT / "symmetry" / "metrics.csv").read_text().splitlines())


def test_a_run_that_is_done_is_left_as_it_is(train: Train, old_run: Path) -> None:
    done = train(*SETTINGS, "trainer.max_epochs=4", "ckpt_path=last", into=old_run)
    assert (done.code, done.err) == (0, "")
    assert "nothing is left to do" in done.out


def test_a_sweep_continues_it(train: Train, old_run: Path) -> None:
    sweep = (f"hydra.sweep.dir={old_run.parent}", f"hydra.sweep.subdir={old_run.name}")
    done = train("-m", *SETTINGS, "trainer.max_epochs=4", "seed=0", *sweep)
    assert done.code == 0, done.err
    assert "old is done already" in done.out


def test_a_users_configuration_may_name_a_class_by_its_old_name(train: Train) -> None:
    moved = "optimizer._target_=handgrad.optimizers.GradientDescent"
    done = train("data=iris", "model.hidden=3", "trainer.max_epochs=1", "logger=none", moved)
    assert done.code == 0, done.err

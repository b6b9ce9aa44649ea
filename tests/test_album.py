"""When the pictures are drawn, where they go, and which of them fit the data."""

import json
from pathlib import Path
from types import SimpleNamespace

import events
import lightning as L
import numpy as np
import pytest
from conftest import Train, composed, fit
from PIL import Image

from handgrad.dashboard.pictures import gallery
from handgrad.dashboard.pictures.callback import PictureCallback, next_picture
from handgrad.dashboard.pictures.snapshot import Snapshot
from handgrad.dashboard.time_budget import TimeBudget
from handgrad.devices.launch import Job, run_task
from handgrad.tasks import cli

COMMON = (
    *("trainer.enable_progress_bar=false", "check.at_start=false", "trainer.max_epochs=-1"),
    *("callbacks.checkpoint.monitor=cost/train", "callbacks.checkpoint.mode=min"),
    *("trainer.max_steps=3", "model.hidden=4", "trainer.log_every_n_steps=50"),
)
EVERYWHERE = {"hinton", "saturation", "slopes", "confusion", "hardest"}
FITTING = {
    "moons": EVERYWHERE | {"boundary", "hidden_units"},
    "digits": EVERYWHERE | {"tiles"},
    "iris": EVERYWHERE,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run that keeps its pictures, of one without time for any, of one without."""
    logs = tmp_path_factory.mktemp("logs")
    wanted = {
        "kept": ("dashboard=full", "dashboard.save_png=true"),
        "hurried": ("dashboard.share=0.0",),
        "off": ("dashboard=off",),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(logs)
        for name, overrides in wanted.items():
            (logs / name).mkdir()
            run_task(Job(cli.run_task, composed(*COMMON, "data=iris", *overrides), [], logs / name))
    return {name: logs / name for name in wanted}


def test_who_keeps_pictures_gets_all_at_1_2_and_the_end(runs: dict[str, Path]) -> None:
    held, pictures = events.read(runs["kept"]), EVERYWHERE | {"agreement"}
    wanted = {f"pictures/{name}" for name in pictures}
    assert {*held.Tags()["images"]} == wanted | {"pictures/error_versus_h"}
    for tag in wanted:
        assert [image.step for image in held.Images(tag)] == [1, 2, 3]
    assert [image.step for image in held.Images("pictures/error_versus_h")] == [3]
    kept = {path.name for path in (runs["kept"] / "pictures").iterdir()}
    names = {f"{name}_000000{step}.png" for name in pictures for step in (1, 2, 3)}
    assert kept == names | {"error_versus_h_0000003.png"}


def test_the_png_is_the_picture_in_tensorboard(runs: dict[str, Path], tmp_path: Path) -> None:
    shown = events.read(runs["kept"]).Images("pictures/hinton")[0]
    (tmp_path / "shown.png").write_bytes(shown.encoded_image_string)
    with (
        Image.open(tmp_path / "shown.png") as one,
        Image.open(runs["kept"] / "pictures" / "hinton_0000001.png") as other,
    ):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_without_time_the_first_update_and_the_end_are_drawn(runs: dict[str, Path]) -> None:
    held = events.read(runs["hurried"])
    assert {*held.Tags()["images"]} == {f"pictures/{name}" for name in EVERYWHERE}
    assert [image.step for image in held.Images("pictures/hinton")] == [1, 3]
    assert not (runs["hurried"] / "pictures").exists()


def test_pictures_do_not_change_the_training(runs: dict[str, Path]) -> None:
    figures = {name: json.loads((runs[name] / "metrics.json").read_text()) for name in runs}
    assert figures["off"]["cost/train"] == figures["kept"]["cost/train"]


@pytest.mark.parametrize("data", FITTING)
def test_every_picture_that_fits_the_data_is_drawn(data: str) -> None:
    fitted = fit(f"data={data}", *COMMON, "trainer.max_steps=1")
    params = fitted.network.params
    snapshot = Snapshot(1, params, params.W1.grad, fitted.network.cost, fitted.data.splits)
    drawn = {tag.removeprefix("pictures/") for tag, _ in gallery.pictures(snapshot, more=False)}
    assert drawn == FITTING[data]


# Which moments are kept until there is time to draw them.


class Diary(PictureCallback):
    """Writes down what would be drawn, and after how many updates; drawing takes a second."""

    def __init__(self, rich_after: int) -> None:
        super().__init__(SimpleNamespace(splits={}), "lite", 0.0, None)  # pyright: ignore - no data
        self.rich_after, self.drawn = rich_after, []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.trainer, self.draws = trainer, True
        self.budget.affords = lambda times=1: trainer.global_step >= self.rich_after

    def draw(self, trainer: L.Trainer) -> None:
        self.drawn += [(snapshot.updates, trainer.global_step) for snapshot in self.waiting]
        self.waiting = []


def drawn(rich_after: int) -> list[tuple[int, int]]:
    diary = Diary(rich_after)
    fit("data=iris", *COMMON, "trainer.max_steps=130", callbacks=[diary])
    diary.finish(diary.trainer)
    return diary.drawn


def test_moments_wait_in_their_order_until_there_is_time() -> None:
    assert drawn(rich_after=40) == [(1, 50), (10, 50), (50, 50), (100, 100), (130, 130)]


def test_at_the_end_all_powers_of_ten_are_drawn_if_there_is_time_and_else_two_moments() -> None:
    assert drawn(rich_after=125) == [(each, 130) for each in (1, 10, 100, 130)]
    assert drawn(rich_after=999) == [(1, 130), (130, 130)]


def test_who_has_time_draws_at_once() -> None:
    assert drawn(rich_after=0) == [(each, each) for each in (1, 2, 5, 10, 20, 50, 100, 130)]


def test_moments_are_1_2_5_in_every_power_of_ten() -> None:
    moments, updates = [], 0
    while updates < 10_000:
        updates = next_picture(updates)
        moments.append(updates)
    assert moments == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]


def test_the_first_pictures_wait_until_their_share_is_there() -> None:
    now = 0.0
    budget = TimeBudget(0.1, lambda: now, expected=2.0)
    now = 19.0
    assert not budget.affords()
    now = 21.0
    assert budget.affords()
    assert not budget.affords(2)


@pytest.mark.filterwarnings("ignore:the split is a plain shuffle.* a split of size 1")
def test_one_validation_example_is_drawn(train: Train) -> None:
    answer = train(
        *("data=iris", "data.validation=0.001", "trainer.max_epochs=1", "dashboard=lite")
    )
    assert answer.code == 0, answer.err

"""When the pictures are drawn, where they go, and which of them fit the data."""

from pathlib import Path

import events
import numpy as np
import pytest
from conftest import composed
from PIL import Image

from handgrad.dashboard.album import Album, next_picture
from handgrad.dashboard.allowance import Allowance
from handgrad.launch import Job, run_task

COMMON = (
    *("trainer.enable_progress_bar=false", "check.at_start=false", "trainer.max_epochs=-1"),
    *("callbacks.checkpoint.monitor=cost/train", "callbacks.checkpoint.mode=min"),
    *("trainer.max_steps=23", "model.hidden=4", "trainer.log_every_n_steps=50"),
)
EVERYWHERE = {"hinton", "saturation", "slopes", "confusion", "hardest"}
FITTING = {
    "moons": EVERYWHERE | {"boundary", "hidden_units"},
    "digits": EVERYWHERE | {"tiles"},
    "iris": EVERYWHERE,
}


def train(folder: Path, *overrides: str) -> Path:
    run_task(Job(composed(*COMMON, *overrides), [], folder))
    return folder


@pytest.mark.parametrize("data", FITTING)
def test_every_picture_that_fits_the_data_is_drawn_at_1_2_5_10_20_and_the_end(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path, f"data={data}", "dashboard.save_png=true")
    held = events.read(folder)
    wanted = {f"pictures/{name}" for name in FITTING[data]}
    assert {*held.Tags()["images"]} == wanted | {"check/error_versus_h"}
    for tag in wanted:
        assert [image.step for image in held.Images(tag)] == [1, 2, 5, 10, 20, 23]
    assert [image.step for image in held.Images("check/error_versus_h")] == [23]
    kept = {path.name for path in (folder / "pictures").iterdir()}
    steps = ("0000001", "0000002", "0000005", "0000010", "0000020", "0000023")
    names = {f"{name}_{step}.png" for name in FITTING[data] for step in steps}
    assert kept == names | {"error_versus_h_0000023.png"}


def test_the_png_is_the_picture_in_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path, "data=iris", "dashboard.save_png=true", "trainer.max_steps=1")
    shown = events.read(folder).Images("pictures/hinton")[0]
    (tmp_path / "shown.png").write_bytes(shown.encoded_image_string)
    with (
        Image.open(tmp_path / "shown.png") as one,
        Image.open(folder / "pictures" / "hinton_0000001.png") as other,
    ):
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_without_time_only_the_end_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path, "data=iris", "dashboard.share=0.0")
    assert [image.step for image in events.read(folder).Images("pictures/hinton")] == [23]
    assert not (folder / "pictures").exists()


def test_pictures_do_not_change_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    costs = []
    for name, overrides in {"off": ["dashboard=off"], "all": ["dashboard.save_png=true"]}.items():
        (tmp_path / name).mkdir()
        folder = train(tmp_path / name, "data=digits", *overrides)
        costs.append((folder / "metrics.json").read_text().split('"cost/train"')[1].split(",")[0])
    assert costs[0] == costs[1]


def test_moments_are_1_2_5_in_every_power_of_ten() -> None:
    moments, updates = [], 0
    while updates < 10_000:
        updates = next_picture(updates)
        moments.append(updates)
    assert moments == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]


def test_the_first_pictures_wait_until_their_share_is_there() -> None:
    now = 0.0
    allowance = Allowance(0.1, lambda: now, expected=2.0)
    now = 19.0
    assert not allowance.affords()
    now = 21.0
    assert allowance.affords()


def test_who_keeps_pictures_gets_all(tmp_path: Path) -> None:
    assert Album(None, 0.05, tmp_path).share == float("inf")  # pyright: ignore - needs no data
    assert Album(None, 0.05, None).share < 0.05  # pyright: ignore

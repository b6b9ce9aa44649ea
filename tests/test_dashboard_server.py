"""What TensorBoard itself serves of our runs, asked by HTTP."""

import csv
import io
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board
import events
import numpy as np
import pytest
from conftest import Train, composed
from matplotlib.colors import to_rgb
from PIL import Image

from handgrad.dashboard import hparams, sections
from handgrad.dashboard import sections as printed
from handgrad.dashboard.pictures.canvas import NEGATIVE, POSITIVE
from handgrad.devices.launch import Job, run_task
from handgrad.tasks import cli

COMMON = (
    *("data=iris", "model.hidden=5", "trainer.max_epochs=6", "trainer.log_every_n_steps=7"),
    *("check.checksum_every_n_updates=20", "trainer.enable_progress_bar=false"),
    *("check.at_start=false", "dashboard.share=0.99"),
)
RUNS = {"momentum": ("optimizer=momentum",), "sgd": ("optimizer.lr=0.2", "dashboard=deep")}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose configurations have different keys."""
    folder = tmp_path_factory.mktemp("work") / "logs"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        for name, overrides in RUNS.items():
            (folder / name).mkdir(parents=True)
            run_task(Job(cli.run_task, composed(*COMMON, *overrides), [], folder / name))
    return folder


@pytest.fixture(scope="module", params=["false", "true"], ids=["python", "rust"])
def address(request: pytest.FixtureRequest, logs: Path) -> Iterator[str]:
    """A TensorBoard over the runs, with its Python reader or the Rust one that most get."""
    with board.served(logs, "--load_fast", request.param, "--reload_interval", "1") as url:
        yield url


@pytest.fixture(scope="module")
def ask(address: str) -> Ask:
    """Asks TensorBoard, which has read all runs."""
    return asker(address, len(RUNS))


def asker(address: str, runs: int) -> Ask:
    """Asks a TensorBoard, which has read so many runs."""

    def asked(path: str, **body: Any) -> Any:
        asking = urllib.request.Request(f"{address}{path}")
        if body:
            asking.data = json.dumps(body).encode()
            asking.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(asking, timeout=60) as answer:
            content, kind = answer.read(), answer.headers.get_content_type()
        if kind.startswith("image/"):
            return content
        return json.loads(content) if kind == "application/json" else content.decode()

    deadline = time.monotonic() + 60
    while len(asked("/data/runs")) < runs or not asked("/data/plugin/text/tags"):
        assert time.monotonic() < deadline, "TensorBoard has read nothing"
        time.sleep(0.1)
    time.sleep(0.5)  # the last file of each run
    return asked


def test_runs_have_short_names(ask: Ask) -> None:
    assert sorted(ask("/data/runs")) == sorted(RUNS)


def test_descriptions_arrive_as_html_with_the_equation(ask: Ask) -> None:
    served = ask("/data/plugin/timeseries/tags")["scalars"]["tagDescriptions"]
    assert "<code>dz1 = W2^T dz2 * sigma'(z1)</code>" in served["backward/log10_dz1"]
    shown = ask("/data/plugin/scalars/tags")["sgd"]
    assert set(shown) <= {*sections.DESCRIPTIONS}
    assert all(info["description"] for info in shown.values())


def test_the_layout_has_the_sections_and_bands(ask: Ask) -> None:
    served = ask("/data/plugin/custom_scalars/layout")
    assert [each["title"] for each in served["category"]] == [*sections.SECTIONS]
    bands = [
        chart["margin"]["series"][0]
        for category in served["category"]
        for chart in category["chart"]
        if "margin" in chart
    ]
    assert {
        "value": "noise/example_norm_q50",
        "lower": "noise/example_norm_q10",
        "upper": "noise/example_norm_q90",
    } in bands
    for series in bands:
        for tag in series.values():
            points = ask(f"/data/plugin/scalars/scalars?run=sgd&tag={tag}")
            assert len(points) >= 8


def experiment(ask: Ask) -> dict:
    path = "/experiment/defaultExperimentId/data/plugin/hparams/experiment"
    return ask(path, experimentName="", includeMetrics=True)


def groups(ask: Ask) -> dict[str, dict]:
    path = "/experiment/defaultExperimentId/data/plugin/hparams/session_groups"
    allowed = [f"STATUS_{s}" for s in ("SUCCESS", "UNKNOWN", "RUNNING", "FAILURE")]
    wanted = [{"hparam": key, "includeInResult": True} for key in hparams.COLUMNS]
    served = ask(
        path,
        experimentName="",
        startIndex=0,
        sliceSize=10,
        allowedStatuses=allowed,
        colParams=wanted,
    )
    return {each["sessions"][0]["name"]: each for each in served["sessionGroups"]}


def test_hparams_has_the_columns_of_both_runs(ask: Ask) -> None:
    served = experiment(ask)
    types = {info["name"]: info["type"] for info in served["hparamInfos"]}
    assert types == {
        key: "DATA_TYPE_FLOAT64" if number else "DATA_TYPE_STRING"
        for key, number in hparams.COLUMNS.items()
    }
    assert {info["name"]["tag"] for info in served["metricInfos"]} == {*hparams.METRICS}


def test_hparams_shows_each_runs_own_values(ask: Ask) -> None:
    found = groups(ask)
    assert found.keys() == RUNS.keys()
    momentum, sgd = found["momentum"]["hparams"], found["sgd"]["hparams"]
    assert momentum["optimizer.momentum"] == 0.9
    assert sgd.get("optimizer.momentum") is None
    assert sgd["optimizer.lr"] == pytest.approx(0.2)
    assert sgd["data.batch_size"] == 10


def test_hparams_shows_the_final_figures(ask: Ask, logs: Path) -> None:
    for name, group in groups(ask).items():
        session = group["sessions"][0]
        assert session["status"] == "STATUS_SUCCESS"
        shown = {each["name"]["tag"]: each["value"] for each in session["metricValues"]}
        final = json.loads((logs / name / "metrics.json").read_text())
        (*_, last) = ask(f"/data/plugin/scalars/scalars?run={name}&tag=cost/train")
        final["cost/train"] = last[2]  # of the last window; in the file, of the last epoch
        assert shown == pytest.approx({tag: final[tag] for tag in hparams.METRICS}, rel=1e-6)


def test_a_sweep_ends_with_a_table_of_its_runs_and_their_hyperparameters(train: Train) -> None:
    quick = ("data=iris", "trainer.max_epochs=1", "check.at_start=false", "dashboard=lite")
    quiet = ("trainer.enable_progress_bar=false", "hydra.sweep.dir=logs/sizes")
    answer = train("-m", "model.hidden=10,30", "seed=1,2", *quick, *quiet)
    assert answer.code == 0
    with (Path("logs") / "sizes" / "results.csv").open(newline="") as file:
        lines = {line["run"]: line for line in csv.DictReader(file)}
    wanted = {f"hidden-{h}_seed-{s}": (h, s) for h in (10, 30) for s in (1, 2)}
    assert lines.keys() == wanted.keys()
    with board.served(Path("logs") / "sizes") as url:
        found = groups(asker(url, len(wanted)))
    assert found.keys() == wanted.keys()
    for name, (hidden, seed) in wanted.items():
        shown = found[name]["hparams"]
        assert (shown["model.hidden"], shown["seed"]) == (hidden, seed)
        (session,) = found[name]["sessions"]
        figures = {each["name"]["tag"]: each["value"] for each in session["metricValues"]}
        for tag in ("accuracy/val", "cost/val", "accuracy/test"):
            assert figures[tag] == pytest.approx(float(lines[name][tag]), rel=1e-4), tag


def test_texts_histograms_curves_and_the_graph_are_served(ask: Ask) -> None:
    texts = ask("/data/plugin/text/tags")["sgd"]
    names = {f"{name}/text_summary" for name in events.TEXTS}
    assert names <= {*texts}
    (equations,) = ask("/data/plugin/text/text?run=sgd&tag=about/equations/text_summary")
    assert "<table>" in equations["text"]
    assert "dW1 = dz1.T @ X / m" in equations["text"]
    histograms = ask("/data/plugin/histograms/tags")["sgd"]
    assert {"parameters/W1", "gradients/dz1", "activations/A1"} <= {*histograms}
    assert len(ask("/data/plugin/histograms/histograms?run=sgd&tag=gradients/dW1")) >= 6
    assert "precision_recall/setosa" in ask("/data/plugin/pr_curves/tags")["sgd"]
    assert "dz1" in ask("/data/plugin/graphs/graph?run=sgd&conceptual=false")


@pytest.mark.parametrize("run", RUNS)
def test_pictures_are_served(ask: Ask, run: str) -> None:
    tags = ask("/data/plugin/images/tags")[run]
    assert {"pictures/hinton", "pictures/confusion", "pictures/hardest"} <= {*tags}
    shown = ask(f"/data/plugin/images/images?run={run}&tag=pictures%2Fhinton&sample=0")
    assert shown[-1]["step"] == 60
    served = ask(f"/data/plugin/images/individualImage?{shown[-1]['query']}")
    with Image.open(io.BytesIO(served)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200  # pixels


# What a browser makes of it.

once = pytest.mark.parametrize("address", ["true"], indirect=True, ids=["rust"])
seen = pytest.mark.skipif(
    board.browser() is None, reason=f"none of {', '.join(board.BROWSERS)} is installed"
)


def opened(address: str, tab: str) -> str:
    """What train.py prints, at the port of the test and with another tab."""
    _, _, question = printed.url("deep").partition("/?")
    return f"{address}/?{question}".replace("#timeseries", f"#{tab}")


@once
@seen
def test_a_browser_shows_the_pinned_cards_with_curves_of_both_runs(address: str, ask: Ask) -> None:
    page = board.browse(opened(address, "timeseries"), "--dump-dom", size=(1600, 2600))
    pinned = sections.pinned("deep")
    cards = page.split("<scalar-card-component")[1 : len(pinned) + 1]
    found = {
        re.findall(r'title="(\w+/\w+)"', card)[0]: re.findall(r"<path [^>]*stroke: rgb", card)
        for card in cards
    }
    assert [*found] == pinned
    assert {tag: len(curves) for tag, curves in found.items()} == dict.fromkeys(found, len(RUNS))


def colours(address: str, tab: str, folder: Path) -> np.ndarray:
    """The colours of the pixels that a browser shows of a tab, (pixels, 3), in 0..1."""
    board.browse(opened(address, tab), f"--screenshot={folder / 'shot.png'}")
    with Image.open(folder / "shot.png") as shot:
        assert shot.size == (1600, 1200)
        return np.asarray(shot.convert("RGB")).reshape(-1, 3) / 255


def pixels_like(colour: str | tuple[float, ...], shown: np.ndarray) -> int:
    return int((np.abs(shown - to_rgb(colour)).max(axis=1) < 0.03).sum())


@once
@seen
def test_a_browser_shows_the_pictures(address: str, ask: Ask, tmp_path: Path) -> None:
    shown = colours(address, "images", tmp_path)
    assert pixels_like(POSITIVE, shown) > 200
    assert pixels_like(NEGATIVE, shown) > 200


@once
@seen
@pytest.mark.slow
@pytest.mark.parametrize("tab", ["custom_scalars", "hparams", "histograms", "text", "graphs"])
def test_a_browser_shows_every_tab(tab: str, address: str, ask: Ask, tmp_path: Path) -> None:
    shown = colours(address, tab, tmp_path)
    kinds, numbers = np.unique((shown * 255).round().astype(int), axis=0, return_counts=True)
    assert len(kinds) > 50
    assert numbers.max() < 0.97 * len(shown)

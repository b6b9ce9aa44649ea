"""Time an update of this project and of others, and write a table, a CSV file and a figure."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from handgrad.dashboard.pictures.canvas import publish
from handgrad.runs.folder import write_run
from handgrad.tasks import build
from handgrad.tasks.benchmark import report
from handgrad.tasks.benchmark.measure import Contest, Measured, startup

GROWTH = (  # from 64x784-100-10: m, n_h, n_x, N
    *("64x784-100-10", "16x784-100-10", "256x784-100-10", "1024x784-100-10"),
    *("64x784-25-10", "64x784-400-10", "64x196-100-10", "64x3136-100-10", "64x784-100-10:5000"),
)
GROWING = ("trainer", "autograd", "products")
PROCESSES = ("64x784-100-10", "2048x784-1024-10")


def run(config: dict[str, Any], folder: Path) -> None:
    """Measure what benchmark.rows names, and write benchmark.md, benchmark.csv and benchmark.png.

    The results so far are written after each row, so that an interrupted run keeps them.
    """
    console = Console()
    write_run(folder, config)
    measured: list[Measured] = []
    with (
        tempfile.TemporaryDirectory(prefix="handgrad-") as scratch,
        Contest(config, Path(scratch)) as contest,
    ):
        for found in _measurements(config["benchmark"], contest):
            measured += found
            (folder / "benchmark.md").write_text(report.markdown(measured), encoding="utf-8")
            report.write_csv(measured, folder / "benchmark.csv")
            if found:
                console.print(report.table(found, measured), markup=False, soft_wrap=True)
    path = folder / "benchmark.png"
    publish(report.draw(measured), "benchmark/update", build.loggers(config, folder), path)
    print(f"Everything is in {folder}")


def _measurements(settings: dict[str, Any], contest: Contest) -> Iterator[list[Measured]]:
    """Yield the results of each entry of benchmark.rows."""
    names, repeats, seconds = (settings[key] for key in ("contenders", "repeats", "seconds"))
    for row in settings["rows"]:
        if row == "growth":
            for shape in GROWTH:
                yield contest.updates("growth", shape, GROWING, min(repeats, 3), seconds / 2)
        elif row == "processes":
            for shape in PROCESSES:
                two = ("trainer", "two_processes")
                yield contest.updates("processes", shape, two, min(repeats, 2), seconds)
        elif row == "startup":
            sources = HydraConfig.get().runtime.config_sources
            conf = next(source.path for source in sources if source.provider == "main")
            yield startup(Path(conf).parent / "train.py", repeats)
        else:
            yield contest.updates("update", row, names, repeats, seconds)
            yield contest.once("memory", row, names)
            yield contest.once("checkpoint", row, names)

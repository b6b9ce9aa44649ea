"""Fit, then test the best network; leave figures, checkpoints and curves in the run's folder."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from handgrad import build, record, saved
from handgrad.checkpoints import ConfigInCheckpoint
from handgrad.dashboard import address
from handgrad.data.module import ExampleData
from handgrad.drift import DriftCheck
from handgrad.live_check import live_check
from handgrad.module import TwoLayerNetwork
from handgrad.quiet import quiet_lightning


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Train, from the beginning or from `ckpt_path`.

    Raises:
        BadInput: if the data, the rule, the device or the checkpoint are not what they must be.
    """
    quiet_lightning()
    if config["reproducible"] == "bitwise":
        torch.set_num_threads(1)  # the rounding of a product can depend on their number
    data = build.data(config)
    with build.bad_input():
        data.read()
    network = build.network(config, data)
    checkpoint = saved.find(config["ckpt_path"], folder) if config["ckpt_path"] else None
    if checkpoint:
        saved.check_resumable(checkpoint, config, network)
    check = live_check(**config["check"])
    dashboards = build.dashboard(config, folder)
    albums = build.album(config, data, folder)
    callbacks = [
        *dashboards,
        *albums,
        ConfigInCheckpoint(config),
        check,
        DriftCheck(),
        *build.keepers(config, data, folder),
    ]
    trainer = build.trainer(config, folder, extra=callbacks)
    data.horizon = build.horizon(config, trainer)
    if trainer.is_global_zero:
        record.write_run(folder, config)
        record.point_to(folder)
    figures: dict[str, Any] = {}
    try:
        figures = fit_and_test(trainer, network, data, checkpoint)
    finally:
        if trainer.is_global_zero and (figures or check.wrong):
            figures["check/wrong"] = check.wrong
            record.write_json(folder / "metrics.json", figures)
            for dashboard in dashboards:
                dashboard.finish(figures, trainer.global_step)
    for album in albums:
        album.finish(trainer)
    if trainer.is_global_zero:
        show(figures, folder, config["dashboard"]["tier"])


def fit_and_test(
    trainer: L.Trainer, network: TwoLayerNetwork, data: ExampleData, checkpoint: Path | None
) -> dict[str, Any]:
    """Train, test the best network, and give the final figures."""
    start = time.perf_counter()
    trainer.fit(network, datamodule=data, ckpt_path=checkpoint)
    seconds = time.perf_counter() - start
    updates = trainer.global_step
    test_best(trainer, network, data)
    ran = {
        "run/updates": updates,
        "run/fit_seconds": seconds,
        "run/devices": trainer.world_size,
    }
    for logger in trainer.loggers:
        logger.log_metrics(ran, step=updates)
        logger.save()
    return {**dict(sorted(network.published.items())), **ran}


def test_best(trainer: L.Trainer, network: TwoLayerNetwork, data: ExampleData) -> None:
    """Test the best network on the test part; the last one, if none is kept."""
    if len(data.parts["test"]):
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
        trainer.test(network, datamodule=data, ckpt_path=best, verbose=False)


def show(metrics: dict[str, float], folder: Path, tier: str) -> None:
    """The closing table, and how to look further."""
    console = Console()
    table = Table(title=f"{folder.name}", title_justify="left")
    for column in ("", "train", "validation", "test"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("cost", "accuracy"):
        parts = [metrics.get(f"{name}/{part}") for part in ("train", "val", "test")]
        percent = name == "accuracy"
        cells = ["" if v is None else f"{v:.2%}" if percent else f"{v:.4f}" for v in parts]
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"{metrics['run/updates']} updates in {metrics['run/fit_seconds']:.1f} s on "
        f"{metrics['run/devices']} device(s). Everything is in {folder}",
        soft_wrap=True,
    )
    for line in (address.command(folder.parent), address.url(tier)):
        console.print(line, style="bold", soft_wrap=True, markup=False, highlight=False)

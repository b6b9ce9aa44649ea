"""Fit, then test the best network; leave figures, checkpoints and curves in the run's folder."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from handgrad.config.errors import BadInput, Failed
from handgrad.dashboard import sections
from handgrad.dashboard.callback import Dashboard
from handgrad.dashboard.equations import equations
from handgrad.dashboard.pictures.callback import Album
from handgrad.data.examples import listed
from handgrad.data.module import ExampleData
from handgrad.devices import cpu
from handgrad.devices.equal_weights import DriftCheck
from handgrad.devices.lightning import hide_hints
from handgrad.module import TwoLayerNetwork
from handgrad.runs import loading, resume
from handgrad.runs.checkpointing import Resumable
from handgrad.runs.folder import claimed, point_to, probe, write_json, write_run
from handgrad.runs.live_check import LiveCheck
from handgrad.runs.resume import Start, fingerprint_of
from handgrad.tasks import build
from handgrad.training.nonfinite import NonFinite

OVERFLOW = "without overflow"  # in what PyTorch says of a number that a tensor's type cannot hold


class Training(NamedTuple):
    """All that a training is made with."""

    trainer: L.Trainer
    network: TwoLayerNetwork
    data: ExampleData
    start: Start
    check: LiveCheck
    dashboards: list[Dashboard]
    albums: list[Album]


def run(
    config: dict[str, Any], overrides: list[str], folder: Path, *, watchers: Sequence[Callback] = ()
) -> None:
    """Train, from the beginning or from `ckpt_path`.

    Args:
        config: validated.
        overrides: that made it.
        folder: of the run.
        watchers: what else watches the training.

    Raises:
        BadInput: if the data, the rule, the device, the checkpoint or the folder are not what they
            must be.
    """
    hide_hints()
    data = build.data(config)
    with build.bad_input():
        data.read()
    network, made_of = build.network(config, data), fingerprint_of(config, data)
    start = resume.find(config, folder, made_of, network)
    check, dashboards = LiveCheck.from_keys(config["check"]), build.dashboard(config, folder)
    albums = build.album(config, data, folder)
    callbacks = [
        *dashboards,
        *albums,
        Resumable(config, made_of),
        check,
        *watchers,
        DriftCheck(),
        *build.keepers(config, data, folder),
    ]
    trainer = build.trainer(config, folder, extra=callbacks)
    data.horizon = build.horizon(config, trainer)
    plan = data.plan(world_size=trainer.world_size)
    small = not cpu.are_worth_it(plan.rows, *reversed(network.W1.shape))
    alone = cpu.one(small or config["reproducible"] == "bitwise")
    with alone, claimed(folder) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            print(*start.notes, sep="\n", end="\n" if start.notes else "")
        if not start.nothing_left:
            made = Training(trainer, network, data, start, check, dashboards, albums)
            train(made, config, folder)


def train(training: Training, config: dict[str, Any], folder: Path) -> None:
    """Train in a folder that this run has claimed, and leave its files."""
    trainer = training.trainer
    if trainer.is_global_zero:
        probe(folder, room(training.network))
        resume.prepare(training.start, folder, trainer)
        write_run(folder, config)
        point_to(folder)
    figures: dict[str, Any] = {}
    try:
        figures = fit_and_test(trainer, training.network, training.data, training.start.path)
    finally:
        if trainer.is_global_zero and (figures or training.check.wrong):
            figures["check/wrong"] = training.check.wrong
            write_json(folder / "metrics.json", figures)
            for dashboard in training.dashboards:
                dashboard.finish(figures, trainer.global_step)
    for album in training.albums:
        album.finish(trainer)
    if trainer.is_global_zero:
        show(figures, folder, config["dashboard"]["tier"])


def room(network: TwoLayerNetwork) -> int:
    """Bytes of a checkpoint, with an optimizer's two averages of each gradient."""
    return 3 * sum(each.nbytes for each in network.params)


def fit_and_test(
    trainer: L.Trainer, network: TwoLayerNetwork, data: ExampleData, checkpoint: Path | None
) -> dict[str, Any]:
    """Train, test the best network, and give the final figures."""
    start = time.perf_counter()
    try:
        trainer.fit(network, datamodule=data, ckpt_path=checkpoint)
    except NonFinite as error:
        raise explained(error, network, data, Path(trainer.default_root_dir)) from None
    except RuntimeError as error:
        if OVERFLOW not in str(error):
            raise
        raise Failed(too_fast(trainer)) from error
    seconds = time.perf_counter() - start
    updates = trainer.global_step
    test_best(trainer, network, data)
    ran = {
        "run/updates": updates,
        "run/fit_seconds": seconds,
        "run/devices": trainer.world_size,
    }
    if network.updates.settings.on_nonfinite == "skip":
        ran["run/skipped_updates"] = network.updates.skipped
    for logger in trainer.loggers:
        logger.log_metrics(ran, step=updates)
        logger.save()
    return {**dict(sorted(network.published.items())), **ran}


def too_fast(trainer: L.Trainer) -> str:
    """Which factor of a step no weight can be multiplied with, in one line."""
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    after = trainer.global_step
    return (
        f"after update {after}: with a learning rate of {rate:g}, a step has a factor that is "
        "beyond the numbers of the weights; see optimizer and scheduler"
    )


def explained(
    error: NonFinite, network: TwoLayerNetwork, data: ExampleData, folder: Path
) -> Failed:
    """What became not finite, of which examples, and what is left, in one line."""
    lines = {each.name: each.textbook for each in equations(network.hparams["cost"])}
    line = f"{error.line} = {lines[error.line]}" if error.line in lines else error.line
    rows = data.indices["train"]  # of the data as a whole
    batch, culprits = (sorted(rows[each].tolist()) for each in (error.rows, error.culprits))
    of = f" for the examples {listed(culprits)}" if len(culprits) < len(batch) and culprits else ""
    try:
        good, checkpoint, _ = loading.find("last", folder)
        left = f"the last good checkpoint is {good} (update {checkpoint['global_step']})"
    except BadInput:
        left = "there is no checkpoint yet"
    then = "on_nonfinite=skip leaves such updates out"
    if error.in_a_row:
        then = f"{error.in_a_row} updates in a row were left out, as many as an epoch has"
    return Failed(
        f"update {error.update}: the first value that is not finite is in {line}{of}; its batch "
        f"are the examples {listed(batch)} of the data; {left}; {then}"
    )


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
    for line in (sections.command(folder.parent), sections.url(tier)):
        console.print(line, style="bold", soft_wrap=True, markup=False, highlight=False)

"""Fit, then test the best network, and leave figures, checkpoints and curves in the folder."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from handgrad.config.errors import BadInput, Failed, printable
from handgrad.dashboard import equations, sections
from handgrad.data.examples import listed
from handgrad.data.module import ExampleData
from handgrad.devices import cpu
from handgrad.module import TwoLayerNetwork
from handgrad.runs import loading, resume
from handgrad.runs.folder import claimed, probe, write_json, write_run
from handgrad.tasks import build
from handgrad.tasks.build import Training
from handgrad.training.nonfinite import NonFinite

OVERFLOW = "without overflow"  # in PyTorch's message about a number that a tensor cannot hold


def run(
    config: dict[str, Any], overrides: list[str], folder: Path, *, watchers: Sequence[Callback] = ()
) -> None:
    """Train, from the beginning or from `ckpt_path`.

    Args:
        config: validated.
        overrides: that made it.
        folder: of the run.
        watchers: callbacks of the caller.

    Raises:
        BadInput: if the data, the rule, the device, the checkpoint or the folder are not what they
            must be.
    """
    training = build.training(config, folder, watchers=watchers)
    trainer, start = training.trainer, training.start
    plan = training.data.plan(world_size=trainer.world_size)
    small = not cpu.are_worth_sharing(plan.rows, *reversed(training.network.W1.shape))
    alone = cpu.one_thread(small or config["reproducible"] == "bitwise")
    with alone, claimed(folder) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            for note in start.notes:
                print(printable(note))
        if not start.nothing_left:
            _train(training, config, folder)


def _train(training: Training, config: dict[str, Any], folder: Path) -> None:
    """Train in a folder that this run has claimed, and leave its files."""
    trainer, network = training.trainer, training.network
    if trainer.is_global_zero:
        # A checkpoint holds the weights, and an optimizer's two averages of each gradient.
        probe(folder, 3 * sum(each.nbytes for each in network.params))
        resume.prepare(training.start, folder, trainer)
        write_run(folder, config)
    figures: dict[str, Any] = {}
    try:
        figures = fit_and_test(trainer, network, training.data, training.start.hand_to(trainer))
    finally:
        if trainer.is_global_zero and (figures or training.check.wrong):
            figures["check/wrong"] = training.check.wrong
            write_json(folder / "metrics.json", figures)
            if training.dashboard:
                training.dashboard.finish(figures, trainer.global_step)
    if training.pictures:
        training.pictures.finish(trainer)
    if trainer.is_global_zero:
        _show(figures, folder, config["dashboard"]["tier"])


def fit_and_test(
    trainer: L.Trainer, network: TwoLayerNetwork, data: ExampleData, checkpoint: Path | None
) -> dict[str, Any]:
    """Train, test the best network, and return the final figures."""
    start = time.perf_counter()
    try:
        trainer.fit(network, datamodule=data, ckpt_path=checkpoint)
    except NonFinite as error:
        raise _explained(error, network, data, Path(trainer.default_root_dir)) from None
    except RuntimeError as error:
        if OVERFLOW not in str(error):
            raise
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        raise Failed(  # no weight can be multiplied with the factor of this step
            f"after update {trainer.global_step}: with a learning rate of {rate:g}, a step has a "
            "factor that the weights' number format cannot hold; see optimizer and scheduler"
        ) from error
    seconds = time.perf_counter() - start
    updates = trainer.global_step
    if len(data.splits["test"]):
        if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
            network.load_state_dict(loading.load(Path(best))["state_dict"])
        trainer.test(network, datamodule=data, verbose=False)
    ran = {"run/updates": updates, "run/fit_seconds": seconds, "run/devices": trainer.world_size}
    if network.updates.settings.on_nonfinite == "skip":
        ran["run/skipped_updates"] = network.updates.skipped
    for logger in trainer.loggers:
        logger.log_metrics(ran, step=updates)
        logger.save()
    return {**dict(sorted(network.published.items())), **ran}


def _explained(
    error: NonFinite, network: TwoLayerNetwork, data: ExampleData, folder: Path
) -> Failed:
    """Return one line about what became not finite, for which examples, and what is left."""
    lines = {each.name: each.textbook for each in equations.lines(network.hparams["cost"])}
    line = f"{error.line} = {lines[error.line]}" if error.line in lines else error.line
    rows = data.indices["train"]  # of the data as a whole
    batch, culprits = (sorted(rows[each].tolist()) for each in (error.rows, error.culprits))
    of = f" for the examples {listed(culprits)}" if len(culprits) < len(batch) and culprits else ""
    try:
        good, checkpoint, _ = loading.find("last", folder)
        left = f"the last good checkpoint is {good} (update {checkpoint['global_step']})"
    except BadInput:
        left = "there is no checkpoint yet"
    then = "on_nonfinite=skip skips such updates"
    if error.in_a_row:
        then = f"{error.in_a_row} updates in a row were skipped, as many as an epoch has"
    return Failed(
        f"update {error.update}: the first value that is not finite is in {line}{of}; its batch "
        f"is the examples {listed(batch)} of the data; {left}; {then}"
    )


def _show(metrics: dict[str, float], folder: Path, tier: str) -> None:
    """Print the closing table, and how to look further."""
    console = Console()
    table = Table(title=folder.name, title_justify="left")
    for column in ("", "train", "validation", "test"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("cost", "accuracy"):
        values = [metrics.get(f"{name}/{split}") for split in ("train", "val", "test")]
        form = ".2%" if name == "accuracy" else ".4f"
        table.add_row(name, *("" if value is None else f"{value:{form}}" for value in values))
    console.print(table)
    console.print(
        f"{metrics['run/updates']} updates in {metrics['run/fit_seconds']:.1f} s on "
        f"{metrics['run/devices']} device(s). Everything is in {folder}",
        soft_wrap=True,
    )
    for line in (sections.command(folder.parent), sections.url(tier)):
        console.print(line, style="bold", soft_wrap=True, markup=False, highlight=False)

"""Callback that decides when the dashboard measures, and writes what it measured."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore - made late
from torch.utils.tensorboard.summary import custom_scalars, text
from typing_extensions import override

from handgrad.backprop import Gradients, Parameters
from handgrad.dashboard import equations, hparams
from handgrad.dashboard.histograms import EXAMPLES, histogram_summary, precision_recall_summary
from handgrad.dashboard.loggers import EventLog
from handgrad.dashboard.report import Facts, render
from handgrad.dashboard.scalars import ObservedUpdate, Scalars
from handgrad.dashboard.sections import layout
from handgrad.dashboard.time_budget import time_budgets
from handgrad.module import TwoLayerNetwork
from handgrad.training.updates import MicrobatchResult

FLUSH_SECONDS = 1.0  # until TensorBoard sees what was written; each time costs some


class Dashboard(Callback):
    """Writes the quantities of the equations within a share of the training's time.

    Only the first device writes.

    Args:
        tier: "lite", "full" or "deep".
        share: of the training's time, at most.
        folder: of the run, where report.md is written.
        config: the configuration as text.
        hyperparameters: from `hparams.values`.
        checked: whether the gradient is audited on the first batch.
    """

    def __init__(
        self,
        tier: str,
        share: float,
        folder: Path,
        config: str,
        hyperparameters: dict[str, str | float],
        checked: bool,
    ) -> None:
        self.tier, self.share, self.folder = tier, share, folder
        self.config, self.hyperparameters, self.checked = config, hyperparameters, checked
        self.points: dict[str, list[float]] = {}
        self.logs: list[EventLog] = []
        self.failed = False

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:  # also where no update is left to make
            self.plan = trainer.datamodule.plan()  # pyright: ignore[reportAttributeAccessIssue] - ours
            self.logs = [each for each in trainer.loggers if isinstance(each, EventLog)]

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.introduce(trainer, pl_module)
        self.scalars = Scalars(
            self.tier, Parameters(*(p.detach().clone() for p in pl_module.params))
        )
        self.budgets = time_budgets(self.share)
        self.started, self.counted = time.perf_counter(), trainer.global_step
        self.flushed = self.started

    def introduce(self, trainer: L.Trainer, network: TwoLayerNetwork) -> None:
        """Write what holds for the whole run."""
        step = trainer.global_step
        batch = min(self.plan.batch_size, self.plan.examples)
        sizes = {
            "m": batch * self.plan.accumulate,
            "n_x": network.W1.shape[1],
            "n_h": network.W1.shape[0],
            "n_y": network.W2.shape[0],
        }
        cost = network.hparams["cost"]
        resolved = {"data.batch_size": batch, "trainer.devices": trainer.world_size}
        hyperparameters = {**self.hyperparameters, **resolved}
        self.write(custom_scalars(layout(self.tier)), step)
        self.write(hparams.columns(), step)
        self.write(hparams.began(hyperparameters, self.folder), step)
        self.write(text("about/equations", equations.table(cost, sizes)), step)
        self.write(text("config/composed", f"```\n{self.config}\n```"), step)
        for log in self.logs:
            log.write_graph(equations.graph(cost, sizes))

    @override
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        last = trainer.global_step + len(batch.updates)
        due = last == 1 or last % trainer.log_every_n_steps == 0  # pyright: ignore - set late
        pl_module.updates.keeps_before = (
            due and trainer.is_global_zero and self.budgets["scalars"].affords()
        )

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        result, before = pl_module.updates.result, pl_module.updates.before
        if before is None or result is None:  # not due, or this device's shard is empty
            return
        with self.budgets["scalars"].spending():
            update = batch.updates[-1]
            observed = ObservedUpdate(
                before=before,
                after=pl_module.params,
                activations=result.activations,
                gradients=_unscaled(result),
                inputs=result.X,
                targets=result.Y,
                step_gradient=[each.grad for each in pl_module.params if each.grad is not None],
                examples=update.examples,
                learning_rate=trainer.optimizers[0].param_groups[0]["lr"],
                cost=pl_module.cost,
            )
            self.publish(trainer, self.scalars.of(observed) | self.pace(trainer, update.examples))
        if trainer.global_step == 1:
            self.draw_histograms(trainer, pl_module)

    def publish(self, trainer: L.Trainer, figures: dict[str, float]) -> None:
        """Give figures to all loggers, and keep them for the report."""
        for tag, figure in figures.items():
            self.points.setdefault(tag, []).append(figure)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
        if time.perf_counter() - self.flushed > FLUSH_SECONDS:
            for log in self.logs:
                log.save()
            self.flushed = time.perf_counter()

    def pace(self, trainer: L.Trainer, examples: int) -> dict[str, float]:
        """Return the speed of the training, and the share of the time that the dashboard took."""
        now, updates = time.perf_counter(), trainer.global_step
        rate = (updates - self.counted) * examples / (now - self.started)
        self.started, self.counted = now, updates
        spent = sum(each.spent for each in self.budgets.values())
        elapsed = now - self.budgets["scalars"].started
        return {
            "run/epoch": updates / self.plan.updates_per_epoch,
            "run/examples_per_second": rate,
            "run/dashboard_share": spent / elapsed,
        }

    def draw_histograms(self, trainer: L.Trainer, network: TwoLayerNetwork) -> None:
        """Write the histograms where the time allows."""
        result = network.updates.result
        if self.logs and result is not None and self.budgets["histograms"].affords():
            with self.budgets["histograms"].spending():
                drawn = histogram_summary(network.params, result.activations, _unscaled(result))
                self.write(drawn, trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.draw_histograms(trainer, pl_module)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        split = trainer.datamodule.splits["val"]  # pyright: ignore[reportAttributeAccessIssue] - ours
        if not self.logs or not len(split):
            return
        inputs, targets = split.rows(slice(0, EXAMPLES))
        names = trainer.datamodule.known.class_names  # pyright: ignore - ours
        self.write(precision_recall_summary(pl_module(inputs), targets, names), trainer.global_step)

    @override
    def on_exception(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.failed = True
        with suppress(OSError):  # the exception at hand says more
            self.end(trainer.global_step)

    def finish(self, figures: dict[str, Any], updates: int) -> None:
        """Write the report, and the end of the run.

        Args:
            figures: final, as in metrics.json.
            updates: made in all.
        """
        batch = min(self.plan.batch_size, self.plan.examples) * self.plan.accumulate
        said = render(self.folder.name, Facts(figures, self.points, self.checked, batch))
        (self.folder / "report.md").write_text(said)
        self.write(text("about/report", said), updates)
        if not self.failed:
            self.end(updates)

    def end(self, updates: int) -> None:
        """Write whether the run succeeded."""
        self.write(hparams.ended(self.failed), updates)
        for log in self.logs:
            log.save()

    def write(self, summary: Summary, updates: int) -> None:
        """Write a summary to TensorBoard."""
        for log in self.logs:
            log.write(summary, updates)


def _unscaled(result: MicrobatchResult) -> Gradients:
    """Return the gradients without the loss scale of 16-mixed."""
    if result.scale == 1:
        return result.gradients
    return Gradients(*(None if g is None else g / result.scale for g in result.gradients))  # pyright: ignore

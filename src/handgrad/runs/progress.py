"""Progress bar of one line for the whole training, with the newest cost and accuracy."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from typing_extensions import override

SHOWN = {"cost/train": "cost", "accuracy/train": "accuracy", "accuracy/val": "validation"}


class TrainingProgress(ProgressBar):
    """Shows updates, epochs, cost and accuracy while the network trains."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Progress | None = None
        self.task = TaskID(0)

    @override
    def disable(self) -> None:
        self.enabled = False

    @override
    def enable(self) -> None:
        self.enabled = True

    enabled = True

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.enabled:
            return
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            refresh_per_second=4,
        )
        total = self._total_updates(trainer)
        self.task = self.bar.add_task("", total=total, epoch=trainer.current_epoch + 1, figures="")
        self.bar.start()

    def _total_updates(self, trainer: L.Trainer) -> int | None:
        """Return the number of updates of the training, or None if only the clock ends it."""
        plan = trainer.datamodule.plan()  # pyright: ignore[reportAttributeAccessIssue] - ours
        bounds = []
        if trainer.max_epochs and trainer.max_epochs > 0:
            bounds.append(trainer.max_epochs * plan.updates_per_epoch)
        if trainer.max_steps > 0:
            bounds.append(trainer.max_steps)
        return min(bounds, default=None)

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Update the line."""
        if self.bar is None:
            return
        figures: dict[str, float] = trainer.lightning_module.figures  # pyright: ignore
        text = "  ".join(
            f"{label} {figures[name]:.4g}" for name, label in SHOWN.items() if name in figures
        )
        self.bar.update(
            self.task,
            completed=trainer.global_step,
            epoch=trainer.current_epoch + 1,
            figures=text,
        )

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Stop the bar and leave its line on the screen."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

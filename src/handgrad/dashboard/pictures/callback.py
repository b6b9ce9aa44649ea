"""Callback that takes snapshots of a training and draws them when the time allows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.dashboard.pictures.snapshot import Snapshot
from handgrad.dashboard.sections import TIERS
from handgrad.dashboard.time_budget import PARTS, TimeBudget
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork

STEPS = (1, 2, 5)  # in each power of ten
EXPECTED = 1.5  # seconds that the first set of pictures takes, matplotlib's import included


def next_picture(updates: int) -> int:
    """Return the first of 1, 2, 5, 10, 20, 50, ... that is larger than the updates done."""
    power = 10 ** (len(str(updates)) - 1)
    return next(step * power for step in (*STEPS, 10) if step * power > updates)


class PictureCallback(Callback):
    """Draws the network after 1, 2, 5, 10, 20, 50, ... updates, and when the training has ended.

    Drawing takes longer than hundreds of updates. So a snapshot is taken at these updates, which
    costs next to nothing, and drawn as soon as the pictures' share of the time has room. The oldest
    is drawn first, since TensorBoard forgets later pictures when an earlier one comes. Of the
    snapshots that wait the powers of ten stay. Those that still wait when the training has ended
    are drawn then if their share allows. The first and the last are drawn in any case, and so are
    all where PNGs are kept. On several devices the first one draws.

    Args:
        data: that the network trains on.
        tier: "lite", "full" or "deep".
        share: of the training's time that the dashboard may take.
        folder: where PNGs are kept; None: nowhere.
    """

    def __init__(self, data: ExampleData, tier: str, share: float, folder: Path | None) -> None:
        self.data, self.folder = data, folder
        self.more = TIERS.index(tier) >= TIERS.index("full")
        self.share = PARTS["pictures"] * share if folder is None else float("inf")
        self.due = 0
        self.waiting: list[Snapshot] = []
        self.gradient: Tensor | None = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.due, self.drawn_at = next_picture(trainer.global_step), trainer.global_step
        shown = self.folder or any(isinstance(each, TensorBoardLogger) for each in trainer.loggers)
        self.draws = bool(trainer.is_global_zero and shown)
        self.budget = TimeBudget(self.share, expected=EXPECTED)

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        self.gradient = pl_module.W1.grad  # Lightning clears .grad before a validation
        if self.draws and trainer.global_step >= self.due:
            self.due = next_picture(trainer.global_step)
            self.keep(trainer, pl_module)
            if self.budget.affords(len(self.waiting)):
                self.draw(trainer)
            self.waiting = [each for each in self.waiting if str(each.updates).strip("0") == "1"]

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.draws and trainer.global_step > self.drawn_at:
            self.keep(trainer, pl_module)

    def keep(self, trainer: L.Trainer, network: TwoLayerNetwork) -> None:
        """Take a snapshot of the network as it is now."""
        params = Parameters(*(each.detach().clone() for each in network.params))
        gradient = None if self.gradient is None else self.gradient.clone()
        self.waiting.append(
            Snapshot(trainer.global_step, params, gradient, network.cost, self.data.splits)
        )
        self.drawn_at = trainer.global_step

    def draw(self, trainer: L.Trainer) -> None:
        """Draw all waiting snapshots in their order, and measure the time that one takes."""
        from handgrad.dashboard.pictures import gallery  # late: it loads matplotlib

        for snapshot in self.waiting:
            with self.budget.spending():
                pictures = gallery.pictures(snapshot, more=self.more)
                self._publish(trainer, snapshot.updates, pictures)
        self.waiting = []

    def _publish(self, trainer: L.Trainer, updates: int, pictures: Iterable[Any]) -> None:
        """Show pictures in TensorBoard, and save them as PNGs where that is configured."""
        from handgrad.dashboard.pictures import canvas

        for tag, figure in pictures:
            name = f"{tag.split('/')[1]}_{updates:07d}.png"
            path = self.folder / name if self.folder else None
            canvas.publish(figure, tag, trainer.loggers, path, updates)

    def finish(self, trainer: L.Trainer) -> None:
        """Draw the snapshots that still wait when the training has ended."""
        if not self.waiting:
            return
        from handgrad.dashboard.pictures import gallery

        first, last = self.waiting[0], self.waiting[-1]
        if not self.budget.affords(len(self.waiting)):
            self.waiting = [first, last] if last is not first else [last]
        self.draw(trainer)
        if self.more or self.folder:
            self._publish(trainer, last.updates, gallery.numerical_errors(last))

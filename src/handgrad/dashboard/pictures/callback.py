"""The pictures of a training: which moments are kept, when they are drawn, and where they go."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.dashboard.pictures.snapshot import Moment
from handgrad.dashboard.sections import TIERS
from handgrad.dashboard.time_budget import PARTS, Allowance
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork

STEPS = (1, 2, 5)  # in each power of ten
EXPECTED = 1.5  # seconds that the first set of pictures takes, matplotlib's import included


def next_picture(updates: int) -> int:
    """The first of 1, 2, 5, 10, 20, 50, ... that is larger than the updates done."""
    power = 10 ** (len(str(updates)) - 1)
    return next(step * power for step in (*STEPS, 10) if step * power > updates)


class Album(Callback):
    """Draws the network after 1, 2, 5, 10, 20, 50, ... updates, and when the training has ended.

    Drawing takes longer than hundreds of updates. So the network is kept at these moments, which
    costs next to nothing, and drawn as soon as the pictures' share of the time has room: what was
    kept first, since TensorBoard forgets later pictures when an earlier one comes. Of the moments
    that wait the powers of ten stay. What still waits when the training has ended is drawn then if
    its share allows; the first moment and the end are in any case, and so are all where PNGs are
    kept. On several devices the first one draws.

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
        self.waiting: list[Moment] = []
        self.gradient: Tensor | None = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.due, self.drawn_at = next_picture(trainer.global_step), trainer.global_step
        shown = self.folder or any(isinstance(each, TensorBoardLogger) for each in trainer.loggers)
        self.draws = bool(trainer.is_global_zero and shown)
        self.allowance = Allowance(self.share, expected=EXPECTED)

    @override
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        self.gradient = pl_module.W1.grad  # Lightning clears .grad before a validation
        if self.draws and trainer.global_step >= self.due:
            self.due = next_picture(trainer.global_step)
            self.keep(trainer, pl_module)
            if self.allowance.affords(len(self.waiting)):
                self.draw(trainer)
            self.waiting = [each for each in self.waiting if str(each.updates).strip("0") == "1"]

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.draws and trainer.global_step > self.drawn_at:
            self.keep(trainer, pl_module)

    def keep(self, trainer: L.Trainer, network: L.LightningModule) -> None:
        """Keep the network as it is now, until it is drawn."""
        assert isinstance(network, TwoLayerNetwork)
        params = Parameters(*(each.detach().clone() for each in network.params))
        gradient = None if self.gradient is None else self.gradient.clone()
        self.waiting.append(Moment(trainer.global_step, params, gradient, network.cost))
        self.drawn_at = trainer.global_step

    def draw(self, trainer: L.Trainer) -> None:
        """Draw all moments that wait, in their order, and measure the time that one takes."""
        from handgrad.dashboard.pictures import (
            gallery,  # loads matplotlib, which other tasks need not
        )

        for moment in self.waiting:
            with self.allowance.spending():
                scene = gallery.capture(moment, self.data)
                self.publish(trainer, moment, gallery.pictures(scene, more=self.more))
        self.waiting = []

    def publish(self, trainer: L.Trainer, moment: Moment, pictures: Iterable[Any]) -> None:
        """Show the pictures of a moment in TensorBoard, and keep them where they are to be kept."""
        from handgrad.dashboard.pictures import gallery

        for tag, figure in pictures:
            name = f"{tag.split('/')[1]}_{moment.updates:07d}.png"
            path = self.folder / name if self.folder else None
            gallery.publish(figure, tag, trainer.loggers, path, moment.updates)

    def finish(self, trainer: L.Trainer) -> None:
        """Draw what still waits when the training has ended."""
        if not self.waiting:
            return
        from handgrad.dashboard.pictures import gallery

        first, last = self.waiting[0], self.waiting[-1]
        if not self.allowance.affords(len(self.waiting)):
            self.waiting = [first, last] if last is not first else [last]
        self.draw(trainer)
        if self.more or self.folder:
            scene = gallery.capture(last, self.data)
            self.publish(trainer, last, gallery.numerical(scene))

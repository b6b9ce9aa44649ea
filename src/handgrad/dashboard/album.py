"""The pictures of a training: when they are drawn, and where they go."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from handgrad.dashboard.allowance import PARTS, Allowance
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork

STEPS = (1, 2, 5)  # in each power of ten
EXPECTED = 1.0  # seconds that the first set of pictures takes, matplotlib's import included


def next_picture(updates: int) -> int:
    """The first of 1, 2, 5, 10, 20, 50, ... that is larger than the updates done."""
    power = 10 ** (len(str(updates)) - 1)
    return next(step * power for step in (*STEPS, 10) if step * power > updates)


class Album(Callback):
    """Draws the network after 1, 2, 5, 10, 20, 50, ... updates, and when the training ends.

    A moment is left out when drawing it would take the pictures over their share of the time; none
    is where they are kept as PNGs. The pictures of the end are drawn in any case. On several
    devices the first one draws.

    Args:
        data: that the network trains on.
        share: of the training's time that the dashboard may take.
        folder: where PNGs are kept; None: nowhere.
    """

    def __init__(self, data: ExampleData, share: float, folder: Path | None) -> None:
        self.data, self.folder = data, folder
        self.share = PARTS["pictures"] * share if folder is None else float("inf")
        self.due = self.drawn_at = 0
        self.gradient: Tensor | None = None

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.due, self.drawn_at = next_picture(trainer.global_step), trainer.global_step
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
        if trainer.global_step >= self.due:
            self.due = next_picture(trainer.global_step)
            if self.allowance.affords():
                self.draw(trainer, pl_module)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self.drawn_at:
            self.draw(trainer, pl_module)
        if self.allowance.affords():
            self.draw(trainer, pl_module, numerical=True)

    def draw(
        self, trainer: L.Trainer, network: L.LightningModule, *, numerical: bool = False
    ) -> None:
        """Draw every picture that fits the data, and measure the time that it takes.

        Args:
            trainer: with its loggers.
            network: that trains.
            numerical: whether to draw the errors of the numerical derivatives instead.
        """
        shown = self.folder or any(isinstance(each, TensorBoardLogger) for each in trainer.loggers)
        if not (trainer.is_global_zero and shown):
            return
        from handgrad.dashboard import gallery  # loads matplotlib, which other tasks need not

        assert isinstance(network, TwoLayerNetwork)
        self.drawn_at = trainer.global_step
        with self.allowance.spending():
            scene = gallery.capture(network, self.data, self.gradient)
            drawn = gallery.numerical(scene, network.cost) if numerical else gallery.pictures(scene)
            for tag, figure in drawn:
                name = f"{tag.split('/')[1]}_{self.drawn_at:07d}.png"
                path = self.folder / name if self.folder else None
                gallery.publish(figure, tag, trainer.loggers, path, self.drawn_at)

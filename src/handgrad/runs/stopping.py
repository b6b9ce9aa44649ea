"""How a signal stops a training: between two updates, on all devices alike, with last.ckpt kept."""

import sys
from signal import Signals
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from handgrad.devices import signals
from handgrad.module import TwoLayerNetwork
from handgrad.runs.checkpointing import LastCheckpoint


def agreed(trainer: L.Trainer) -> int:
    """The signal that any device received, on all devices alike; 0 for none."""
    if trainer.world_size == 1:
        return signals.received()
    asked = torch.tensor(signals.received(), device=trainer.strategy.root_device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return int(asked)


class SignalStop(Checkpoint):
    """Stops the training on a signal.

    One process stops after the update under way, several after the block under way, or where the
    last block of an epoch is done, after what ends the epoch: there the state is one from which the
    run goes on as if it had never stopped.

    Args:
        last: writes that state; comes before this one.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        signals.hold()
        if trainer.world_size == 1:
            pl_module.updates.is_asked_to_stop = lambda: signals.received() > 0

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        number = agreed(trainer)
        if not number:
            return
        plan = trainer.datamodule.plan()  # pyright: ignore[reportAttributeAccessIssue] - ours
        if trainer.global_step % plan.updates_per_epoch:
            # What remains of a block that was left early is not in it, nor is the epoch at its end.
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
            self.stop(trainer, number)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if number := agreed(trainer):
            self.stop(trainer, number)

    def stop(self, trainer: L.Trainer, number: int) -> None:
        """Keep the present state, and leave with the signal's exit code."""
        self.last.save(trainer)
        if trainer.is_global_zero:
            folder = self.last.path.parent.parent
            print(
                f"stopped by {Signals(number).name} after update {trainer.global_step}; go on with "
                f"ckpt_path=last hydra.run.dir={folder}",
                file=sys.stderr,
            )
        sys.exit(128 + number)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        signals.release()
        signals.leave_if_asked()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        signals.release()

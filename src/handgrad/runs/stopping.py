"""Stopping on a signal: between two updates, on all devices alike, with last.ckpt saved."""

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
from handgrad.runs.checkpointing import LastCheckpoint, is_validated
from handgrad.runs.folder import to_continue


def _agreed_signal(trainer: L.Trainer) -> int:
    """Return the signal that any device received, the same on all devices, or 0."""
    if trainer.world_size == 1:
        return signals.STATE.received
    asked = torch.tensor(signals.STATE.received, device=trainer.strategy.root_device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return int(asked)


class SignalStop(Checkpoint):
    """Stops the training on a signal, in a state from which it can be resumed without a trace.

    A single process stops after the current update, and several stop after the current block. After
    the last block of an epoch they stop after everything that ends the epoch.

    Args:
        last: saves that state; a callback that precedes this one.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        signals.STATE.held = True
        if trainer.world_size == 1:
            pl_module.updates.is_asked_to_stop = lambda: signals.STATE.received > 0

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        number = _agreed_signal(trainer)
        if not number:
            return
        plan = trainer.datamodule.plan()  # pyright: ignore[reportAttributeAccessIssue] - ours
        if trainer.global_step % plan.updates_per_epoch:
            # A block that was left early was not all of it, and the epoch is not over.
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
            if not is_validated(trainer):
                self._stop(trainer, number)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the epoch's end is still to come
        if number := _agreed_signal(trainer):
            self._stop(trainer, number)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if number := _agreed_signal(trainer):
            self._stop(trainer, number)

    def _stop(self, trainer: L.Trainer, number: int) -> None:
        """Save the present state, and exit with the signal's exit code."""
        self.last.save(trainer)
        if trainer.is_global_zero:
            way = to_continue(self.last.path.parent.parent)
            print(
                f"stopped by {Signals(number).name} after update {trainer.global_step}; "
                f"continue with {way}",
                file=sys.stderr,
            )
        # The signal may yet be passed on to this device, and must not interrupt its exit.
        signals.STATE.received = signals.STATE.received or number
        sys.exit(128 + number)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        signals.STATE.held = False
        signals.leave_if_asked()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        signals.STATE.held = False

"""Checkpoints of a run: the best state, the last one and the one before it, and what they contain.

A state is saved between two updates, or after everything that ends an epoch: validation, the
scheduler's step, the figures. From there a run continues as if it had never stopped.

A resumed training takes its weights, the optimizer's averages of gradients and the place in the
schedule from the checkpoint. Its settings are those of the command line: the same ones, or such as
`on_change=accept` allows.
"""

import random
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer
from typing_extensions import override

from handgrad.config.errors import Failed, expect
from handgrad.config.schema import BY_TARGET
from handgrad.module import TwoLayerNetwork
from handgrad.runs.checkpoint_content import set_generators
from handgrad.runs.folder import point_to

SECONDS = 1.0  # at least, between two saves at the end of an epoch
SHARE = 0.01  # of the time, which these saves may take
PLACE_IN_SCHEDULE = (  # what a schedule takes from a checkpoint; the rest are its settings
    *("last_epoch", "_last_lr", "_step_count", "base_lrs"),
    *("best", "num_bad_epochs", "cooldown_counter"),
)


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, the state with the best monitored figure, and on a tie the earlier one.

    Args:
        folder: where it is written.
        monitor: the figure, such as accuracy/val.
        mode: "max" or "min".
        every_n_epochs: how often the figure is new; None where it changes within an epoch.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, every_n_epochs: int | None) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=every_n_epochs is not None,
        )
        self.has_best = False

    @property
    def path(self) -> Path:
        """Path of the file, which is in the first device's folder once a training is set up."""
        return Path(str(self.dirpath), "best.ckpt")

    @override
    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Save nothing where a training ends before its first validation, without the figure.

        Raises:
            FileNotFoundError: if the best state so far is gone.
        """
        if self.best_model_path and trainer.is_global_zero:
            expect(self.path)
        if self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    @override
    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Learn from the first device whether `resume.prepare` left the best state so far."""
        self.has_best = trainer.strategy.broadcast(self.path.is_file())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with this run's own best.ckpt, whatever paths the state contains."""
        if self.has_best:
            mine, score = str(self.path), state_dict["best_model_score"]
            here = {"dirpath": self.dirpath, "best_model_path": mine, "kth_best_model_path": mine}
            super().load_state_dict({**state_dict, **here, "best_k_models": {mine: score}})
            self.current_score = state_dict["current_score"]


def is_validated(trainer: L.Trainer) -> bool:
    """Return whether a validation follows the block that was just trained on."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None, "the loop has begun"
    return loop._should_check_val_fx(fetcher)


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, the newest state, and previous.ckpt, the one before it.

    At the end of training, last.ckpt is the state after the last update. This is a `Checkpoint`
    because Lightning calls those after the network's own hooks: a state that is saved at the end
    of an epoch contains the scheduler's step of that epoch.

    Args:
        folder: where they are written.
        every_n_updates: how often; None for after every epoch, but on one device at most once a
            second, and so rarely that saving takes a hundredth of the time: a kill then loses
            little work.
    """

    def __init__(self, folder: Path, every_n_updates: int | None) -> None:
        self.path, self.previous = folder / "last.ckpt", folder / "previous.ckpt"
        self.every_n_updates = every_n_updates
        self.saved_at, self.saved_when, self.pause = -1, time.monotonic(), SECONDS

    def save(self, trainer: L.Trainer) -> None:
        """Save the present state, unless it is saved already."""
        if trainer.global_step != self.saved_at and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self.saved_at, start = trainer.global_step, time.monotonic()
            trainer.save_checkpoint(self.path, storage_options=self.previous)
            self.saved_when = time.monotonic()
            self.pause = max(SECONDS, (self.saved_when - start) / SHARE)

    def _due(self, trainer: L.Trainer) -> bool:
        """Return whether the number of updates asks for a save, or at an epoch's end the clock."""
        if self.every_n_updates:
            return trainer.global_step % self.every_n_updates == 0
        return trainer.world_size > 1 or time.monotonic() - self.saved_when >= self.pause

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.saved_at = trainer.global_step  # which is 0, or that of the file just read

    @override
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if not (trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or is_validated(trainer)):
            self._save_within_epoch(trainer)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.saved_at = -1  # what the validation found is part of the state
        if not (
            trainer.sanity_checking or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        ):
            self._save_within_epoch(trainer)

    def _save_within_epoch(self, trainer: L.Trainer) -> None:
        """Save a state that is due, or the last one: such a training has no epoch's end."""
        due = self.every_n_updates and self._due(trainer)
        if due or trainer.fit_loop.epoch_loop.done:
            self.save(trainer)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._due(trainer):
            self.save(trainer)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.save(trainer)


class Patience(EarlyStopping):
    """Ends the training when a figure stops improving, also if it is resumed after that."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience

    @override
    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        """Check nothing where a training ends before its first validation, without the figure."""
        if self.monitor in trainer.callback_metrics:
            super()._run_early_stopping_check(trainer)


class Resumable(Callback):
    """Adds to every checkpoint what resuming from it needs, and refuses to save a bad state.

    Args:
        config: validated, in plain containers.
        fingerprint: of the training.
    """

    def __init__(self, config: dict[str, Any], fingerprint: dict[str, Any]) -> None:
        self.config, self.fingerprint = config, fingerprint

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let `.latest` lead to this run, now that every device has read where it led."""
        if stage == "fit" and trainer.is_global_zero:
            point_to(Path(trainer.default_root_dir))

    @override
    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration, what was gathered, and every device's random state.

        Called on every device.

        Raises:
            Failed: on every device alike, if a weight is not finite.
        """
        for name, weights in checkpoint["state_dict"].items():
            if not bool(weights.isfinite().all()):
                raise Failed(f"{name} is not finite after update {trainer.global_step}: not saved")
        for logger in trainer.loggers:
            logger.save()  # a run resumed from here does not write these points again
        assert isinstance(pl_module, TwoLayerNetwork)
        checkpoint["config"], checkpoint["fingerprint"] = self.config, self.fingerprint
        checkpoint["gathered"] = pl_module.gathered()
        checkpoint["random_states"] = _from_all_devices(_random_state())

    @override
    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        if trainer.state.fn != TrainerFn.FITTING:
            return
        pl_module.go_on_gathering(checkpoint["gathered"])
        _take_settings(checkpoint, self.config, pl_module.configure_optimizers())
        states = checkpoint["random_states"]
        if trainer.global_rank < len(states):
            _set_random_state(states[trainer.global_rank])


def _take_settings(checkpoint: dict[str, Any], config: dict[str, Any], made: Any) -> None:
    """Give this run's settings to a checkpoint's states of optimizer and scheduler.

    A new learning rate holds at its place in the schedule. A new kind of schedule begins anew.

    Args:
        checkpoint: as it was read; changed in place.
        config: of this run.
        made: of this run, an optimizer that has not stepped, in a dict where it has a schedule.
    """
    optimizer: Optimizer = made["optimizer"] if isinstance(made, dict) else made
    was = checkpoint["config"]
    factor = config["optimizer"]["lr"] / was["optimizer"]["lr"]
    goes_on = was["scheduler"]["_target_"] == config["scheduler"]["_target_"]
    (state,) = checkpoint["optimizer_states"]
    kept = state["param_groups"][0] if goes_on else {}
    rates = {key: factor * kept[key] for key in ("lr", "initial_lr") if key in kept}
    state["param_groups"] = [{**group, **rates} for group in optimizer.state_dict()["param_groups"]]
    for each in state["state"].values():
        each.pop("al", None)  # which L-BFGS computes anew, in the length of its history
    if not goes_on:
        checkpoint["lr_schedulers"] = []
    for schedule in checkpoint["lr_schedulers"]:
        ours = made["lr_scheduler"]["scheduler"].state_dict()
        if config["scheduler"]["_target_"] in BY_TARGET["scheduler"]:
            schedule |= {key: each for key, each in ours.items() if key not in PLACE_IN_SCHEDULE}
        for name in {"base_lrs", "_last_lr"} & schedule.keys():  # one for each group of this run
            schedule[name] = [factor * schedule[name][0]] * len(state["param_groups"])


def _random_state() -> dict[str, Any]:
    """Return the state of every generator that a user's own rule may draw from, as containers."""
    kind, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],  # pyright: ignore[reportAttributeAccessIssue]
        "python": [version, torch.tensor(internal), gauss],  # 625 numbers: slow one by one
    }


def _set_random_state(state: dict[str, Any]) -> None:
    """Set every generator to a state that `_random_state` returned."""
    set_generators(state, torch.default_generator, np.random, random)
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _from_all_devices(mine: Any) -> list[Any]:
    """Return the objects of all devices, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found

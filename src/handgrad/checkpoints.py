"""Which states of a run are kept: the best one and the last one."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt, the state with the best monitored figure; the earlier one on a tie.

    Args:
        folder: where it is written.
        monitor: the figure, such as accuracy/val.
        mode: "max" or "min".
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.path = Path(str(self.dirpath), "best.ckpt")

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue another run: its best state, where it is still there, comes along."""
        theirs = Path(state_dict["best_model_path"])
        if not theirs.is_file():
            return
        if rank_zero_only.rank == 0 and theirs != self.path:  # pyright: ignore[reportFunctionMemberAccess]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(theirs, self.path)
        mine, score = str(self.path), state_dict["best_model_score"]
        here = {"dirpath": self.dirpath, "best_model_path": mine, "kth_best_model_path": mine}
        super().load_state_dict({**state_dict, **here, "best_k_models": {mine: score}})


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, the newest state; at the end of training, the state after the last update.

    It is a `Checkpoint` because Lightning calls those after the network's own hooks: what it writes
    at the end of an epoch has the scheduler's step of that epoch in it.

    Args:
        folder: where it is written.
        every_n_updates: how often it is written; None for after every epoch.
    """

    def __init__(self, folder: Path, every_n_updates: int | None) -> None:
        self.path, self.every_n_updates = folder / "last.ckpt", every_n_updates
        self.saved_at = -1

    def save(self, trainer: L.Trainer) -> None:
        """Write the present state, unless it is written already."""
        if trainer.global_step != self.saved_at and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(self.path)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_updates and trainer.global_step % self.every_n_updates == 0:
            self.save(trainer)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.every_n_updates:
            self.save(trainer)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.save(trainer)


class ConfigInCheckpoint(Callback):
    """Puts the configuration into every checkpoint, in plain containers.

    Args:
        config: validated.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    @override
    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config

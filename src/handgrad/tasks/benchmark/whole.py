"""Contenders as users run them: task=train with everything on, on one process and on two."""

import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.devices import launch
from handgrad.runs.checkpointing import Resumable
from handgrad.runs.live_check import LiveCheck
from handgrad.runs.resume import fingerprint_of
from handgrad.tasks import build, train
from handgrad.tasks.benchmark.workload import PROFILED_UPDATES, Contender, Timing, allocations

CHECKPOINTS = 7  # written; the median counts


class AsUsersRunIt(Contender):
    """task=train with logger, progress bar, checkpoints and live check, timed by its fit."""

    devices: ClassVar[int] = 1

    @override
    def run(self, updates: int) -> Timing:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            job = launch.Job(train.run, self._training(self.work.path, updates), [], folder)
            launch.run(job, parallel_launcher=False)
            metrics = json.loads((folder / "metrics.json").read_text())
            last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        weights = Parameters(*(last["state_dict"][name] for name in Parameters._fields))
        return Timing(metrics["run/fit_seconds"], weights)

    def _training(self, path: Path, updates: int) -> dict[str, Any]:
        """Return the benchmark's configuration as one of task=train on the data at `path`."""
        work, config = self.work, self.work.config
        kept = {key: value for key, value in config.items() if key != "benchmark"}
        checkpoint = {**config["callbacks"]["checkpoint"], "monitor": "cost/train", "mode": "min"}
        trainer = {**config["trainer"], "devices": self.devices}
        return {
            **kept,
            "task": "train",
            "data": {
                "_target_": "handgrad.data.arrays.Arrays",
                "path": str(path),
                "batch_size": "full" if work.shape.full else work.shape.batch_size,
                "microbatch": "auto",
                "passes_per_epoch": work.plan.passes,
                "scale": "none",
                "validation": 0.0,
                "test": 0.0,
            },
            "optimizer": {**config["optimizer"], "lr": work.learning_rate},
            "model": {**config["model"], "hidden": work.shape.hidden_features},
            "callbacks": {**config["callbacks"], "checkpoint": checkpoint},
            "trainer": {**trainer, "max_epochs": -1, "max_steps": updates},
        }

    def _fitted(self, folder: Path, extra: list[Callback]) -> L.Trainer:
        """Return a Trainer after a few updates on the first batch alone, without a logger."""
        inputs, targets = next(self.work.batches(1))
        path = folder / "batch.npz"
        np.savez(path, X=inputs.numpy(), y=targets.numpy().astype(np.int8))
        config = {**self._training(path, PROFILED_UPDATES), "logger": {}}
        config["data"]["batch_size"] = "full"
        data = build.data(config).read()
        network = build.network(config, data)
        callbacks = [
            Resumable(config, fingerprint_of(config, data)),
            LiveCheck.from_keys(config["check"]),
            *extra,
        ]
        trainer = build.trainer(config, folder, extra=callbacks)
        data.horizon = build.horizon(config, trainer)
        trainer.fit(network, datamodule=data)
        return trainer

    @override
    def peak_bytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            peaks: list[list[int]] = []
            tracing = ExitStack()  # from the first update to the last, without the audit before
            trace = LambdaCallback(
                on_train_start=lambda *_: peaks.append(tracing.enter_context(allocations())),
                on_train_end=lambda *_: tracing.close(),
            )
            self._fitted(Path(folder), [trace])
        return peaks[0][0]

    @override
    def checkpoint_seconds(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._fitted(Path(folder), [])
            seconds = []
            for _ in range(CHECKPOINTS):
                start = time.perf_counter()
                trainer.save_checkpoint(Path(folder) / "last.ckpt")
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


class TwoProcesses(AsUsersRunIt):
    """task=train on two processes of one machine."""

    devices = 2

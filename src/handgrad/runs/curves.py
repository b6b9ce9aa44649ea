"""Learning curves: the network on whole splits at the end of every epoch, kept in curves.csv.

A checkpoint contains how many rows there are, not the rows: it would grow with every epoch.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from typing_extensions import override

from handgrad import backprop
from handgrad.backprop import Activations
from handgrad.config.errors import warn
from handgrad.config.schema import LARGEST
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork
from handgrad.statistics.gradients import angle
from handgrad.training import optimizers
from handgrad.training.metrics import Tally

EVALUATED = ("cost", "objective", "accuracy", "deviation")  # columns of each split
PROBES = ["speed/hidden", "speed/output", "angle/dz1"]  # columns of the gradient
PROBED = 1000  # examples whose gradient is looked at (Nielsen, chapter 5, takes as many)


class LearningCurves(Callback):
    """Evaluates the network at the end of every epoch, and adds its figures to a file.

    TensorBoard shows the cost of the examples as they were trained on, and of the validation.
    Published curves show the network as it is after each epoch, mostly on the test split.

    The columns are the epoch (the first is 0), the updates made, and for each split: cost,
    objective (the cost with the penalty of weight decay), accuracy, and deviation, the largest
    distance of any output from its target. With `gradient`, over the first 1,000 training examples:
    speed, the norm of each layer's db, and the angle between dz1 and the true dz1 in degrees.

    Args:
        path: of the file.
        parts: the splits to evaluate, of train, val and test.
        gradient: whether the gradient is evaluated too.
    """

    def __init__(self, path: Path, parts: list[str], gradient: bool) -> None:
        self.path, self.parts, self.gradient = path, parts, gradient
        self.rows = 0

    @override
    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        data: ExampleData = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] - ours
        row: dict[str, float] = {"epoch": trainer.current_epoch, "updates": trainer.global_step}
        decay = optimizers.penalty(trainer.optimizers[0])
        with trainer.precision_plugin.forward_context():
            for split in self.parts:
                row |= _evaluate(trainer, pl_module, data, split, decay)
            if self.gradient:
                row |= _probe(pl_module, data)
        self.rows += 1
        self._write([row], self.path, "a")

    @rank_zero_only
    def _write(self, rows: Iterable[Mapping[str, Any]], path: Path, mode: str) -> None:
        """Write rows into a new file, or add them to the one that is there."""
        columns = ["epoch", "updates"]
        columns += [f"{name}/{split}" for split in self.parts for name in EVALUATED]
        columns += PROBES if self.gradient else []
        new = mode == "w" or not path.exists()
        with path.open(mode, newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            if new:
                table.writeheader()
            table.writerows(rows)

    def _kept(self, path: Path, step: int) -> list[dict[str, str]]:
        """Read the rows of a file up to an update; its last one may be torn."""
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        rows = csv.DictReader(line for line in lines if line.endswith("\n"))
        whole = (row for row in rows if (row.get("updates") or "").isdecimal())
        return [row for row in whole if int(row["updates"]) <= step]

    def go_on_from(self, run: Path, step: int) -> None:
        """Begin the file with the rows of a run up to the update that this one resumes from.

        Args:
            run: the folder of the run, which may be this one.
            step: the update; -1 to begin without any.
        """
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        self._write(self._kept(run / self.path.name, step), temporary, "w")
        os.replace(temporary, self.path)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over how many rows there are, or those that an older checkpoint contains."""
        rows = state_dict["rows"]
        self.rows = len(rows) if isinstance(rows, list) else rows
        self._complete(rows if isinstance(rows, list) else [])

    @rank_zero_only
    def _complete(self, rows: list[dict[str, float]]) -> None:
        """Write the rows of an older checkpoint, and say where any are missing."""
        if rows:
            self._write(rows, self.path, "w")
        there = len(self._kept(self.path, LARGEST))
        if there < self.rows:
            warn(f"{self.path}: only {there} of the {self.rows} rows before this update are there")


def _evaluate(
    trainer: L.Trainer, network: TwoLayerNetwork, data: ExampleData, split: str, decay: float
) -> dict[str, float]:
    """Return the network's figures on one split, over all devices."""
    tally = Tally(network.cost, network.evaluation.multilabel)
    deviation = torch.zeros((), device=network.device)
    for inputs, targets in data.microbatches(split):
        if len(inputs):
            activations: Activations = network.updates.forward_pass(network.params, inputs)
            tally.add(activations, targets)
            deviation = torch.maximum(deviation, (activations.A2 - targets).abs().max().float())
    sums = tally.read(network.device)
    return {
        f"cost/{split}": sums.cost,
        f"objective/{split}": sums.cost + decay,
        f"accuracy/{split}": sums.accuracy,
        f"deviation/{split}": float(trainer.strategy.reduce(deviation, reduce_op="max")),
    }


@isolate_rng()  # the rule may draw numbers
def _probe(network: TwoLayerNetwork, data: ExampleData) -> dict[str, float]:
    """Return how large and how right the training rule's gradient is, on the first examples."""
    assert network.updates.rule is not None, "training has a rule"
    params, (X, Y) = network.params, data.splits["train"].rows(slice(0, PROBED))
    activations = network.updates.forward_pass(params, X)
    given = network.updates.rule(params, activations, X, Y)
    true = backprop.backward(params, activations, X, Y, dz2=network.cost.dz2)
    return {
        "speed/hidden": float(given.db1.norm()),
        "speed/output": float(given.db2.norm()),
        "angle/dz1": float(angle([given.dz1], [true.dz1])),
    }

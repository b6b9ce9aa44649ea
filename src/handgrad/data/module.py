"""LightningDataModule of a source: its examples split, scaled and cut into batches."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning as L
import numpy as np
import torch
from typing_extensions import override

from handgrad.data.batches import BatchPlan, EvaluationMicrobatches, TrainingBlocks
from handgrad.data.examples import Known, Source
from handgrad.data.scaling import Scaling
from handgrad.data.splits import Split, split

SPLITS = ("train", "val", "test")
Horizon = Callable[[int], int]
ORDERED_MICROBATCHES = 6  # of a batch: 1, 2, 3 and 6 devices get equally many


class ExampleData(L.LightningDataModule):
    """Holds examples in three splits, their scaling fitted on the training split alone.

    Args:
        source: where the examples come from.
        batch_size: examples in a batch over all devices, or "full" for full-batch descent.
        microbatch: examples computed at once at most on one device; None for whole batches.
        passes_per_epoch: passes over the training split in one epoch.
        accumulate: batches that one update sums.
        ordered: whether the microbatches of a batch and the order of their sum are the same on any
            number of devices; they have `microbatch` examples, or a sixth of a batch.
        scale: "auto" for the source's default, "none", "standard", "minmax" or "/NUMBER".
        validation: fraction of the whole for validation; 0 for none.
        test: fraction of the whole for the test; 0 for none.
        seed: of the split and of the order of the examples.
        dtype: of inputs and targets.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int | str,
        microbatch: int | None = None,
        passes_per_epoch: int = 1,
        accumulate: int = 1,
        ordered: bool = False,
        scale: str = "auto",
        validation: float | None = None,
        test: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.source, self.scale, self.seed, self.dtype = source, scale, seed, dtype
        self.batch_size, self.microbatch = batch_size, microbatch
        self.passes_per_epoch, self.accumulate = passes_per_epoch, accumulate
        self.ordered = ordered
        self.validation, self.test = validation, test
        self.horizon: Horizon = lambda updates: 1
        self.limit: int | None = None
        self.known: Known | None = None
        self.scaling: Scaling | None = None
        self.splits: dict[str, Split] = {}
        self.fractions: dict[str, int] = {}  # of a split, in examples, by the stage that sees them

    def read(self) -> "ExampleData":
        """Read the source and split it.

        Raises:
            ValueError: if the data are not what training needs; one line.
            OSError: if a file cannot be read.
        """
        self.examples = self.source.read(self.known)
        self.known = self.examples.known
        self.indices: dict[str, np.ndarray] = dict(
            zip(SPLITS, split(self.examples, self.validation, self.test, self.seed), strict=True)
        )
        if self.scaling is None:
            scale = self.source.default_scale if self.scale == "auto" else self.scale
            self.scaling = Scaling.fit(scale, self.examples.X, self.indices["train"])
        self.scaling.check(self.examples.X)
        return self

    def read_unsplit(self, *, target_required: bool = False) -> "ExampleData":
        """Read every row of the source as one split, to test or predict.

        Raises:
            ValueError: if the data do not fit what training knew; one line.
            OSError: if a file cannot be read.
        """
        self.examples = self.source.read(self.known, target_required=target_required)
        self.indices = {"test": np.arange(len(self.examples.X))}
        if self.scaling is not None:
            self.scaling.check(self.examples.X)
        return self

    @override
    def setup(self, stage: str) -> None:
        assert self.scaling is not None, "read() comes before setup()"
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        for name, indices in self.indices.items():
            if name not in self.splits:
                self.splits[name] = Split(self.examples, indices, self.scaling, self.dtype, device)
        if self.trainer and stage == "fit" and not len(self.splits["val"]):
            self.trainer.limit_val_batches = 0  # there is nothing to validate on

    @override
    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # the splits live on the device already

    def plan(self, rank: int = 0, world_size: int = 1) -> BatchPlan:
        """Return which examples each update sees, on one of `world_size` devices."""
        examples = len(self.indices["train"])
        batch_size = examples if self.batch_size == "full" else int(self.batch_size)
        microbatch = self.microbatch
        if self.ordered and microbatch is None:
            microbatch = -(-min(batch_size, examples) // ORDERED_MICROBATCHES)
        return BatchPlan(
            examples=examples,
            batch_size=batch_size,
            accumulate=self.accumulate,
            microbatch=microbatch,
            ordered=self.ordered,
            passes=self.passes_per_epoch,
            limit=self.limit,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    @override
    def train_dataloader(self) -> TrainingBlocks:
        trainer = self.trainer
        assert trainer is not None, "the training batches follow a Trainer's updates"
        limit = trainer.limit_train_batches
        if isinstance(limit, int):
            self.limit = limit
        elif limit < 1.0:
            self.limit = max(1, int(limit * self.plan().batches_per_pass))
        trainer.limit_train_batches = 1.0  # of our blocks; the limit is one of batches
        plan = self.plan(trainer.global_rank, trainer.world_size)
        return TrainingBlocks(self.splits["train"], plan, lambda: trainer.global_step, self.horizon)

    @override
    def val_dataloader(self) -> EvaluationMicrobatches | list[Any]:
        return self.microbatches("val", "val")

    @override
    def test_dataloader(self) -> EvaluationMicrobatches | list[Any]:
        return self.microbatches("test", "test")

    @override
    def predict_dataloader(self) -> EvaluationMicrobatches | list[Any]:
        return self.microbatches("test", "predict")

    def microbatches(self, name: str, stage: str = "") -> EvaluationMicrobatches | list[Any]:
        """Return the microbatches of a split, [] where it is empty.

        A limit_val_batches or its kin that is a fraction leaves the split's first examples.
        Lightning would take that fraction of our microbatches, of which a split may have one alone.
        """
        trainer, flag = self.trainer, f"limit_{stage}_batches"
        limit = getattr(trainer, flag, None)
        if isinstance(limit, float) and 0 < limit < 1:
            self.fractions[stage] = max(1, int(limit * len(self.splits[name])))
            setattr(trainer, flag, 1.0)
        if not len(self.splits[name]):
            return []
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        most = self.fractions.get(stage)
        return EvaluationMicrobatches(self.splits[name], rank, world_size, most)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what evaluation needs again: the scaling, the names of classes and features."""
        assert self.known is not None, "read() comes before saving"
        assert self.scaling is not None, "read() comes before saving"
        return {
            "known": asdict(self.known),
            "scaling": self.scaling.state(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        known = state_dict["known"]
        names = (tuple(known[f"{each}_names"]) for each in ("class", "feature", "target"))
        self.known = Known(*names, multi_label=known["multi_label"])
        self.scaling = Scaling.from_state(state_dict["scaling"])

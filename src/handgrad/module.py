"""The LightningModule: when updates are made, and where their cost and accuracy go."""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from handgrad import backprop
from handgrad.backprop import Parameters
from handgrad.data.batches import Block
from handgrad.rules.feedback import Feedback, closed_form, makes_the_same_operations
from handgrad.training.initialization import initialize
from handgrad.training.metrics import Sums, Tally
from handgrad.training.nonfinite import NonFinite
from handgrad.training.optimizers import OptimizerFactory
from handgrad.training.updates import RuleFactory, Updates, UpdateSettings

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
DEFAULT = UpdateSettings()
FEEDBACK = "feedback"  # the key of a checkpoint that holds a rule's fixed random matrix
ARCHITECTURE = (  # what a checkpoint needs for the network to answer again
    *("in_features", "hidden_features", "out_features"),
    *("init", "init_range", "seed", "cost", "multilabel"),
)


class Schedule(NamedTuple):
    """A learning rate's schedule: how its scheduler is made, and when it takes a step."""

    factory: Callable[[torch.optim.Optimizer], Any]
    interval: str = "epoch"  # "step" (each update), "epoch", or "validation" (with its monitor)
    monitor: str | None = None  # the metric given to a scheduler that steps with the validation


class TwoLayerNetwork(L.LightningModule):
    """A two-layer sigmoid network that trains with a hand-written backward pass.

    Calling it on inputs (m, in_features), scaled as in training, returns A2, (m, out_features). Its
    weights have the orientation of `torch.nn.Linear`. Training runs without autograd: one
    `training_step` makes all updates of a block.

    Args:
        in_features: inputs.
        hidden_features: hidden units.
        out_features: outputs; 1 for two classes.
        init: a name of `handgrad.training.initialization.INITIALIZATIONS`.
        init_range: the a of init="uniform", U(-a, a).
        seed: of the initial weights.
        cost: "cross_entropy" or "quadratic".
        multilabel: whether each output is a label of its own; otherwise the classes exclude each
            other. An example with several labels counts as right when all of them are.
        rule: takes the cost and returns the backward rule.
        optimizer: takes the parameters and returns the optimizer; needed for training only.
        schedule: of the learning rate; None keeps it constant.
        settings: how gradients become updates.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        init: str = "xavier",
        init_range: float = 1.0,
        seed: int = 0,
        cost: str = "cross_entropy",
        multilabel: bool = False,
        rule: RuleFactory = closed_form,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        settings: UpdateSettings = DEFAULT,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(*ARCHITECTURE, logger=False)
        self.automatic_optimization = False
        sizes = (in_features, hidden_features, out_features)
        generator = torch.Generator().manual_seed(seed)
        start = initialize(init, *sizes, generator=generator, uniform_range=init_range)
        self.W1, self.b1, self.W2, self.b2 = (torch.nn.Parameter(tensor) for tensor in start)
        self.cost = COSTS[cost]
        self.optimizer, self.schedule = optimizer, schedule
        self.evaluation = Tally(self.cost, multilabel)
        self.epoch = Sums()
        self.figures: dict[str, float] = {}  # the newest points of the curves
        self.published: dict[str, float] = {}  # of the last epoch, or of the test
        self.updates = Updates(self.params, self.cost, rule, settings, multilabel=multilabel)

    @property
    def params(self) -> Parameters:
        """Return W1, b1, W2, b2 as the equations take them."""
        return Parameters(self.W1, self.b1, self.W2, self.b2)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return self.updates.forward_pass(self.params, inputs).A2

    @override
    def configure_optimizers(self) -> Any:
        assert self.optimizer is not None, "training needs an optimizer"
        self.updates.params = self.params  # which may have been replaced since they were drawn
        optimizer = self.updates.build_optimizer(self.optimizer)
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule.factory(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random matrix of a rule that has one."""
        rule = self.updates.rule
        if isinstance(rule, Feedback) and rule.fixed is not None:
            checkpoint[FEEDBACK] = rule.fixed(self.W2.detach())

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the random matrix of the training that is continued."""
        rule = self.updates.rule
        if FEEDBACK in checkpoint and isinstance(rule, Feedback) and rule.fixed is not None:
            self.updates.bind(partial(self.updates.bind_rule, B=checkpoint[FEEDBACK]))

    @override
    def on_train_start(self) -> None:
        self.plan_validation()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        single = self.trainer.precision in ("32-true", "64-true") and self.device.type == "cpu"
        self.updates.report_skip = lambda skipped, update: self.write_scalars(
            {"run/skipped_updates": skipped}, update
        )
        self.updates.start(
            optimizer,
            updates_per_epoch=self.trainer.datamodule.plan().updates_per_epoch,  # pyright: ignore
            done=self.trainer.global_step,
            scheduler=self.lr_schedulers() if self.steps_with("step") else None,
            scaler=getattr(self.trainer.precision_plugin, "scaler", None),  # of 16-mixed
            may_capture=lambda rule: single and makes_the_same_operations(rule),
        )

    def plan_validation(self) -> None:
        """Let a validation follow every so many updates. Lightning would count blocks."""
        every = self.trainer.val_check_interval  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(every, int):
            due = self.trainer.global_step % every == 0
            self.trainer.val_check_batch = 1 if due else sys.maxsize  # blocks between validations

    @override
    def training_step(self, block: Block, batch_idx: int) -> None:
        """Make all updates of a block, unless a signal stops them.

        Raises:
            NonFinite: if a value is not finite, unless such updates are to be skipped.
        """
        made = self.updates.make(block)
        # Lightning does not see updates that do not go through its wrapper of the optimizer.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for tracker in (progress.total, progress.current):
            tracker.ready += made
            tracker.completed += made
        self.plan_validation()
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # pyright: ignore
            self.log_window()

    def steps_with(self, interval: str) -> bool:
        """Return whether the learning rate's scheduler takes its steps at an interval."""
        return self.schedule is not None and self.schedule.interval == interval

    @override
    def on_train_epoch_end(self) -> None:
        self.log_window()
        if not self.epoch.examples:
            return  # a training that is continued had nothing left to do
        self.publish("train", self.epoch)
        self.epoch = Sums()
        if self.steps_with("epoch"):
            self.lr_schedulers().step()  # pyright: ignore - one scheduler, not a list

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count one batch, unless this device's shard of it is empty."""
        X, Y = batch
        if len(X):
            self.evaluation.add(self.updates.forward_pass(self.params, X), Y)

    validation_step = test_step = evaluate

    def report_evaluation(self, split: str) -> None:
        """Publish and log cost and accuracy of a split that was evaluated."""
        sums = self.evaluation.read(self.device)
        if not self.trainer.sanity_checking:
            self.publish(split, sums)
            self.draw_point(split, sums)

    @override
    def on_validation_epoch_end(self) -> None:
        self.report_evaluation("val")
        if self.schedule and self.steps_with("validation") and not self.trainer.sanity_checking:
            self.lr_schedulers().step(self.figures[self.schedule.monitor])  # pyright: ignore

    @override
    def on_test_epoch_end(self) -> None:
        self.report_evaluation("test")

    @override
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def log_window(self) -> None:
        """Log cost and accuracy over the examples since the last point, once.

        Raises:
            NonFinite: if the cost is not finite.
        """
        sums = self.updates.tally.read(self.device)
        if sums.examples:
            if not math.isfinite(sums.cost):  # the weights are: 16-mixed leaves such updates out
                raise NonFinite(self.trainer.global_step, "J", [], [])
            self.epoch = self.epoch.plus(sums)
            self.draw_point("train", sums)

    def draw_point(self, split: str, sums: Sums) -> None:
        """Give cost and accuracy of a split to the loggers, at the present update."""
        self.figures.update(sums.tagged(split))
        self.write_scalars(sums.tagged(split), self.trainer.global_step)

    def write_scalars(self, figures: dict[str, float], update: int) -> None:
        """Give figures to the loggers, at an update."""
        for logger in self.loggers:
            logger.log_metrics(figures, step=update)

    def publish(self, split: str, sums: Sums) -> None:
        """Make cost and accuracy of a split known to callbacks that monitor them."""
        self.published.update(sums.tagged(split))
        self.log_dict(sums.tagged(split), logger=False)

    def gathered(self) -> dict[str, Any]:
        """Return what the curves have gathered for their next points, over all devices."""
        return {
            "window": list(self.updates.tally.peek(self.device)),
            "epoch": list(self.epoch),
            "figures": dict(self.figures),
            "published": dict(self.published),
            "skipped": self.updates.skipped,
        }

    def go_on_gathering(self, gathered: dict[str, Any]) -> None:
        """Continue from what was gathered before."""
        self.updates.tally.resume(Sums(*gathered["window"]), self.device)
        self.epoch = Sums(*gathered["epoch"])
        self.figures, self.published = dict(gathered["figures"]), dict(gathered["published"])
        self.updates.skipped = gathered["skipped"]

"""The LightningModule: when the equations run, and what becomes of their result. No formula."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.gathering import Gathering
from handgrad.rules import feedback
from handgrad.rules.feedback import Feedback, Rule
from handgrad.training import nonfinite, optimizers
from handgrad.training.capture import Equations, Recorded
from handgrad.training.gradients import GradientSum, LossScale, write
from handgrad.training.initialization import initialize
from handgrad.training.metrics import Sums, Tally
from handgrad.training.nonfinite import NonFinite, Snapshot, Streak, all_finite
from handgrad.training.updates import Block, Seen, Update

COSTS = {"cross_entropy": backprop.cross_entropy, "quadratic": backprop.quadratic}
FEEDBACK = "feedback"  # the key of a checkpoint that holds a rule's fixed random matrix
MADE_WITH = (  # what a checkpoint needs for the network to answer again
    *("in_features", "hidden_features", "out_features"),
    *("init", "init_range", "seed", "cost", "multilabel"),
)
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


class TwoLayerNetwork(Gathering):
    """A two-layer sigmoid network that trains with a hand-written backward pass.

    Calling it on inputs (m, in_features), scaled as in training, gives A2, (m, out_features). Its
    weights have the orientation of `torch.nn.Linear`. Training runs without autograd: forward, the
    backward rule, `.grad`, the optimizer's step; one `training_step` makes all updates of a block.

    Args:
        in_features: inputs.
        hidden_features: hidden units.
        out_features: outputs; 1 for two classes.
        init: a name of `handgrad.training.initialization.INITIALIZATIONS`.
        init_range: the a of init="uniform", U(-a, a).
        seed: of the initial weights.
        cost: "cross_entropy" or "quadratic".
        multilabel: whether outputs are labels of their own, instead of classes that exclude
            each other; then an example counts as right when all its labels are.
        rule: takes the cost and gives the backward rule; needed for training only.
        optimizer: takes the parameters and gives the optimizer; needed for training only.
        scheduler: takes the optimizer and gives the learning rate's scheduler.
        scheduler_interval: "step" (each update), "epoch", or "validation" (with its monitor).
        scheduler_monitor: the metric given to a scheduler that steps with the validation.
        weight_decay: on the weights, not on the biases; None where the optimizer has none.
        clip_norm: bound on the norm of the whole gradient.
        ordered_sums: partial sums of an update that are added in their order, so that devices
            make no difference to the last bit; None where the order is free.
        on_nonfinite: what becomes of an update with a value that is not finite: "stop" or "skip".
        compile: whether forward and the rule go through torch.compile.
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
        rule: Callable[[Cost], Rule] | None = None,
        optimizer: optimizers.OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        scheduler_interval: str = "epoch",
        scheduler_monitor: str | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        ordered_sums: int | None = None,
        on_nonfinite: str = "stop",
        compile: bool = False,
    ) -> None:
        super().__init__(COSTS[cost], multilabel)
        self.save_hyperparameters(*MADE_WITH, logger=False)
        self.automatic_optimization = False
        start = initialize(
            init,
            in_features,
            hidden_features,
            out_features,
            generator=torch.Generator().manual_seed(seed),
            uniform_range=init_range,
        )
        self.W1, self.b1, self.W2, self.b2 = (torch.nn.Parameter(tensor) for tensor in start)
        self.loss_scale: LossScale | None = None
        self.forward_pass: Callable[[Parameters, Tensor], Activations] = backprop.forward
        if compile:
            self.forward_pass = torch.compile(backprop.forward)
        self.compiled = compile
        self.bind(rule)
        self.optimizer, self.weight_decay, self.clip_norm = optimizer, weight_decay, clip_norm
        self.scheduler, self.scheduler_interval = scheduler, scheduler_interval
        self.scheduler_monitor, self.ordered_sums = scheduler_monitor, ordered_sums
        self.on_nonfinite, self.streak = on_nonfinite, Streak()
        self.last_seen: Seen | None = None  # of the newest update, for the check
        self.watched = False  # whether the parameters before a block's last update are kept
        self.before: Parameters | None = None  # those, copied, for the dashboard
        self.is_asked_to_stop: Callable[[], bool] = lambda: False  # within a block

    def bind(self, rule: Callable[[Cost], Rule] | None) -> None:
        """Take a rule to train with, which gets the cost once."""
        self.bind_rule = rule
        self.rule = self.backward_pass = None if rule is None else rule(self.cost)
        if self.compiled and self.rule is not None:
            self.backward_pass = torch.compile(self.rule)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """W1, b1, W2, b2 as optimizers take them."""
        return [self.W1, self.b1, self.W2, self.b2]

    @property
    def params(self) -> Parameters:
        """W1, b1, W2, b2 as the equations take them."""
        return Parameters(self.W1, self.b1, self.W2, self.b2)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_pass(self.params, inputs).A2

    # Training: blocks of updates.

    @override
    def configure_optimizers(self) -> Any:
        assert self.optimizer is not None, "training needs an optimizer"
        weights, biases = [self.W1, self.W2], [self.b1, self.b2]
        optimizer = optimizers.build(self.optimizer, weights, biases, self.weight_decay)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer)}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random matrix of a rule that has one, whoever draws it otherwise later."""
        if isinstance(self.rule, Feedback) and self.rule.fixed is not None:
            checkpoint[FEEDBACK] = self.rule.fixed(self.W2.detach())

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Train on with the matrix of the training that is continued."""
        kept = isinstance(self.rule, Feedback) and self.rule.fixed is not None
        if kept and FEEDBACK in checkpoint and self.bind_rule is not None:
            again = partial(self.bind_rule, B=checkpoint[FEEDBACK])  # pyright: ignore - takes it
            self.bind(again)

    @override
    def on_train_start(self) -> None:
        self.moved = self.params  # looked up once: a module's attributes are slow
        self.alone = self.trainer.world_size == 1 and self.ordered_sums is None
        self.sum = GradientSum(self.trained, self.ordered_sums or 1)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        between = self.lr_schedulers() if self.scheduler_interval == "step" else None
        self.safe = Snapshot(self.trained, optimizer, between, self.window)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:  # of 16-mixed
            assert self.bind_rule is not None, "training needs a rule"
            self.loss_scale = LossScale(scaler)
            self.backward_pass = self.bind_rule(self.loss_scale.scaled(self.cost))
        fixed = feedback.makes_the_same_operations(self.rule) and not self.compiled
        single = self.trainer.precision in ("32-true", "64-true")
        records = fixed and single and self.device.type == "cpu"
        self.equations: Equations = Recorded(self.compute) if records else self.compute

    @override
    @torch.no_grad()
    def training_step(self, block: Block, batch_idx: int) -> None:
        """Make all updates of a block, unless a signal stops them.

        Raises:
            NonFinite: if a value is not finite, unless such updates are to be skipped.
        """
        self.safe.take()
        made = self.make_updates(block, block.updates)
        if not all_finite(self.trained):
            self.safe.restore()
            made = nonfinite.make_carefully(self, block)
        self.count_updates(made)
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # pyright: ignore
            self.log_window()

    def make_updates(self, block: Block, updates: Sequence[Update]) -> int:
        """Make some updates of a block, unless a signal stops them; how many were made."""
        optimizer = self.safe.optimizer
        make = self.step_with_closure if optimizers.needs_closure(optimizer) else self.step
        seen = self.last_seen = self.before = None
        made = 0
        for made, update in enumerate(updates, 1):
            seen = None  # its memory serves the next update
            if self.watched and made == len(updates):
                self.before = Parameters(*(each.detach().clone() for each in self.moved))
            seen = make(optimizer, block, update)
            if self.scheduler_interval == "step":
                self.step_scheduler()
            if self.is_asked_to_stop():
                break
        self.last_seen = seen
        return made

    def leave_out(self, found: NonFinite) -> None:
        """Undo an update and count it, or stop there.

        Raises:
            NonFinite: where the training is to stop.
        """
        self.safe.restore()
        if self.on_nonfinite == "stop":
            raise found
        self.last_seen = None
        self.skipped += 1
        if self.scheduler_interval == "step":
            self.step_scheduler()
        for logger in self.loggers:
            logger.log_metrics({"run/skipped_updates": self.skipped}, step=found.update)

    def differentiate(self, block: Block, update: Update, *tallies: Tally) -> Seen | None:
        """Write the gradient over all examples of an update, on all devices, to `.grad`.

        Returns:
            The last piece's activations and gradients; None where this device's share is empty.
        """
        alone = self.alone and len(update.pieces) == 1
        if not alone:
            self.sum.clear()
        inputs, targets = block.examples(update)
        seen = None
        for rows, place in zip(update.pieces, update.places, strict=True):
            seen = None  # its memory serves the next piece
            seen = self.differentiate_piece(inputs[rows], targets[rows], *tallies)
            if alone:
                write(self.moved, seen.gradients)
            else:
                self.sum.add(seen.gradients, len(seen.X), place)
        if not alone:
            self.sum.write_mean(update.examples)
        return seen

    def differentiate_piece(self, X: Tensor, Y: Tensor, *tallies: Tally) -> Seen:
        """The equations on one piece of an update, counted by the tallies."""
        if self.ordered_sums is not None:
            # Where a tensor begins in memory can change the rounding of its products.
            X, Y = X.clone(), Y.clone()
        activations, gradients = self.equations(X, Y)
        for tally in tallies:
            tally.add(activations, Y)
        scale = 1.0 if self.loss_scale is None else self.loss_scale.value
        return Seen(activations, gradients, X, Y, scale)

    def compute(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """Forward, then the rule."""
        assert self.backward_pass is not None, "training needs a rule"
        for parameter in self.moved:
            parameter.grad = None  # its memory serves this gradient
        activations = self.forward_pass(self.moved, X)
        return activations, self.backward_pass(self.moved, activations, X, Y)

    def clip(self) -> None:
        """Bound the norm of the whole gradient."""
        optimizers.clip(self.trained, self.clip_norm)

    def step(self, optimizer: torch.optim.Optimizer, block: Block, update: Update) -> Seen | None:
        """Make one update; of scaled gradients only where none overflowed.

        Returns:
            What it went through, for the checks; None where there is nothing to judge.
        """
        seen = self.differentiate(block, update, self.window)
        if self.loss_scale is not None:
            return seen if self.loss_scale.step(optimizer, self.clip) else None
        if self.clip_norm is not None:
            self.clip()
        optimizer.step()
        return seen

    def step_with_closure(
        self, optimizer: torch.optim.Optimizer, block: Block, update: Update
    ) -> Seen | None:
        """Make one update with an optimizer that evaluates cost and gradient several times."""
        before_the_update = [self.window]
        seen: list[Seen | None] = []

        @torch.no_grad()
        def evaluate() -> float:
            tally = Tally(self.cost, self.window.multilabel)
            seen.append(self.differentiate(block, update, tally, *before_the_update))
            self.clip()
            before_the_update.clear()
            return tally.read(self.device).cost

        optimizer.step(evaluate)  # pyright: ignore[reportArgumentType] - torch's LBFGS takes floats
        return seen[-1]

    def count_updates(self, updates: int) -> None:
        """Tell Lightning of updates that did not go through its wrapper of the optimizer."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for tracker in (progress.total, progress.current):
            tracker.ready += updates
            tracker.completed += updates

    def step_scheduler(self, *metric: float) -> None:
        """Let the learning rate's scheduler take a step."""
        scheduler = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step(*metric)  # pyright: ignore - plateau alone takes a metric

    @override
    def on_train_epoch_end(self) -> None:
        self.log_window()
        if not self.epoch.examples:
            return  # a training that is continued had nothing left to do
        self.publish("train", self.epoch)
        self.epoch = Sums()
        if self.scheduler_interval == "epoch":
            self.step_scheduler()

    # Evaluation: every example once.

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        """Count one chunk; a device's share may be empty."""
        X, Y = batch
        if len(X):
            self.evaluation.add(self.forward_pass(self.params, X), Y)

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluate(batch)

    @override
    def on_validation_epoch_end(self) -> None:
        sums = self.evaluation.read(self.device)
        if self.trainer.sanity_checking:
            return
        self.publish("val", sums)
        self.write_scalars("val", sums)
        if self.scheduler_interval == "validation":
            assert self.scheduler_monitor is not None, "a scheduler on validation has a monitor"
            self.step_scheduler(self.figures[self.scheduler_monitor])

    @override
    def on_test_epoch_end(self) -> None:
        sums = self.evaluation.read(self.device)
        self.publish("test", sums)
        self.write_scalars("test", sums)

    @override
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

"""One update: differentiate each microbatch, add up, clip, step, and look for what is not finite.

Nothing here knows Lightning, so that a plain loop can drive it:

    updates = Updates(params, cross_entropy, closed_form, UpdateSettings())
    updates.start(GradientDescent(params, lr=0.1), updates_per_epoch=100)
    for block in blocks:
        updates.make(block)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.data.batches import Block, Update
from handgrad.training import optimizers
from handgrad.training.capture import Captured, Equations
from handgrad.training.gradients import GradientSum, LossScale, write
from handgrad.training.metrics import Tally
from handgrad.training.nonfinite import NonFinite, SavedState, Streak, Witness, all_finite

Forward = Callable[[Parameters, Tensor], Activations]
Rule = Callable[[Parameters, Activations, Tensor, Tensor], Gradients]
RuleFactory = Callable[..., Rule]  # takes the cost that trains


class MicrobatchResult(NamedTuple):
    """Activations and gradients of one microbatch, with its inputs and targets."""

    activations: Activations
    gradients: Gradients
    X: Tensor
    Y: Tensor
    scale: float  # of the gradients; 1 except in 16-mixed


@dataclass(frozen=True)
class UpdateSettings:
    """Settings of how gradients become updates.

    Attributes:
        weight_decay: on the weights, not on the biases; None where the optimizer has none.
        clip_norm: bound on the norm of the whole gradient.
        slots: partial sums of an update that are added in their order, so that the number of
            devices does not change the last bit; None where the order is free.
        on_nonfinite: "stop" or "skip" an update with a value that is not finite.
        compile: whether forward and the rule go through torch.compile.
    """

    weight_decay: float | None = None
    clip_norm: float | None = None
    slots: int | None = None
    on_nonfinite: str = "stop"
    compile: bool = False


class Updates:
    """Makes the updates of a training, a block at a time, without autograd.

    Args:
        params: W1, b1, W2, b2, which are moved.
        cost: that trains.
        rule: takes the cost and returns the backward rule.
        settings: how gradients become updates.
        multilabel: as for `Tally`.

    Attributes:
        rule: the backward rule, as it is audited.
        tally: cost and accuracy of the examples seen since it was read.
        done: updates made since the start of the training.
        skipped: updates left out among them.
        result: of the last microbatch of the newest update; None where there is nothing to judge.
        before: a copy of the parameters before a block's last update, if `keeps_before`.
        is_asked_to_stop: asked after each update of a block.
        report_skip: told how many updates were left out, and the newest one's number.
    """

    def __init__(
        self,
        params: Parameters,
        cost: Cost,
        rule: RuleFactory,
        settings: UpdateSettings,
        *,
        multilabel: bool = False,
    ) -> None:
        self.params, self.cost, self.settings = params, cost, settings
        self.loss_scale: LossScale | None = None
        self.forward_pass: Forward = backprop.forward
        if settings.compile:
            self.forward_pass = torch.compile(backprop.forward)
        self.bind(rule)
        self.tally = Tally(cost, multilabel)
        self.done = self.skipped = 0
        self.result: MicrobatchResult | None = None
        self.keeps_before = False
        self.before: Parameters | None = None
        self.is_asked_to_stop: Callable[[], bool] = lambda: False
        self.report_skip: Callable[[int, int], None] = lambda skipped, update: None

    def bind(self, rule: RuleFactory) -> None:
        """Take a rule to train with, which gets the cost once."""
        self.bind_rule = rule
        self.rule = self.backward_pass = rule(self.cost)
        if self.loss_scale is not None:
            self.backward_pass = rule(self.loss_scale.scaled(self.cost))
        if self.settings.compile:
            self.backward_pass = torch.compile(self.rule)

    def build_optimizer(self, factory: optimizers.OptimizerFactory) -> torch.optim.Optimizer:
        """Build the optimizer of the parameters, with weight decay on the weights alone."""
        W1, b1, W2, b2 = self.params
        return optimizers.build(factory, [W1, W2], [b1, b2], self.settings.weight_decay)

    def start(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        updates_per_epoch: int,
        done: int = 0,
        scheduler: Any = None,
        scaler: GradScaler | None = None,
        may_capture: Callable[[Rule], bool] = lambda rule: False,
    ) -> None:
        """Get ready for the first block, on the device where the parameters lie now.

        Args:
            optimizer: of the parameters.
            updates_per_epoch: after so many skipped updates in a row the training stops.
            done: updates made before.
            scheduler: of the learning rate, where it takes a step after each update.
            scaler: of 16-mixed.
            may_capture: whether forward and a rule may be captured: a rule that makes the same
                operations at each call, on the CPU, in one precision.
        """
        slots = self.settings.slots
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.alone = slots is None and not several
        self.sum = GradientSum(self.params, slots or 1)
        self.optimizer, self.scheduler, self.done = optimizer, scheduler, done
        self.may_capture = may_capture
        self.saved = SavedState(self.params, optimizer, scheduler, self.tally)
        self.streak = Streak(updates_per_epoch)
        if scaler is not None:
            self.loss_scale = LossScale(scaler)
            self.bind(self.bind_rule)
        self._choose_equations()

    def _choose_equations(self) -> None:
        """Capture the two passes where that is safe, or else call them."""
        self.passes = (self.forward_pass, self.backward_pass)
        own = self.forward_pass is backprop.forward and self.backward_pass is self.rule
        captures = own and self.may_capture(self.rule)
        self.equations: Equations = (
            Captured(self.compute, self.params) if captures else self.compute
        )

    @torch.no_grad()
    def make(self, block: Block) -> int:
        """Make all updates of a block, unless asked to stop.

        Returns:
            How many were made.

        Raises:
            NonFinite: if a value is not finite, unless such updates are to be skipped.
        """
        equations = self.equations
        moved = isinstance(equations, Captured) and equations.layouts != equations.present_layouts()
        if self.passes != (self.forward_pass, self.backward_pass) or moved:
            self._choose_equations()
        self.hands_over = not optimizers.leaves_gradients_alone(self.optimizer)
        self.saved.take()
        made = self._make_each(block, block.updates)
        if not all_finite(self.params):
            self.saved.restore()
            made = self._make_carefully(block)
        if isinstance(self.equations, Captured) or not self.alone:
            optimizers.own_gradients(
                self.params
            )  # the next update is written over what these are now
        self.done += made
        return made

    def _make_each(self, block: Block, updates: Sequence[Update]) -> int:
        """Make some updates of a block, unless asked to stop, and return how many were made."""
        step = self._search if optimizers.needs_closure(self.optimizer) else self._step
        result = self.result = self.before = None
        made = 0
        for made, update in enumerate(updates, 1):
            result = None  # its memory serves the next update
            if self.keeps_before and made == len(updates):
                self.before = Parameters(*(each.detach().clone() for each in self.params))
            result = step(block, update)
            if self.scheduler is not None:
                self.scheduler.step()
            if self.is_asked_to_stop():
                break
        self.result, self.versions = result, result and _versions(result.gradients)
        return made

    def _step(self, block: Block, update: Update) -> MicrobatchResult | None:
        """Make one update, of scaled gradients only where none overflowed.

        Returns:
            Its last microbatch, for the checks; None where there is nothing to judge.
        """
        result = self._differentiate(block, update, self.tally)
        if self.loss_scale is not None:
            return result if self.loss_scale.step(self.optimizer, self._clip) else None
        if self.settings.clip_norm is not None:
            self._clip()
        elif self.hands_over:
            optimizers.own_gradients(self.params)
        self.optimizer.step()
        return result

    @torch.no_grad()
    def result_to_judge(self) -> MicrobatchResult | None:
        """Return the newest result, made again where somebody has written into its gradients."""
        result = self.result
        if result is None or self.versions == _versions(result.gradients):
            return result
        activations = self.forward_pass(self.params, result.X)
        gradients = self.backward_pass(self.params, activations, result.X, result.Y)
        return result._replace(activations=activations, gradients=gradients)

    @torch.no_grad()
    def differences_of_replay(self) -> tuple[str, ...]:
        """Return the quantities that the captured equations give otherwise than the functions."""
        if self.result is None or not isinstance(self.equations, Captured):
            return ()
        return self.equations.compare(self.result.X, self.result.Y)

    def _search(self, block: Block, update: Update) -> MicrobatchResult | None:
        """Make one update with an optimizer that evaluates cost and gradient several times."""
        before_the_update = [self.tally]
        results: list[MicrobatchResult | None] = []

        @torch.no_grad()
        def evaluate() -> float:
            tally = Tally(self.cost, self.tally.multilabel)
            results.append(self._differentiate(block, update, tally, *before_the_update))
            self._clip()
            before_the_update.clear()
            return tally.read(self.params.W1.device).cost

        self.optimizer.step(evaluate)  # pyright: ignore[reportArgumentType] - LBFGS takes floats
        return results[-1]

    def _differentiate(
        self, block: Block, update: Update, *tallies: Tally
    ) -> MicrobatchResult | None:
        """Write the gradient over all examples of an update, on all devices, to `.grad`.

        Returns:
            The last microbatch; None where this device's shard is empty.
        """
        alone = self.alone and len(update.microbatches) == 1
        if not alone:
            self.sum.clear()
        inputs, targets = block.examples(update)
        scale = 1.0 if self.loss_scale is None else self.loss_scale.value
        result = None
        for rows, slot in zip(update.microbatches, update.slots, strict=True):
            result = None  # its memory serves the next microbatch
            X, Y = inputs[rows], targets[rows]
            if self.settings.slots is not None:
                # Where a tensor begins in memory can change the rounding of its products.
                X, Y = X.clone(), Y.clone()
            result = MicrobatchResult(*self.equations(X, Y), X, Y, scale)
            for tally in tallies:
                tally.add(result.activations, Y)
            if alone:
                write(self.params, result.gradients)
            else:
                self.sum.add(result.gradients, len(result.X), slot)
        if not alone:
            self.sum.write_mean(update.examples)
        return result

    def compute(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """Run forward, then the rule."""
        for parameter in self.params:
            parameter.grad = None  # its memory serves this gradient
        activations = self.forward_pass(self.params, X)
        return activations, self.backward_pass(self.params, activations, X, Y)

    def _clip(self) -> None:
        optimizers.clip(self.params, self.settings.clip_norm)

    def _make_carefully(self, block: Block) -> int:
        """Make a block's updates from the state before it, looking at every line.

        Returns:
            How many were made.

        Raises:
            NonFinite: at the first value that is not finite, or, if such updates are to be
                skipped, where an epoch's worth of them was.
        """
        made = 0
        for made, update in enumerate(block.updates, 1):
            group = block.rows[update.rows]
            rows = np.concatenate([group[:0], *(group[each] for each in update.microbatches)])
            self.saved.take()
            witness = Witness(self.cost, rows, scaled=self.loss_scale is not None)
            equations, self.equations = self.equations, witness.watching(self.compute)
            try:
                self._make_each(block, [update])
            finally:
                self.equations = equations
            witness.look(**self.params._asdict())
            found = witness.verdict(self.done + made)
            searches = optimizers.needs_closure(self.optimizer)  # also where nothing is finite
            if found is not None and not (searches and all_finite(self.params)):
                self._leave_out(found)
            if self.is_asked_to_stop():
                break
        return made

    def _leave_out(self, found: NonFinite) -> None:
        """Undo an update and count it, or stop there.

        Raises:
            NonFinite: where the training is to stop.
        """
        self.saved.restore()
        if self.settings.on_nonfinite == "stop":
            raise found
        self.result = None
        self.skipped += 1
        if self.scheduler is not None:
            self.scheduler.step()
        self.report_skip(self.skipped, found.update)
        self.streak.add(found)


def _versions(gradients: Gradients) -> list[int]:
    """Return how often each tensor was written into since it was made."""
    return [each._version for each in gradients if each is not None]

"""Checks of the gradient while the network trains: an audit before it, then checks as it goes."""

import math
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console
from torch import Tensor
from typing_extensions import override

from handgrad.audit.freivalds import NAMES, checksum
from handgrad.audit.judge import Report, audit
from handgrad.audit.rule_output import call_rule
from handgrad.backprop import Gradients, backward
from handgrad.config.errors import WrongGradient
from handgrad.data.batches import Block, Update
from handgrad.module import TwoLayerNetwork
from handgrad.runs.tables import print_report
from handgrad.statistics.gradients import angle

AUDITED_ROWS = 256  # of a batch at most: the audit works in float64
LARGEST = 1e16  # stands for an infinite residual on the charts


class LiveCheck(Callback):
    """Audits the rule that trains, and keeps checking the gradients it returns.

    Each device checks its own shard of the batch, and all devices share the verdict. Each check of
    a rule that deviates on purpose also logs the angle between its lines and the equations'.

    Args:
        at_start: whether the first batch is audited before training.
        on_failure: "stop" or "warn".
        checksum_every_n_updates: how often the last gradient is checked with a random vector.
        audit_every_n_updates: how often every line is compared with its derivative.
    """

    def __init__(
        self,
        at_start: bool,
        on_failure: str,
        checksum_every_n_updates: int | None,
        audit_every_n_updates: int | None,
    ) -> None:
        self.at_start, self.on_failure = at_start, on_failure
        self.checksum_every, self.audit_every = checksum_every_n_updates, audit_every_n_updates
        self.wrong: list[str] = []
        self.checked_at = {"checksum": 0, "audit": 0}
        self.generator: torch.Generator | None = None

    @classmethod
    def from_keys(cls, keys: dict[str, Any]) -> "LiveCheck":
        """Return the check that the keys check.* ask for, but for check.precision of task=check."""
        return cls(**{name: value for name, value in keys.items() if name != "precision"})

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        for kind, every in (("checksum", self.checksum_every), ("audit", self.audit_every)):
            self.checked_at[kind] = trainer.global_step - trainer.global_step % (every or 1)
        self.generator = torch.Generator(pl_module.device)
        if self.at_start:
            block = next(iter(trainer.datamodule.train_dataloader()))  # pyright: ignore
            examples = _examples_of(block, block.updates[0])
            report = self._audit(trainer, pl_module, examples)
            if trainer.is_global_zero and report is not None:
                print_report(report, "The gradient on the first batch, line by line", {})
            self._judge(report, pl_module, "on the first batch")
            self._log_angles(trainer, pl_module, examples)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TwoLayerNetwork)
        when = f"after update {trainer.global_step}"
        checksum_due = self._due("checksum", self.checksum_every, trainer.global_step)
        audit_due = self._due("audit", self.audit_every, trainer.global_step)
        if checksum_due:
            ratios = self._checksum_ratios(trainer, pl_module)
            _log_ratios(trainer, "checksum", ratios)
            wrong = {name for name, ratio in ratios.items() if not ratio <= 1.0}  # a NaN is wrong
            wrong |= {*pl_module.updates.differences_of_replay()}
            named = [name for name in NAMES if name in wrong]
            self._share_verdict(named, pl_module, f"checksum, {when}")
        if audit_due:
            report = self._audit(trainer, pl_module, _examples_of(batch, batch.updates[-1]))
            if report is not None:
                ratios = {
                    line.name: line.residual / line.tolerance
                    for line in report.lines
                    if line.angle is None and not math.isnan(line.residual)
                }
                _log_ratios(trainer, "audit", ratios)
            self._judge(report, pl_module, when)
        if checksum_due or audit_due:
            self._log_angles(trainer, pl_module, _examples_of(batch, batch.updates[-1]))

    def _due(self, kind: str, every: int | None, updates: int) -> bool:
        """Return whether a check is due at the end of this block, and note that it is made."""
        if every is None or updates - self.checked_at[kind] < every:
            return False
        self.checked_at[kind] = updates
        return True

    @isolate_rng()  # a rule that draws numbers trains with the same ones, checked or not
    def _audit(
        self, trainer: L.Trainer, network: TwoLayerNetwork, examples: tuple[Tensor, Tensor] | None
    ) -> Report | None:
        """Return the audit of the rule on some examples, or None for an empty shard."""
        if examples is None:
            return None
        X, Y = examples
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            activations = network.updates.forward_pass(network.params, X)
            assert network.updates.rule is not None, "training has a rule"
            return audit(
                network.updates.rule, network.params, X, Y, network.cost, activations=activations
            )

    def _checksum_ratios(self, trainer: L.Trainer, network: TwoLayerNetwork) -> dict[str, float]:
        """Return the last gradient's residuals over their bounds, or nothing for an empty shard."""
        seen = network.updates.result_to_judge()
        if seen is None or seen.gradients.dz1 is None:
            return {}
        assert self.generator is not None
        self.generator.manual_seed(trainer.global_step)  # so that a resumed run draws the same
        with trainer.precision_plugin.forward_context():  # whose rounding the bound is of
            ratios = checksum(seen.activations, seen.gradients, seen.X, self.generator)
        return dict(zip(NAMES, ratios.tolist(), strict=True))

    def _judge(self, report: Report | None, network: TwoLayerNetwork, when: str) -> None:
        """Act on the report of an audit."""
        lines = [] if report is None else report.lines
        wrong = [line for line in lines if not line.ok]
        judged = [line for line in wrong if line.judged]  # else none could be
        self._share_verdict([line.name for line in judged or wrong], network, when)

    def _share_verdict(self, wrong: list[str], network: TwoLayerNetwork, when: str) -> None:
        """Stop or warn where any device finds lines wrong.

        Raises:
            WrongGradient: unless on_failure is "warn".
        """
        found = torch.tensor([name in wrong for name in Gradients._fields], dtype=torch.int32)
        if dist.is_available() and dist.is_initialized():
            found = found.to(network.device)
            dist.all_reduce(found, dist.ReduceOp.MAX)
        found_names = [n for n, bad in zip(Gradients._fields, found.tolist(), strict=True) if bad]
        known = {*self.wrong, *found_names}
        new = known - set(self.wrong)
        self.wrong = [name for name in Gradients._fields if name in known]
        if found_names and self.on_failure == "stop":
            raise WrongGradient(self.wrong, when)
        if new and network.trainer.is_global_zero:
            Console(stderr=True).print(f"[red]warning:[/] {WrongGradient(sorted(new), when)}")

    @isolate_rng()
    def _log_angles(
        self, trainer: L.Trainer, network: TwoLayerNetwork, examples: tuple[Tensor, Tensor] | None
    ) -> None:
        """Log the angle between each line that deviates on purpose and the true one, in degrees."""
        rule = network.updates.rule
        if rule is None or examples is None or not getattr(rule, "deviates", ()):
            return
        X, Y = examples
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            params, activations = network.params, network.updates.forward_pass(network.params, X)
            given = call_rule(rule, params, activations, X, Y).values
            true = backward(params, activations, X, Y, dz2=network.cost.dz2)
        figures = {
            f"check/angle_{name}": float(angle([given[name]], [getattr(true, name).double()]))
            for name in Gradients._fields
            if name in given and name in rule.deviates  # pyright: ignore - it has them
        }
        _log(trainer, {tag: value for tag, value in figures.items() if math.isfinite(value)})


def _log_ratios(trainer: L.Trainer, kind: str, ratios: dict[str, float]) -> None:
    """Log log10 of residuals over tolerance: 0 is the limit, and -16 stands for exact zero."""
    values = {name: math.log10(min(max(r, 1e-16), LARGEST)) for name, r in ratios.items()}
    _log(trainer, {f"check/{kind}_{name}": value for name, value in values.items()})


def _log(trainer: L.Trainer, figures: dict[str, float]) -> None:
    """Log figures, if there are any."""
    for logger in trainer.loggers if figures else []:
        logger.log_metrics(figures, step=trainer.global_step)


def _examples_of(block: Block, update: Update) -> tuple[Tensor, Tensor] | None:
    """Return the first rows of this device's first microbatch, or None for an empty shard."""
    if not update.microbatches:
        return None
    first = update.microbatches[0]
    rows = slice(first.start, min(first.stop, first.start + AUDITED_ROWS))
    inputs, targets = block.examples(update)
    return inputs[rows], targets[rows]

"""Loss of accuracy of each line of the backward pass in formats of fewer bits, against float64.

A format loses a number in two ways: it rounds it, or it has no number that small. Rounding shows in
the relative error. A number that is too small becomes an exact zero, and is counted. Every line
below a dz inherits its losses, as in training.

A loss scale S multiplies dz2 and is divided out of the gradients again, here in float64. Between
the two, a number times S is no longer too small. The S used is the one at which a scaler that
starts at 2**16 and halves it on each overflow would stop on this batch.

Source: P. Micikevicius et al., Mixed precision training, ICLR (2018), sections 3.1 to 3.3.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.audit.rule_output import RuleOutput, call_rule
from handgrad.backprop import Cost, Gradients, Parameters, forward
from handgrad.rules.feedback import Rule

LARGEST_SCALE = 2.0**16
UNREACHED = "the rule does not take dz2 from the cost, so no loss scale reaches it"


class Format(NamedTuple):
    """Way of storing and multiplying numbers.

    Attributes:
        dtype: dtype of the products, and of everything else unless `mixed`.
        mixed: whether parameters, data and elementwise operations keep float32 (autocast).
        scaled: whether a loss scale is used.
    """

    dtype: torch.dtype
    mixed: bool = False
    scaled: bool = False


FORMATS = {
    "fp32": Format(torch.float32),
    "bf16": Format(torch.bfloat16),
    "fp16": Format(torch.float16),
    "bf16-mixed": Format(torch.bfloat16, mixed=True),
    "fp16-mixed": Format(torch.float16, mixed=True),
    "fp16-mixed-scaled": Format(torch.float16, mixed=True, scaled=True),
}


class LostDigits(NamedTuple):
    """Loss of accuracy of one quantity in one format.

    Attributes:
        quantity: dz2, dW2, db2, dz1, dW1 or db1.
        format: a name of `FORMATS`.
        loss_scale: 1 if there is none.
        relative_error: norm of the difference over the norm of the float64 value.
        underflows: number of entries that are 0, and not 0 in float64.
        overflows: number of entries that are infinite or NaN.
        entries: number of entries of the quantity.
        problem: why there are no figures. Empty if there are.
    """

    quantity: str
    format: str
    loss_scale: float
    relative_error: float
    underflows: int
    overflows: int
    entries: int
    problem: str = ""


def measure(
    rule: Callable[[Cost], Rule],
    params: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost,
    device: torch.device | str = "cpu",
) -> list[LostDigits]:
    """Measure the losses of all quantities in all formats, with those of the forward pass.

    Products and sums are accumulated in float32 and rounded once (PyTorch's kernels on the CPU, and
    on CUDA unless `allow_fp16_reduced_precision_reduction` splits a long sum). A result in a wider
    dtype than the format's is reported as a problem, without figures.

    Args:
        rule: takes the cost and returns the backward rule. The same rule in float64 is the truth.
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the training cost.
        device: where the formats are tried. float64 runs on the CPU, since not every GPU has it.
    """
    subject = _Subject(rule, cost, (*(each.detach().cpu() for each in params), X.cpu(), Y.cpu()))
    truth = subject.output(Format(torch.float64), "cpu")
    doubled = subject.output(Format(torch.float64), "cpu", scale=2)
    # Twice the cost gives exactly twice of everything, unless the rule has a dz2 of its own.
    reached = all(
        torch.allclose(value, 2 * truth.values[name], rtol=0, atol=0, equal_nan=True)
        for name, value in doubled.values.items()
    )
    found: list[LostDigits] = []
    for name, format in FORMATS.items():
        scale, given = subject.settled(format, device)
        if format.scaled and not reached:
            given = given._replace(problems=dict.fromkeys(given.values, UNREACHED))
        found += _compare(name, scale, given, truth)
    return found


@dataclass(frozen=True)
class _Subject:
    """Rule under test with its cost and its inputs W1, b1, W2, b2, X, Y."""

    rule: Callable[[Cost], Rule]
    cost: Cost
    inputs: tuple[Tensor, ...]

    @torch.no_grad()
    def output(self, format: Format, device: torch.device | str, scale: float = 1) -> RuleOutput:
        """Return the rule's output for the scaled cost, after a forward pass in the format."""
        # A rule may compare its cost with those of `backprop`, so it is wrapped only to be scaled.
        cost = self.cost if scale == 1 else _scaled(self.cost, scale)
        kept = torch.float32 if format.mixed else format.dtype
        *params, X, Y = (each.to(device, kept) for each in self.inputs)
        kind = torch.device(device).type
        with torch.autocast(kind, format.dtype) if format.mixed else nullcontext():
            at = Parameters(*params)
            return call_rule(self.rule(cost), at, forward(at, X), X, Y)

    def settled(self, format: Format, device: torch.device | str) -> tuple[float, RuleOutput]:
        """Return the largest loss scale that does not overflow, at least 1, and the output."""
        scale = LARGEST_SCALE if format.scaled else 1.0
        while True:
            given = self.output(format, device, scale)
            if scale == 1 or all(bool(each.isfinite().all()) for each in given.values.values()):
                return scale, given
            scale /= 2


def _scaled(cost: Cost, scale: float) -> Cost:
    """Return the cost times a factor, and its dz2 times the same factor."""
    return Cost(
        lambda activations, Y: scale * cost.value(activations, Y),
        lambda activations, Y: scale * cost.dz2(activations, Y),
    )


def _compare(name: str, scale: float, given: RuleOutput, truth: RuleOutput) -> Iterator[LostDigits]:
    """Yield the losses of one format, without those of a dz that the rule keeps to itself."""
    for quantity in Gradients._fields:
        problem = given.problem_with(quantity) or truth.problem_with(quantity)
        if problem:
            yield LostDigits(quantity, name, scale, math.nan, 0, 0, 0, problem)
        elif quantity in truth.values:
            value, exact = given.values[quantity].cpu() / scale, truth.values[quantity]
            difference = (value - exact).norm()
            yield LostDigits(
                quantity,
                name,
                scale,
                relative_error=float(difference / exact.norm()) if difference != 0 else 0.0,
                underflows=int(((value == 0) & (exact != 0)).sum()),
                overflows=int((~value.isfinite()).sum()),
                entries=exact.numel(),
            )

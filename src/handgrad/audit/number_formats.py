"""What formats of fewer bits leave of each line of the backward pass, against float64.

A format has two ways to lose a number: it rounds it, and it has no number that small. Rounding
shows in the relative error; what is too small becomes an exact zero, and is counted. Everything
below a dz inherits its losses, as in training.

A loss scale S is put on dz2 and taken out of the gradients again, in float64 here: what lies
between, multiplied by S, is no longer too small. The S used is where a scaler that starts at 2**16
and halves it on each overflow would stop on this batch.

Source: P. Micikevicius et al., Mixed precision training, ICLR (2018), sections 3.1 to 3.3.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.audit.rule_output import RuleOutput, call_rule
from handgrad.backprop import Cost, Gradients, Parameters, forward
from handgrad.rules.feedback import Rule

LARGEST_SCALE = 2.0**16
UNREACHED = "the rule does not take dz2 from the cost, so no loss scale reaches it"


class Format(NamedTuple):
    """How numbers are kept and multiplied.

    Attributes:
        dtype: of the products; where nothing is mixed, of everything.
        mixed: parameters, data and elementwise operations keep float32 (autocast).
        scaled: with a loss scale.
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
    """What a format loses of one quantity.

    Attributes:
        quantity: dz2, dW2, db2, dz1, dW1 or db1.
        format: a name of `FORMATS`.
        loss_scale: 1 where there is none.
        relative_error: norm of the difference over the norm of the float64 value.
        underflows: entries that are 0, and not 0 in float64.
        overflows: entries that are infinite or NaN.
        entries: of the quantity.
        problem: why there are no figures; empty where there are.
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
    """The losses of all quantities in all formats, forward pass included.

    Products and sums are accumulated in float32 and rounded once (PyTorch's kernels on the CPU; on
    CUDA unless `allow_fp16_reduced_precision_reduction` splits a long sum). A result in a wider
    dtype than the format's is a problem, not a figure.

    Args:
        rule: takes the cost and gives the backward rule; the same rule in float64 is the truth.
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the cost that trains.
        device: where the formats are tried; float64 runs on the CPU, since not every GPU has it.
    """
    inputs = (*(each.detach().cpu() for each in params), X.cpu(), Y.cpu())
    truth = answer(rule(cost), inputs, Format(torch.float64), "cpu")
    found: list[LostDigits] = []
    for name, format in FORMATS.items():
        scale, given = 1.0, answer(rule(cost), inputs, format, device)
        if format.scaled:
            scale, given = settled(rule, cost, inputs, format, device)
            if not reached(rule, cost, inputs, truth):
                given = given._replace(problems=dict.fromkeys(given.values, UNREACHED))
        found += compare(name, scale, given, truth)
    return found


def scaled(cost: Cost, scale: float) -> Cost:
    """The cost times a factor, with its dz2."""
    return Cost(
        lambda activations, Y: scale * cost.value(activations, Y),
        lambda activations, Y: scale * cost.dz2(activations, Y),
    )


@torch.no_grad()
def answer(
    rule: Rule, inputs: tuple[Tensor, ...], format: Format, device: torch.device | str
) -> RuleOutput:
    """What a rule gives in a format, after a forward pass in that format."""
    kept = torch.float32 if format.mixed else format.dtype
    *params, X, Y = (each.to(device, kept) for each in inputs)
    kind = torch.device(device).type
    with torch.autocast(kind, format.dtype) if format.mixed else nullcontext():
        at = Parameters(*params)
        return call_rule(rule, at, forward(at, X), X, Y)


def settled(
    rule: Callable[[Cost], Rule],
    cost: Cost,
    inputs: tuple[Tensor, ...],
    format: Format,
    device: torch.device | str,
) -> tuple[float, RuleOutput]:
    """The largest loss scale without overflow, at least 1, and the rule's answer under it."""
    scale = LARGEST_SCALE
    while True:
        given = answer(rule(scaled(cost, scale)), inputs, format, device)
        if scale == 1 or all(bool(each.isfinite().all()) for each in given.values.values()):
            return scale, given
        scale /= 2


def reached(
    rule: Callable[[Cost], Rule], cost: Cost, inputs: tuple[Tensor, ...], truth: RuleOutput
) -> bool:
    """Whether twice the cost gives exactly twice of everything; a fixed dz2 would not double."""
    doubled = answer(rule(scaled(cost, 2)), inputs, Format(torch.float64), "cpu")
    return all(
        torch.allclose(value, 2 * truth.values[name], rtol=0, atol=0, equal_nan=True)
        for name, value in doubled.values.items()
    )


def compare(name: str, scale: float, given: RuleOutput, truth: RuleOutput) -> Iterator[LostDigits]:
    """The losses of one format; none of a dz that the rule keeps to itself."""
    for quantity in Gradients._fields:
        problem = trouble(given, quantity) or trouble(truth, quantity)
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


def trouble(given: RuleOutput, quantity: str) -> str:
    """Why a quantity cannot be compared; empty if it can, or was never to be returned."""
    missing = "" if quantity in given.values else given.unanswered
    return given.problems.get(quantity, missing)

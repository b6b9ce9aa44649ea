"""Audit of a backward rule: which of its six lines is wrong, and what the mistake looks like.

A check that compares whole gradients accuses everything downstream of one mistake. Here each line
is judged alone: it is fed with the rule's own value of the line before, and compared with the
float64 derivative of that one operation (`reference`). A wrong dz2 then accuses dz2, and nothing
after it. The tolerance is the rounding error that the rule's dtype explains, not a chosen epsilon.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handgrad.audit import reference
from handgrad.audit.diagnosis import Upstream, equation, likely_mistake
from handgrad.audit.reference import Estimate, Point, Rounding
from handgrad.audit.rule_output import RuleOutput, call_rule
from handgrad.backprop import Activations, Cost, Parameters, cross_entropy, forward, require_shapes
from handgrad.statistics.gradients import angle


@dataclass(frozen=True)
class Line:
    """Verdict on one line.

    Attributes:
        name: dz2, dW2, db2, dz1, dW1 or db1.
        equation: the line as it should be, in the textbook's notation.
        residual: the largest error of an entry over what rounding explains. NaN if not judged.
        tolerance: the largest residual that passes.
        ok: whether the line is right, or deviates on purpose.
        hint: what is wrong, in one sentence. Empty if nothing is.
        judged: whether there is a verdict. There is none after an unusable upstream value.
        angle: the angle to the true value in degrees, if the line deviates on purpose.
    """

    name: str
    equation: str
    residual: float
    tolerance: float
    ok: bool
    hint: str = ""
    judged: bool = True
    angle: float | None = None


@dataclass(frozen=True)
class Report:
    """Verdict on a rule: six lines, in the order dz2 dW2 db2 dz1 dW1 db1."""

    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Return whether every line is right or deviates on purpose."""
        return all(line.ok for line in self.lines)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Return the lines that are wrong themselves, without those that could not be judged."""
        return tuple(line.name for line in self.lines if line.judged and not line.ok)


def audit(
    rule: Callable[..., Any],
    params: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost = cross_entropy,
    *,
    activations: Activations | None = None,
) -> Report:
    """Judge every line of a backward rule at this point. No fault of the rule raises.

    Args:
        rule: (params, activations, X, Y) -> Gradients with means over m, or the tuple
            (dW1, db1, dW2, db2). Lines named in a set `rule.deviates` are measured, not judged.
        params: W1 (n_h, n_x), b1 (n_h,), W2 (n_y, n_h), b2 (n_y,).
        X: inputs, (m, n_x).
        Y: targets in [0, 1], (m, n_y).
        cost: the training cost.
        activations: what the rule is given in training, if that is not the result of `forward`. In
            mixed precision, audit under the same autocast as training.

    Raises:
        ValueError: if the shapes of params, activations, X and Y do not fit together. The rule is
            not called.
    """
    params = Parameters(*(parameter.detach() for parameter in params))
    if activations is None:
        with torch.no_grad():
            activations = forward(params, X)
    require_shapes(params, X, Y, activations)
    output = call_rule(rule, params, activations, X, Y)
    deviates = frozenset(getattr(rule, "deviates", ()))
    device = X.device.type
    dtypes = reference.working_dtypes((*params, *activations), device) | output.dtypes
    with torch.inference_mode(False), torch.autocast(device, enabled=False):
        at = Point.of(params, activations, X, Y, cost, Rounding.of(dtypes, device))
        return Report(_Judge(at, output, deviates).lines())


def audit_probes(
    rule: Callable[..., Any],
    cost: Cost = cross_entropy,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Report:
    """Judge a rule at inputs without blind spots, and return the worst verdict on each line."""
    return worst([audit(rule, *inputs, cost) for inputs in probe_inputs(seed, dtype)])


def worst(reports: list[Report]) -> Report:
    """Merge several reports on one rule into the worst verdict on each line.

    Wrong is worse than right, and right than not judged. Among equals the residual decides, of
    which NaN is the largest.
    """

    def badness(line: Line) -> tuple[bool, bool, float]:
        return line.judged, not line.ok, math.inf if math.isnan(line.residual) else line.residual

    per_line = zip(*(report.lines for report in reports), strict=True)
    return Report(tuple(max(lines, key=badness) for lines in per_line))


def probe_inputs(
    seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[tuple[Parameters, Tensor, Tensor]]:
    """Return small (params, X, Y) at which no common mistake is invisible.

    One example hides 1/m, one output hides sums over the wrong axis, equal sizes hide transposes,
    zero biases hide b, inputs of scale 1 hide clipping, and hard targets hide half of the cost.
    These inputs have none of that. m is below both layers' sizes, so that dz can be derived from
    dW and db.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    probes = []
    for m, n_x, n_h, n_y, soft in [(5, 11, 7, 3, True), (6, 13, 8, 4, False), (4, 9, 6, 5, True)]:
        W1, W2 = normal(n_h, n_x) / n_x**0.5, normal(n_y, n_h)
        Y = torch.sigmoid(normal(m, n_y))  # (m, n_y)
        Y = Y if soft else Y.round()
        exact = (W1, normal(n_h), W2, normal(n_y), 3 * normal(m, n_x), Y)
        *params, X, Y = (tensor.to(dtype) for tensor in exact)
        probes.append((Parameters(*params), X, Y))
    return probes


class _Judge:
    """Judges the six lines in order, each fed with the rule's own value of the line before."""

    def __init__(self, at: Point, output: RuleOutput, deviates: frozenset[str]) -> None:
        self.at, self.output, self.deviates = at, output, deviates
        self.fed = Upstream(at, dW2=output.values.get("dW2"))

    def lines(self) -> tuple[Line, ...]:
        """Return all six verdicts."""
        at = self.at
        dz2, second = self.layer("2", reference.output_delta(at), at.activations.A1, at.A1_error)
        dz1 = None if dz2 is None else reference.hidden_delta(at, dz2)
        _, first = self.layer("1", dz1, at.X, None)
        return (*second, *first)

    def layer(
        self, number: str, truth: Estimate | None, inputs: Tensor, inputs_error: Tensor | None
    ) -> tuple[Estimate | None, list[Line]]:
        """Judge dz, dW and db, and return the dz that feeds later lines too (None if unusable)."""
        names = [kind + number for kind in ("dz", "dW", "db")]
        given = self.output.values.get(names[0])
        if given is not None:
            line = self.line(names[0], given, truth)
            dz = Estimate(given, torch.zeros_like(given)) if _finite(given) else None
        elif names[0] in self.output.problems or self.output.failure or truth is None:
            line, dz = self.line(names[0], None, truth), None
        else:
            line, dz = self.derived(names, truth, inputs, inputs_error)
        truths: tuple[Estimate | None, Estimate | None] = (None, None)
        if dz is not None:
            truths = reference.layer_gradients(inputs, inputs_error, dz, self.at.rounding)
            self.fed = self.fed._replace(**{names[0]: dz.value})
        pairs = zip(names[1:], truths, strict=True)
        return dz, [line] + [self.line(n, self.output.values.get(n), true) for n, true in pairs]

    def line(self, name: str, given: Tensor | None, truth: Estimate | None) -> Line:
        """Judge one line by its value and the true one."""
        problem = self.output.problems.get(name)
        unjudged = self.output.failure or "it depends on an unusable value"
        if given is None or truth is None:
            hint = problem or f"not judged: {unjudged}"
            return self.verdict(name, math.nan, hint, judged=bool(problem))
        if not _finite(truth.value):
            hint = (
                "not judged: params, activations, X or Y are so large that the truth is not finite"
            )
            return self.verdict(name, math.nan, hint, judged=False)
        if not _finite(given):
            count = int((~torch.isfinite(given)).sum())
            hint = f"{name} has {count} of {given.numel()} entries that are NaN or infinite"
            return self.verdict(name, math.inf, hint)
        rho = _residual(given, truth)
        if name in self.deviates and not problem:
            turn = float(angle([given], [truth.value]))
            hint = f"deviates on purpose: {turn:.3g} degrees from the true value"
            return replace(self.verdict(name, rho, hint), ok=True, angle=turn)
        if rho > self.at.rounding.tolerance and not problem:
            problem = likely_mistake(name, given, truth, self.fed)
        return self.verdict(name, rho, problem or "")

    def verdict(self, name: str, rho: float, hint: str, judged: bool = True) -> Line:
        """Make a line, which is right if it has no hint."""
        right, tolerance = equation(name, self.at.cost), self.at.rounding.tolerance
        return Line(name, right, rho, tolerance, not hint, hint, judged)

    def derived(
        self, names: list[str], truth: Estimate, inputs: Tensor, inputs_error: Tensor | None
    ) -> tuple[Line, Estimate | None]:
        """Judge a dz that the rule keeps to itself by the dW and db that it computed from it.

        If one of them is what the true dz gives, dz is right. If neither is, either one wrong dz
        explains both, or each is wrong itself. With m > n_in the two cases cannot be told apart,
        and one mistake is likelier than two.
        """
        name, dW, db = names[0], *(self.output.values.get(made) for made in names[1:])
        if dW is None or db is None or not (_finite(dW) and _finite(db)):
            return self.verdict(name, math.nan, "not returned, not judged", judged=False), truth
        true_dW, true_db = reference.layer_gradients(inputs, inputs_error, truth, self.at.rounding)
        rho = min(_residual(dW, true_dW), _residual(db, true_db))
        if rho <= self.at.rounding.tolerance:
            return self.verdict(name, rho, ""), truth
        both = f"not returned, and {names[1]} and {names[2]} are both wrong"
        deviates = name in self.deviates
        if len(inputs) > inputs.shape[1]:
            hint = f"{both}: {name} probably is too. Return Gradients to see how"
            return self.verdict(name, rho, hint, judged=not deviates), None
        dz = self.solved(dW, db, inputs, inputs_error)
        if dz is None:
            line = self.verdict(name, math.nan, f"{both}: not judged", judged=False)
            return line, None if deviates else truth
        return self.line(name, dz.value, Estimate(truth.value, truth.error + dz.error)), dz

    def solved(
        self, dW: Tensor, db: Tensor, inputs: Tensor, inputs_error: Tensor | None
    ) -> Estimate | None:
        """Solve dz^T [inputs 1] = m [dW db] for dz by least squares.

        With m <= n_in there are more equations than unknowns. Returns None if no dz satisfies all.
        """
        m = len(inputs)
        columns = torch.cat((inputs, inputs.new_ones(m, 1)), dim=1)  # (m, n_in + 1)
        inverse = torch.linalg.pinv(columns)  # (n_in + 1, m)
        dz = m * (torch.cat((dW, db[:, None]), dim=1) @ inverse).T  # (m, n_out)
        rounding, exact = self.at.rounding, Estimate(dz, torch.zeros_like(dz))
        (_, W_error), (_, b_error) = reference.layer_gradients(
            inputs, inputs_error, exact, rounding
        )
        error = m * (torch.cat((W_error, b_error[:, None]), dim=1) @ inverse.abs()).T
        solution = Estimate(dz, error)
        true_W, true_b = reference.layer_gradients(inputs, inputs_error, solution, rounding)
        explains = max(_residual(dW, true_W), _residual(db, true_b)) <= rounding.tolerance
        return solution if explains else None


def _residual(given: Tensor, truth: Estimate) -> float:
    """Return rho, the largest error of an entry over its error bound."""
    return float(((given - truth.value).abs() / truth.error).max())


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())

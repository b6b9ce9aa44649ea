"""Tests of the tester: a changed audit is found out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import handgrad.audit
from handgrad import rules
from handgrad.backprop import Gradients, Parameters, cross_entropy, quadratic
from handgrad.rules.planted import MISTAKES, RIGHT_UNDER, plant

SOURCE = Path(handgrad.audit.__file__).parent
FILES = (
    "reference",
    "diagnosis",
    "rule_output",
    "freivalds",
    "judge",
)  # in the order of their imports

# file, what is there, what is put there
CHANGES = {
    "a tolerance for everything": ("reference", "else 16.0", "else 1e9"),
    "a tolerance for nothing": ("reference", "else 16.0", "else 1e-3"),
    "a bound a million times too wide": ("reference", "4 * self.factor", "4e6 * self.factor"),
    "no rounding of the sigmoid": ("reference", "4 * rounding.unit * torch.sigmoid(z)", "0"),
    "no rounding of sigma'": ("reference", "+ back * slope_error", "+ 0 * slope_error"),
    "a forward pass without rounding": ("reference", "recomputes=not half", "recomputes=False"),
    "the true value of m": ("reference", "dz.value / m)", "dz.value)"),
    "the true slope": ("reference", "torch.sigmoid(z1) @ W2.T + b2", "z1 @ W2.T + b2"),
    "the true dz2": ("reference", "* len(at.Y)\n", "* 1.001 * len(at.Y)\n"),
    "the true dz2 for the rule's": (
        "judge",
        "dz = Estimate(given, ",
        "dz = Estimate(truth.value, ",
    ),
    "the rule's value for the true one": ("judge", "given - truth.value", "given - given"),
    "the best entry for the worst": ("judge", "truth.error).max()", "truth.error).min()"),
    "any line for all lines": ("judge", "return all(line.ok", "return any(line.ok"),
    "wrong lines forgotten": ("judge", "if line.judged and not line.ok", "if not line.judged"),
    "every line deviates": ("judge", "if name in self.deviates", "if name"),
    "no line deviates": ("judge", "if name in self.deviates", "if name in ()"),
    "NaN is a number": ("judge", "return bool(torch.isfinite(tensor).all())", "return True"),
    "the best probe for the worst": ("judge", "(max(lines, key", "(min(lines, key"),
    "no look at the inputs": ("rule_output", "if not _same(", "if False and not _same("),
    "no look at the dtype": ("rule_output", "if gradient.dtype not in dtypes", "if False"),
    "probes of one example": (
        "judge",
        "[(5, 11, 7, 3, True), (6, 13, 8, 4, False), (4, 9, 6, 5, True)]",
        "[(1, 11, 7, 3, True), (1, 13, 8, 4, False), (1, 9, 6, 5, True)]",
    ),
}


@contextmanager
def rebuilt(file: str = "", old: str = "", new: str = "") -> Iterator[ModuleType]:
    """Load the files of handgrad.audit anew with one change, and yield the judge."""
    names = [f"handgrad.audit.{name}" for name in FILES]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        for name in FILES:
            path = SOURCE / f"{name}.py"
            spec = spec_from_file_location(f"handgrad.audit.{name}", path)
            assert spec is not None
            module = module_from_spec(spec)
            sys.modules[f"handgrad.audit.{name}"] = module
            setattr(handgrad.audit, name, module)  # which `from handgrad.audit import` asks first
            source = path.read_text()
            if name == file:
                assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {name}"
                source = source.replace(old, new)
            exec(compile(source, str(path), "exec"), module.__dict__)
        yield sys.modules["handgrad.audit.judge"]
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        for name, module in before.items():
            setattr(handgrad.audit, name.rpartition(".")[2], module)


def faults(audit: Any) -> Iterator[str]:
    """Yield an audit's faults: right rules accused, wrong ones passed or misnamed."""
    yield from odd_faults(audit)
    yield from large_faults(audit)
    for cost in (cross_entropy, quadratic):
        right = (rules.closed_form(cost), rules.autograd(cost))
        mistakes = {
            name: set(lines)
            for name, lines in MISTAKES.items()
            if RIGHT_UNDER.get(name) is not cost.dz2
        }
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            if not all(audit.audit_probes(rule, cost, dtype).ok for rule in right):
                yield f"false alarm in {dtype}"
        for dtype in (torch.float32, torch.float64):
            for name, wrong in mistakes.items():
                report = audit.audit_probes(rules.mistake(cost, name), cost, dtype)
                if report.ok or set(report.wrong) != wrong:
                    yield f"{report.wrong} for {wrong}"


def large_faults(audit: Any) -> Iterator[str]:
    """Yield false alarms on saturated networks and on rules with a forward pass of their own."""
    generator = torch.Generator().manual_seed(0)
    for weights in (1.0, 10.0, 100.0):
        shapes = ((60, 300), (60,), (10, 60), (10,), (200, 300), (200, 10))
        W1, b1, W2, b2, X, Y = (torch.randn(*shape, generator=generator) for shape in shapes)
        params = Parameters(weights * W1 / 17, weights * b1, weights * W2 / 8, weights * b2)
        for rule in (rules.closed_form(cross_entropy), forward_of_its_own):
            if not audit.audit(rule, params, X, torch.sigmoid(Y)).ok:
                yield f"false alarm at weights of {weights}"


def forward_of_its_own(params: Any, activations: Any, X: torch.Tensor, Y: torch.Tensor) -> Any:
    """Compute right gradients, with the sums of the forward pass in the opposite order."""
    A1 = torch.sigmoid(params.b1 + X.flip(1) @ params.W1.flip(1).T)
    A2 = torch.sigmoid(params.b2 + A1.flip(1) @ params.W2.flip(1).T)
    recomputed = activations._replace(A1=A1, A2=A2)
    return rules.closed_form(cross_entropy)(params, recomputed, X, Y)


def odd_faults(audit: Any) -> Iterator[str]:
    """Yield wrong verdicts on NaN, wrong dtypes, purposeful deviations and rules wrong at times."""

    def bad(change: Any) -> Any:
        return lambda *inputs: change(rules.closed_form(cross_entropy)(*inputs), *inputs)

    def writes(gradients: Gradients, params: Any, *inputs: Any) -> Gradients:
        params.W1.zero_()
        return gradients

    def sometimes(gradients: Gradients, *inputs: Any) -> Gradients:
        return gradients._replace(db1=gradients.db1 * (2 if len(inputs[2]) == 6 else 1))

    for rule, wrong in [
        (bad(lambda g, *_: g._replace(dW1=g.dW1 * float("nan"))), ("dW1",)),
        (bad(lambda g, *_: g._replace(db2=g.db2.double())), ("db2",)),
        (bad(writes), ("dW1",)),
        (bad(sometimes), ("db1",)),
        (plant({"dz1": "1.001 * (dz2 @ W2) * A1 * (1 - A1)"}), ("dz1",)),
        (rules.feedback_alignment(cross_entropy), ()),
    ]:
        report = audit.audit_probes(rule)
        if report.wrong != wrong or report.ok != (not wrong):
            yield f"{report.wrong} for {wrong}"


def test_the_audit_as_it_is_has_no_fault() -> None:
    with rebuilt() as audit:
        assert list(faults(audit)) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_audit_is_found_out(change: str) -> None:
    with rebuilt(*CHANGES[change]) as audit:
        assert next(faults(audit), None)

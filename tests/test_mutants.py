"""Mutants of the backward pass: each is caught, and the line that was changed is named."""

from functools import cache

import pytest
import torch
from mutants import Mutant, mutants

from handgrad.audit.judge import Report, audit_probes
from handgrad.backprop import Cost, cross_entropy, quadratic

# What no test can catch: a mutant that computes the same thing.
COMMUTES = "multiplication commutes"
ROWS = "X and Y have the same number of rows, whatever is in them"
EQUIVALENT = {
    "dz1 = (1 - A1) * (dz2 @ W2 * A1)": COMMUTES,
    "dz1 = A1 * (dz2 @ W2) * (1 - A1)": COMMUTES,
    "dz2 = (1 - A2) * ((A2 - Y) * A2)": COMMUTES,
    "dz2 = A2 * (A2 - Y) * (1 - A2)": COMMUTES,
    "W2, A1, m = (params.W2, activations.A1, len(Y))": ROWS,
    "W2, A1, m = (params.W2, activations.A1, len(X.abs()))": ROWS,
    "W2, A1, m = (params.W2, activations.A1, len(X.clamp(-1, 1)))": ROWS,
}
COSTS = pytest.mark.parametrize("cost", [cross_entropy, quadratic], ids=["cross", "quadratic"])
SINGLE = pytest.param(torch.float32, marks=pytest.mark.slow)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, SINGLE], ids=str)


@cache
def verdicts(cost: Cost, dtype: torch.dtype) -> list[tuple[Mutant, Report]]:
    return [(mutant, audit_probes(mutant.rule, cost, dtype)) for mutant in mutants(cost)]


@COSTS
@DTYPES
def test_every_mutant_is_caught_and_95_percent_of_one_line_are_named_exactly(
    cost: Cost, dtype: torch.dtype
) -> None:
    found = [(mutant, r) for mutant, r in verdicts(cost, dtype) if mutant.text not in EQUIVALENT]
    one_line = [(mutant, report) for mutant, report in found if len(mutant.lines) == 1]
    named = [mutant for mutant, report in one_line if report.wrong == mutant.lines]
    assert len(found) >= 60
    assert not [mutant.text for mutant, report in found if report.ok or not report.wrong]
    assert len(named) >= 0.95 * len(one_line)


@COSTS
def test_a_mutant_that_raises_is_named_by_the_line_that_raised(cost: Cost) -> None:
    (report,) = (r for m, r in verdicts(cost, torch.float64) if m.text == "dW1 = dz1 @ X / m")
    dW1 = report.lines[4]
    assert report.wrong == ("dW1",)
    assert "RuntimeError" in dW1.hint
    assert "`dW1 = dz1 @ X / m`" in dW1.hint


@DTYPES
def test_the_equivalent_mutants_are_all_there_and_proved(dtype: torch.dtype) -> None:
    found = verdicts(cross_entropy, dtype) + verdicts(quadratic, dtype)
    assert {mutant.text for mutant, report in found if report.ok} == set(EQUIVALENT)

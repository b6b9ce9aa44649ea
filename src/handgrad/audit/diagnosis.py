"""Likely mistake behind a wrong line: known mistakes are fitted to it, and the best fit is named.

Every suspect is a wrong line that people do write, computed from the same upstream values as the
right one. The suspect that leaves least of the discrepancy unexplained is put into a sentence. If
none explains it, the sentence says where and by how much the line is off.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.audit.reference import Estimate, Point
from handgrad.backprop import Cost, cross_entropy, quadratic
from handgrad.statistics.gradients import angle

EXPLAINED = 0.02
"""Largest share of the discrepancy that a mistake may leave unexplained to be named."""

EQUATIONS = {
    "dz2": "dz2 = m dJ/dz2",
    "dW2": "dW2 = (1/m) dz2 A1^T",
    "db2": "db2 = (1/m) sum dz2",
    "dz1": "dz1 = W2^T dz2 * A1 (1 - A1)",
    "dW1": "dW1 = (1/m) dz1 X^T",
    "db1": "db1 = (1/m) sum dz1",
}

Suspects = dict[str, Tensor]
"""Known mistakes of one line: the words for each, and the value that the line would have."""


class Upstream(NamedTuple):
    """Values of the rule's own that fed a wrong line, in float64."""

    at: Point
    dz2: Tensor | None = None  # (m, n_y)
    dW2: Tensor | None = None  # (n_y, n_h)
    dz1: Tensor | None = None  # (m, n_h)


def equation(name: str, cost: Cost) -> str:
    """Return the line as the textbook writes it, examples in columns. dz2 depends on the cost."""
    known = {cross_entropy: "dz2 = A2 - Y", quadratic: "dz2 = (A2 - Y) * A2 (1 - A2)"}
    return known.get(cost, EQUATIONS[name]) if name == "dz2" else EQUATIONS[name]


def likely_mistake(name: str, given: Tensor, truth: Estimate, upstream: Upstream) -> str:
    """Describe in one sentence what the wrong line looks like, and what it should be.

    Args:
        name: the line, of dz2 dW2 db2 dz1 dW1 db1.
        given: the rule's value in float64, shaped like the true one.
        truth: the true value and its error bound.
        upstream: the inputs and the rule's own values before this line.
    """
    right = equation(name, upstream.at.cost)
    discrepancy, noise = float((given - truth.value).norm()), 2 * float(truth.error.norm())
    longer = float(given.norm() / truth.value.norm().clamp(min=1e-300))
    equal = 1e-3 * discrepancy + noise * max(1.0, longer)  # of two equal fits, the first is named
    best, least = None, math.inf
    for words, value in _suspects(name, given, truth.value, upstream).items():
        unexplained = float((given - value).norm())
        if unexplained <= EXPLAINED * discrepancy + noise and unexplained < least - equal:
            best, least = words, unexplained
    if best is None:
        return f"{name} {_where(given, truth)}; the line should be {right}"
    return f"{name} looks like {best}: the line should be {right}"


def _suspects(name: str, given: Tensor, true: Tensor, upstream: Upstream) -> Suspects:
    """Return all known mistakes of a line. Of those that fit equally well, the first is named."""
    at = upstream.at
    found = _scaled(name, given, true, at)
    if name == "dz2":
        return found | _output_delta(at, true)
    if name == "dz1" and upstream.dz2 is not None:
        return found | _hidden_delta(given, true, at, upstream.dz2, upstream.dW2)
    dz = upstream.dz1 if name[-1] == "1" else upstream.dz2
    if dz is None:
        return found
    parameter = getattr(at.params, name[1:])
    decay = _fit(given - true, parameter)  # as much of it as fits best
    words = f"the right line + {decay:.4g} {name[1:]} (weight decay)"
    found[words] = true + decay * parameter
    if name.startswith("db"):
        return found | _bias_gradient(name[-1], true, dz)
    return found | _weight_gradient(name[-1], true, dz, upstream)


def _scaled(name: str, given: Tensor, true: Tensor, at: Point) -> Suspects:
    """Return the right line times known numbers, and times the number that fits it best."""
    m, n_y, n_h = len(at.X), at.Y.shape[1], len(at.params.W1)
    is_mean = name[1] != "z"
    without, twice = "the right line without the factor 1/m", "the right line with 1/m twice"
    factors = {
        "the right line with the wrong sign": -1,
        "zero": 0,
        (without if is_mean else "the right line times m"): m,
        (twice if is_mean else "the right line times 1/m, which belongs to dW and db"): 1 / m,
        "the right line divided by the number of outputs": 1 / n_y,
        "the right line times the number of outputs": n_y,
        "the right line with 1/(m - 1) in place of 1/m": m / (m - 1) if m > 1 else 1,
        "the right line with 1/(m + 1) in place of 1/m": m / (m + 1),
        "the right line with 1/n_h in place of 1/m": m / n_h,
        "the right line with 1/n_y in place of 1/m": m / n_y,
        f"{without} and with the wrong sign": -m,
        "twice the right line": 2,
        "half the right line": 0.5,
    }
    suspects = {words: factor * true for words, factor in factors.items() if factor != 1}
    fitted = _fit(given, true)
    return suspects | {f"{fitted:.6g} times the right line": fitted * true}


def _output_delta(at: Point, true: Tensor) -> Suspects:
    """Return wrong forms of dz2, with that of the other cost."""
    _, _, z2, A2 = at.activations
    Y, miss, slope = at.Y, at.activations.A2 - at.Y, A2 * (1 - A2)
    cross = "A2 - Y, cross-entropy's: the quadratic cost has the factor sigma'(z2) too"
    other = "(A2 - Y) sigma'(z2), the quadratic cost's: cross-entropy has no sigma'(z2)"
    return {
        **({cross: miss} if at.cost is quadratic else {other: miss * slope}),
        "the right line with sigma'(z2) once too often": true * slope,
        **_wrong_slopes("(A2 - Y)", "2", miss, z2, A2),
        "-Y/A2 + (1 - Y)/(1 - A2), which is dA2, before the factor sigma'(z2)": miss / slope,
        "z2 - Y, without the sigmoid": z2 - Y,
        "sigma(A2) - Y, with the sigmoid twice": torch.sigmoid(A2) - Y,
        "softmax(z2) - Y, for outputs that exclude each other": torch.softmax(z2, dim=1) - Y,
        "A2 + Y": A2 + Y,
        "A2 * Y": A2 * Y,
        "A2 alone, without the targets": A2,
        "Y alone, without the output A2": Y,
        "the right line without its sign": true.abs(),
        "the right line without its last example": torch.cat(
            [true[:-1], torch.zeros_like(true[-1:])]
        ),
    }


def _hidden_delta(
    given: Tensor, true: Tensor, at: Point, dz2: Tensor, dW2: Tensor | None
) -> Suspects:
    """Return wrong forms of dz1: sigma' missing, doubled or misplaced, or W2 already updated."""
    (z1, A1, z2, A2), W2 = at.activations, at.params.W2
    back, slope = dz2 @ W2, A1 * (1 - A1)  # (m, n_h)
    through = (dz2 * A2 * (1 - A2)) @ W2  # (m, n_h)
    suspects = {
        "W2^T dz2 without the factor sigma'(z1)": back,
        "W2^T dz2 with the factor sigma'(z1) twice": true * slope,
        **_wrong_slopes("W2^T dz2", "1", back, z1, A1),
        "W2^T (dz2 sigma'(z2)), with sigma' of the wrong layer": through,
        "W2^T (dz2 sigma'(z2)) * sigma'(z1), with sigma'(z2) once too often": through * slope,
        "sigma'(z1) alone, without W2^T dz2": slope,
        "W2^T A2 * sigma'(z1), with A2 in place of dz2": A2 @ W2 * slope,
        "W2^T z2 * sigma'(z1), with z2 in place of dz2": z2 @ W2 * slope,
        "W2^T Y * sigma'(z1), with Y in place of dz2": at.Y @ W2 * slope,
        "W2^T dz2 + sigma'(z1), a sum in place of the product": back + slope,
        "the right line without its sign": true.abs(),
        "the right line without its last example": torch.cat(
            [true[:-1], torch.zeros_like(true[-1:])]
        ),
    }
    if W2.shape[0] == W2.shape[1]:
        suspects["W2 dz2 * sigma'(z1), without the transpose"] = dz2 @ W2.T * slope
    if dW2 is not None:
        moved = dz2 @ dW2 * slope  # (m, n_h)
        step = _fit(true - given, moved)
        stale = f"W2^T dz2 * sigma'(z1) with W2 already updated to W2 - {step:.4g} dW2"
        suspects |= {"dW2^T dz2 * sigma'(z1), with dW2 in place of W2": moved}
        suspects |= {stale: true - step * moved}
    return suspects


def _wrong_slopes(before: str, layer: str, back: Tensor, z: Tensor, A: Tensor) -> Suspects:
    """Return forms with sigma' of the wrong variable, half of it, or another function's slope."""
    name, of_A = f"{before} * ", torch.sigmoid(A) * torch.sigmoid(-A)
    suspects = {
        "sigma'(A), sigma' of the wrong variable": of_A,
        "(1 - A^2), the slope of tanh": 1 - A * A,
        "(1 - tanh(z)^2), the slope of tanh": 1 - torch.tanh(z) ** 2,
        "(z > 0), the slope of ReLU": (z > 0).double(),
        "A, without the factor (1 - A)": A,
        "(1 - A), without the factor A": 1 - A,
        "A (1 + A), with a sign wrong in sigma'": A * (1 + A),
        "A (0 - A), with a number wrong in sigma'": -A * A,
        "A (2 - A), with a number wrong in sigma'": A * (2 - A),
        "A^2, in place of A (1 - A)": A * A,
        "z (1 - z), with z in place of A": z * (1 - z),
    }
    number = str.maketrans({"A": f"A{layer}", "z": f"z{layer}"})
    return {name + words.translate(number): back * slope for words, slope in suspects.items()}


def _weight_gradient(layer: str, true: Tensor, dz: Tensor, upstream: Upstream) -> Suspects:
    """Return wrong forms of dW: the wrong factor, or the wrong rows."""
    at, m = upstream.at, len(dz)
    z1, A1, _, _ = at.activations
    inputs, name = (A1, "A1") if layer == "2" else (at.X, "X")
    suspects = {
        f"the right line without the last example ({words})": dz[:-1].T @ inputs[:-1] / count
        for words, count in _counts(m).items()
    }
    suspects |= {
        "the first example's gradient alone": dz[:1].T @ inputs[:1],
        "the last example's gradient alone": dz[-1:].T @ inputs[-1:],
        f"(1/m) |dz{layer}| {name}^T, without its sign": dz.abs().T @ inputs / m,
        f"(1/m) (sum dz{layer}) (1/m) (sum {name})^T, the product of the means": dz.mean(
            dim=0
        ).outer(inputs.mean(dim=0)),
        f"(1/m) {name} dz{layer}^T, transposed and reshaped": true.T.reshape(true.shape),
        "the right line clipped to [-1, 1]": true.clamp(-1, 1),
    }
    if layer == "2":
        slope = A1 * (1 - A1)
        suspects["(1/m) dz2 z1^T, with z1 in place of A1"] = dz.T @ z1 / m
        suspects["(1/m) dz2 sigma'(z1)^T, with the slope in place of A1"] = dz.T @ slope / m
        suspects["(1/m) A2 A1^T, with A2 in place of dz2"] = at.activations.A2.T @ A1 / m
    else:
        suspects["(1/m) A1 X^T, with A1 in place of dz1"] = A1.T @ at.X / m
    if layer == "1" and upstream.dz2 is not None:
        back = upstream.dz2 @ at.params.W2  # (m, n_h)
        suspects["(1/m) W2^T dz2 X^T, with W2^T dz2 in place of dz1"] = back.T @ at.X / m
    if true.shape[0] == true.shape[1]:
        suspects[f"(1/m) {name} dz{layer}^T, transposed"] = true.T
    return suspects


def _bias_gradient(layer: str, true: Tensor, dz: Tensor) -> Suspects:
    """Return wrong forms of db: summed over the wrong axis, over both, or not at all."""
    m, everywhere = len(dz), torch.ones_like(true)
    suspects = {
        f"the right line without the last example ({words})": dz[:-1].sum(dim=0) / count
        for words, count in _counts(m).items()
    }
    suspects |= {
        f"the mean of all of dz{layer}, over outputs too": everywhere * dz.mean(),
        f"(1/m) times the sum of all of dz{layer}, over units too": everywhere * dz.sum() / m,
        f"the sum of all of dz{layer}, over units too": everywhere * dz.sum(),
        "the first example's gradient alone": dz[0],
        "the last example's gradient alone": dz[-1],
        f"(1/m) sum |dz{layer}|, without its sign": dz.abs().sum(dim=0) / m,
    }
    if m == len(true):
        suspects[f"dz{layer} summed over the units, the wrong axis"] = dz.sum(dim=1) / m
    return suspects


def _counts(m: int) -> dict[str, int]:
    """Return the divisors of a mean that leaves out the last example."""
    return {"but 1/m": m, "and 1/(m - 1)": m - 1} if m > 1 else {}


def _fit(given: Tensor, basis: Tensor) -> float:
    """Return the number that times the basis is nearest to the given tensor, by least squares."""
    size = float((basis * basis).sum())
    return float((given * basis).sum()) / size if size > 0 else 0.0


def _where(given: Tensor, truth: Estimate) -> str:
    """Describe where and by how much a line is off that no known mistake explains."""
    wrong = (given - truth.value).abs() > 16 * truth.error
    share = f"in {int(wrong.sum())} of {wrong.numel()} entries"
    if wrong.dim() == 2:
        for axis, word in ((1, "row"), (0, "column")):
            places = torch.nonzero(wrong.any(dim=axis)).flatten().tolist()
            if len(places) == 1 and wrong.shape[1 - axis] > 1:
                share = f"only in {word} {places[0]} (counted from 0)"
    ratio = float(given.norm() / truth.value.norm().clamp(min=1e-300))
    degrees = float(angle([given], [truth.value]))
    turned = f"turned by {degrees:.3g} degrees and {ratio:.4g} times as long"
    return f"is off {share}, {turned}, unlike any known mistake"

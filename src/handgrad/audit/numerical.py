"""Numerical derivatives from values of the cost alone, without autograd and without `backward`.

The complex step: for an analytic J, Im J(theta + i h v) / h = <dJ, v> + O(h^2). Nothing is
subtracted, so h may be 1e-30 and the derivative is exact to rounding. There is no step to choose.
Finite differences subtract two nearly equal values, and a smaller h leaves fewer digits.

Sources: W. Squire, G. Trapp, Using complex variables to estimate derivatives of real functions,
SIAM Review 40(1), 1998; J. Martins, P. Sturdza, J. Alonso, The complex-step derivative
approximation, ACM TOMS 29(3), 2003.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad import backprop
from handgrad.audit.reference import float64
from handgrad.backprop import Activations, Cost, Gradients, Parameters
from handgrad.statistics.gradients import means

BLOCKS = Parameters._fields


class Curve(NamedTuple):
    """Error of one numerical method against its step, for one block of parameters.

    Attributes:
        block: W1, b1, W2, b2, or "all".
        dtype: "float32" or "float64".
        method: "forward", "central" or "complex".
        steps: the steps h, largest first.
        errors: |method - exact| / |exact|, one for each h.
    """

    block: str
    dtype: str
    method: str
    steps: list[float]
    errors: list[float]


def directional_derivative(
    params: Parameters,
    direction: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost = backprop.cross_entropy,
    *,
    method: str = "complex",
    step: float = 1e-30,
) -> float:
    """Compute <dJ, direction> from one complex or two real values of the cost.

    Args:
        params: the point, in float64 or float32.
        direction: shaped like params.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the cost, whose value must be analytic in z2.
        method: "complex", "central" or "forward".
        step: the step h.

    Raises:
        ValueError: if there is no such method.
    """

    def at(distance: complex) -> Tensor:
        dtype = params.W1.dtype
        if isinstance(distance, complex):
            dtype = torch.promote_types(dtype, torch.complex64)
        pairs = zip(params, direction, strict=True)
        moved = Parameters(*(here.to(dtype) + distance * way.to(dtype) for here, way in pairs))
        with torch.no_grad():
            activations = backprop.forward(moved, X.to(dtype))
            if cost is backprop.cross_entropy and dtype.is_complex:  # which PyTorch's refuses
                return _complex_cross_entropy(activations, Y)
            return cost.value(activations, Y.to(dtype))

    if method == "complex":
        return float(at(1j * step).imag) / step
    if method == "central":
        return float(at(step) - at(-step)) / (2 * step)
    if method == "forward":
        return float(at(step) - at(0)) / step
    raise ValueError(f"method={method}: must be complex, central or forward")


def block_errors(
    gradients: Gradients,
    params: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost = backprop.cross_entropy,
    *,
    method: str = "complex",
    step: float = 1e-30,
    directions: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """Compare a rule's gradient with numerical derivatives, for each of W1 b1 W2 b2.

    Args:
        gradients: the rule's, means over m, of which dW1, db1, dW2 and db2 are read.
        params: the point.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the training cost.
        method: as in `directional_derivative`. Central differences are best at step 1e-5.
        step: the step h.
        directions: the number of random directions for each block.
        seed: seed of the directions.

    Returns:
        The largest |<d, v> - derivative| / (||d|| ||v||) over the directions v, in float64.
    """
    exact = Parameters(*map(float64, params))
    errors = {}
    for block in BLOCKS:
        gradient = float64(getattr(gradients, f"d{block}"))
        errors[block] = 0.0
        for direction in _directions(exact, (block,), directions, seed):
            found = directional_derivative(
                exact, direction, float64(X), float64(Y), cost, method=method, step=step
            )
            v = getattr(direction, block)
            scale = float(gradient.norm() * v.norm()) or 1.0
            errors[block] = max(errors[block], abs(float((gradient * v).sum()) - found) / scale)
    return errors


def error_versus_h(
    params: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost = backprop.cross_entropy,
    *,
    steps: Sequence[float] | None = None,
    seed: int = 0,
) -> list[Curve]:
    """Compute the errors of forward and central differences and of the complex step, against h.

    The exact value is that of `backward` in float64, along one random direction for each block and
    one for all. The truncation error falls like h (forward) and h^2 (central, complex). In the
    differences a rounding error that grows like 1/h takes over, in the complex step it never does.

    Args:
        params: the point, rounded to float32 first, so that both dtypes start at the same point.
        X: inputs, (m, n_x), rounded too.
        Y: targets, (m, n_y), rounded too.
        cost: the training cost.
        steps: the steps h to try. By default 1 to 1e-15 in half powers of ten.
        seed: seed of the directions.
    """
    steps = [10 ** (-k / 2) for k in range(31)] if steps is None else list(steps)
    params = Parameters(*(float64(parameter.float()) for parameter in params))
    X, Y = float64(X.float()), float64(Y.float())
    slopes = means(backprop.backward(params, backprop.forward(params, X), X, Y, dz2=cost.dz2))
    curves = []
    for block in (*BLOCKS, "all"):
        moving = BLOCKS if block == "all" else (block,)
        (direction,) = _directions(params, moving, 1, seed)
        exact = float(sum((d * v).sum() for d, v in zip(slopes, direction, strict=True)))
        for dtype, method in product(
            (torch.float32, torch.float64), ("forward", "central", "complex")
        ):
            at = Parameters(*(tensor.to(dtype) for tensor in params))
            errors = []
            for h in steps:
                found = directional_derivative(
                    at, direction, X.to(dtype), Y.to(dtype), cost, method=method, step=h
                )
                errors.append(abs(found - exact) / abs(exact))
            curves.append(Curve(block, str(dtype).split(".")[1], method, list(steps), errors))
    return curves


def _complex_cross_entropy(activations: Activations, Y: Tensor) -> Tensor:
    """Return J = (1/m) sum [log(1 + e^z2) - Y z2], in which no sigmoid saturates, at a complex z2.

    Where z2 is positive, log(1 + e^z2) = z2 + log(1 + e^-z2), so that no power overflows.
    """
    z2 = activations.z2
    positive = z2.real > 0
    power = torch.exp(torch.where(positive, -z2, z2))  # (m, n_y), at most 1 in size
    losses = torch.log(1 + power) + torch.where(positive, (1 - Y) * z2, -Y * z2)  # (m, n_y)
    return losses.sum() / len(Y)


def _directions(
    params: Parameters, moving: tuple[str, ...], count: int, seed: int
) -> list[Parameters]:
    """Draw random unit directions in which only the given blocks move."""
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for _ in range(count):
        draws = []
        for block, here in zip(BLOCKS, params, strict=True):
            draw = torch.randn(here.shape, generator=generator, dtype=torch.float64)
            draws.append(draw.to(here.device) * float(block in moving))
        length = sum(float(draw.norm()) ** 2 for draw in draws) ** 0.5
        directions.append(Parameters(*(draw / length for draw in draws)))
    return directions

"""Derivatives from values of the cost alone: no backward pass, neither autograd's nor ours.

The complex step: for an analytic J, Im J(theta + i h v) / h = <dJ, v> + O(h^2). Nothing is
subtracted, so h may be 1e-30 and the derivative is exact to rounding; there is no step to choose.
Finite differences subtract two values that are nearly equal: the smaller h, the less is left.

Sources: W. Squire, G. Trapp, Using complex variables to estimate derivatives of real functions,
SIAM Review 40(1), 1998; J. Martins, P. Sturdza, J. Alonso, The complex-step derivative
approximation, ACM TOMS 29(3), 2003.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.audit.reference import float64
from handgrad.backprop import (
    Activations,
    Cost,
    Gradients,
    Parameters,
    backward,
    cross_entropy,
    forward,
)

BLOCKS = Parameters._fields


class Curve(NamedTuple):
    """How the error of one method depends on its step, for one block of parameters.

    Attributes:
        block: W1, b1, W2, b2, or "all".
        dtype: "float32" or "float64".
        method: "forward", "central" or "complex".
        steps: h, largest first.
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
    cost: Cost = cross_entropy,
    *,
    method: str = "complex",
    step: float = 1e-30,
) -> float:
    """<dJ, direction>, from one complex or two real values of the cost.

    Args:
        params: where; float64 or float32.
        direction: shaped like params.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the cost; its value must be analytic in z2.
        method: "complex", "central" or "forward".
        step: h.

    Raises:
        ValueError: if there is no such method.
    """
    if method == "complex":
        return float(_value(_moved(params, direction, 1j * step), X, Y, cost).imag) / step
    if method == "central":
        ahead = _value(_moved(params, direction, step), X, Y, cost)
        behind = _value(_moved(params, direction, -step), X, Y, cost)
        return float(ahead - behind) / (2 * step)
    if method == "forward":
        here, ahead = (
            _value(params, X, Y, cost),
            _value(_moved(params, direction, step), X, Y, cost),
        )
        return float(ahead - here) / step
    raise ValueError(f"method={method}: must be complex, central or forward")


def complex_step_gradient(
    params: Parameters, X: Tensor, Y: Tensor, cost: Cost = cross_entropy
) -> Parameters:
    """dW1, db1, dW2, db2, every coordinate by a complex step of its own: for small networks.

    Returns:
        The gradient of the mean cost in float64, shaped like params.
    """
    exact = Parameters(*map(float64, params))
    zeros = {block: torch.zeros_like(tensor) for block, tensor in zip(BLOCKS, exact, strict=True)}
    gradient = {block: torch.zeros_like(tensor) for block, tensor in zeros.items()}
    for block in BLOCKS:
        for place in range(zeros[block].numel()):
            zeros[block].view(-1)[place] = 1
            slope = directional_derivative(exact, Parameters(**zeros), float64(X), float64(Y), cost)
            gradient[block].view(-1)[place] = slope
            zeros[block].view(-1)[place] = 0
    return Parameters(**gradient)


def block_errors(
    gradients: Gradients,
    params: Parameters,
    X: Tensor,
    Y: Tensor,
    cost: Cost = cross_entropy,
    *,
    method: str = "complex",
    step: float = 1e-30,
    directions: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """How far a rule's gradient is from the evidence, for each of W1 b1 W2 b2.

    Args:
        gradients: what a rule returned, means over m; dW1, db1, dW2 and db2 are read.
        params: where.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).
        cost: the cost that trains.
        method: as in `directional_derivative`; central differences are best at step 1e-5.
        step: h.
        directions: so many random directions for each block.
        seed: of the directions.

    Returns:
        The largest |<d, v> - evidence| / (||d|| ||v||) over the directions v, in float64.
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
    cost: Cost = cross_entropy,
    *,
    steps: Sequence[float] | None = None,
    seed: int = 0,
) -> list[Curve]:
    """The errors of forward and central differences and of the complex step, against h.

    Exact is our own backward pass in float64, along one random direction for each block and one
    for all. Truncation falls like h (forward) and h^2 (central, complex) until rounding, growing
    like 1/h, takes over in the differences, and never in the complex step.

    Args:
        params: where; rounded to float32 first, so that both dtypes start at the same point.
        X: inputs, (m, n_x), rounded too.
        Y: targets, (m, n_y), rounded too.
        cost: the cost that trains.
        steps: the h to try; 1 to 1e-15 in half powers of ten unless told.
        seed: of the directions.
    """
    steps = [10 ** (-k / 2) for k in range(31)] if steps is None else list(steps)
    params = Parameters(*(float64(parameter.float()) for parameter in params))
    X, Y = float64(X.float()), float64(Y.float())
    activations = forward(params, X)
    gradients = backward(params, activations, X, Y, dz2=cost.dz2)
    slopes = Parameters(gradients.dW1, gradients.db1, gradients.dW2, gradients.db2)
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


def _value(params: Parameters, X: Tensor, Y: Tensor, cost: Cost) -> Tensor:
    """J, also at complex parameters, which PyTorch's cross-entropy does not take."""
    dtype = params.W1.dtype
    with torch.no_grad():
        activations = forward(params, X.to(dtype))
        if cost is cross_entropy and dtype.is_complex:
            return _complex_cross_entropy(activations, Y)
        return cost.value(activations, Y.to(dtype))


def _complex_cross_entropy(activations: Activations, Y: Tensor) -> Tensor:
    """J = (1/m) sum [log(1 + e^z2) - Y z2], which no sigmoid can saturate, continued analytically.

    Where z2 is positive, log(1 + e^z2) = z2 + log(1 + e^-z2), so that no power overflows.
    """
    z2 = activations.z2
    positive = z2.real > 0
    power = torch.exp(torch.where(positive, -z2, z2))  # (m, n_y), at most 1 in size
    losses = torch.log(1 + power) + torch.where(positive, (1 - Y) * z2, -Y * z2)  # (m, n_y)
    return losses.sum() / len(Y)


def _moved(params: Parameters, direction: Parameters, step: float | complex) -> Parameters:
    """Params + step * direction, complex if the step is."""
    dtype = params.W1.dtype
    if isinstance(step, complex):
        dtype = torch.promote_types(dtype, torch.complex64)
    pairs = zip(params, direction, strict=True)
    return Parameters(*(here.to(dtype) + step * way.to(dtype) for here, way in pairs))


def _directions(
    params: Parameters, moving: tuple[str, ...], count: int, seed: int
) -> list[Parameters]:
    """Random unit directions in which only the given blocks move."""
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for _ in range(count):
        draws = {
            block: torch.randn(
                getattr(params, block).shape, generator=generator, dtype=torch.float64
            ).to(params.W1.device)
            * float(block in moving)
            for block in BLOCKS
        }
        length = sum(float(draw.norm()) ** 2 for draw in draws.values()) ** 0.5
        directions.append(Parameters(**{block: draw / length for block, draw in draws.items()}))
    return directions

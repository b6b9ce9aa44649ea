"""What each line of the backward pass should give, and how far rounding alone may take it away.

Each line is one operation. Its true value is the float64 derivative of that operation alone, by
autograd, at the very numbers the rule was given and fed with the upstream value that the rule
itself used; no formula of `backprop` is repeated here. Its error bound is a running first-order
one: a sum of K products carries at most gamma sum |terms|, where gamma grows like sqrt(K) because
rounding errors are as often up as down; errors of what feeds the sum enter linearly. Sums of
*absolute* terms make cancellation harmless, which a relative error never does.

Sources: N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed., 2002), sections 3.1 and
3.3; N. Higham and T. Mary, A new approach to probabilistic rounding error analysis (2019), SIAM
J. Sci. Comput. 41(5), theorem 2.4, for sqrt(K) in place of K.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Parameters


class Estimate(NamedTuple):
    """A value in float64, and how far from it a correct program in the working dtype may be."""

    value: Tensor
    error: Tensor  # shaped like value, at least 0


@dataclass(frozen=True)
class Rounding:
    """The arithmetic that a correct rule may have used, as a few small numbers.

    Attributes:
        unit: unit roundoff (half an eps) of one elementwise operation.
        factor: unit roundoff of what enters a matrix product (TF32 and bf16 products round it).
        accumulator: unit roundoff of the sum inside a product; half precision sums in float32.
        underflow: below this a number may be lost entirely.
        recomputes: whether a rule may compute the activations anew, in another order of sums. Not
            in half precision: there, that error would hide most mistakes.
        tolerance: the largest residual that passes. The bound is first-order and probabilistic, so
            full precision leaves a factor of 16; in half precision it must be nearly met.
    """

    unit: float
    factor: float
    accumulator: float
    underflow: float
    recomputes: bool
    tolerance: float

    def product(self, terms: int) -> float:
        """The gamma of a sum of so many products: its error is at most gamma sum |terms|."""
        return math.sqrt(terms) * self.accumulator + 4 * self.factor


class Point(NamedTuple):
    """Where the derivative is taken, in float64, under which cost, and the rule's arithmetic."""

    params: Parameters
    activations: Activations
    X: Tensor  # (m, n_x)
    Y: Tensor  # (m, n_y)
    cost: Cost
    rounding: Rounding
    A1_error: Tensor  # (m, n_h), how far a rule's own A1 may be from sigma(z1)
    A2_error: Tensor  # (m, n_y)


def working_dtypes(tensors: Iterable[Tensor], device: str) -> set[torch.dtype]:
    """In which dtypes a rule may compute: those of the tensors, and autocast's where it is on."""
    dtypes = {tensor.dtype for tensor in tensors}
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    return dtypes


def rounding_of(dtypes: Iterable[torch.dtype], device: str) -> Rounding:
    """The rounding of the coarsest of these dtypes: what autocast leaves of float32.

    Raises:
        ValueError: if one is not a floating dtype.
    """
    dtypes = set(dtypes)
    for dtype in dtypes:
        if not dtype.is_floating_point:
            raise ValueError(f"dtype {dtype} has no rounding error, must be a floating dtype")
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    unit = torch.finfo(coarsest).eps / 2
    half = unit > torch.finfo(torch.float32).eps
    return Rounding(
        unit=unit,
        factor=unit if half else max(unit, _product_unit(coarsest, device)),
        accumulator=torch.finfo(torch.float32).eps / 2 if half else unit,
        underflow=min(torch.finfo(coarsest).tiny, 2**-24),  # 2**-24: float16's smallest number
        recomputes=not half,
        tolerance=2.0 if half else 16.0,
    )


def _product_unit(dtype: torch.dtype, device: str) -> float:
    """What `torch.set_float32_matmul_precision` leaves of the factors of a float32 product."""
    precision = torch.get_float32_matmul_precision() if dtype is torch.float32 else "highest"
    if precision == "medium":
        return 2**-9  # bfloat16
    return 2**-11 if precision == "high" and device == "cuda" else 0.0  # TF32


def point(
    params: Parameters,
    activations: Activations,
    X: Tensor,
    Y: Tensor,
    cost: Cost,
    rounding: Rounding,
) -> Point:
    """The rule's inputs as float64 copies, wherever and in whatever mode they were made."""
    W1, b1, W2, b2 = exact = Parameters(*map(float64, params))
    z1, A1, z2, A2 = map(float64, activations)
    X = float64(X)
    z1_error, z2_error = torch.zeros_like(z1), torch.zeros_like(z2)
    if rounding.recomputes:
        terms = X.abs() @ W1.abs().T + b1.abs()  # (m, n_h)
        z1_error = rounding.product(X.shape[1]) * terms
    A1_error = sigmoid_error(z1, z1_error, rounding)
    if rounding.recomputes:
        terms = A1.abs() @ W2.abs().T + b2.abs()  # (m, n_y)
        z2_error = rounding.product(A1.shape[1]) * terms + A1_error @ W2.abs().T
    A2_error = sigmoid_error(z2, z2_error, rounding)
    return Point(
        exact, Activations(z1, A1, z2, A2), X, float64(Y), cost, rounding, A1_error, A2_error
    )


def float64(tensor: Tensor) -> Tensor:
    """A float64 copy outside every graph; on the CPU where the device has no float64 (Apple's)."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device, torch.float64, copy=True)


def sigmoid_error(z: Tensor, z_error: Tensor, rounding: Rounding) -> Tensor:
    """How far sigma(z) may be off: |(ln sigma')'| <= 1, so sigma' grows by e^error at the most."""
    slope = sigmoid_prime(z)
    steepest = (slope * z_error.clamp(max=50).exp()).clamp(max=0.25)
    return steepest * z_error + 4 * rounding.unit * torch.sigmoid(z) + rounding.underflow


def sigmoid_prime(z: Tensor) -> Tensor:
    """sigma'(z) = sigma(z) sigma(-z), which loses no digit where 1 - sigma(z) loses all."""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def output_delta(at: Point) -> Estimate:
    """dz2, the derivative of one example's cost by z2: m times autograd's of the mean cost.

    The error of A2 enters by the derivative of dz2 by A2, which autograd's second derivative gives
    for any cost that is a sum over outputs; for both costs here, half of the second is below 2.
    """
    z1, A1, z2, _ = at.activations
    z2 = z2.clone().requires_grad_()
    with torch.enable_grad():
        value = at.cost.value(Activations(z1, A1, z2, torch.sigmoid(z2)), at.Y) * len(at.Y)
        (dz2,) = torch.autograd.grad(value, z2, create_graph=True)  # (m, n_y)
        (by_z2,) = torch.autograd.grad(dz2.sum(), z2)  # (m, n_y)
    z2, dz2, rounding = z2.detach(), dz2.detach(), at.rounding
    by_A2 = by_z2.abs() / sigmoid_prime(z2).clamp(min=1e-300)
    error = by_A2 * at.A2_error + 2 * at.A2_error**2 + 4 * rounding.unit * dz2.abs()
    return Estimate(dz2, error + len(dz2) * rounding.underflow)  # a rule may hold dz2 / m


def layer_gradients(
    inputs: Tensor, inputs_error: Tensor | None, dz: Estimate, rounding: Rounding
) -> tuple[Estimate, Estimate]:
    """DW and db of one layer, the derivatives of z = inputs W^T + b at upstream dz, mean over m.

    Args:
        inputs: A1 or X as the rule was given it, (m, n_in).
        inputs_error: how far from it the rule's may be; None where it cannot.
        dz: the rule's own dz2 or dz1, (m, n_out).
        rounding: the arithmetic that the rule used.

    Returns:
        dW (n_out, n_in) and db (n_out,).
    """
    (m, n_in), n_out = inputs.shape, dz.value.shape[1]
    W = inputs.new_zeros(n_out, n_in, requires_grad=True)  # z is linear: any W and b will do
    b = inputs.new_zeros(n_out, requires_grad=True)
    with torch.enable_grad():
        z = inputs @ W.T + b  # (m, n_out)
        dW, db = torch.autograd.grad(z, (W, b), dz.value / m)
    size = dz.value.abs()
    lost = m * rounding.underflow  # a rule may hold dz / m
    terms = rounding.product(m) * size + dz.error + lost  # (m, n_out)
    W_error = terms.T @ inputs.abs() + size.sum(dim=0)[:, None] * rounding.underflow
    if inputs_error is not None:
        W_error += size.T @ inputs_error
    b_error = terms.sum(dim=0)  # (n_out,)
    return Estimate(dW, W_error / m + rounding.underflow), Estimate(
        db, b_error / m + rounding.underflow
    )


def hidden_delta(at: Point, dz2: Estimate) -> Estimate:
    """dz1, the derivative of z2 = sigma(z1) W2^T + b2 by z1 at upstream dz2, (m, n_h)."""
    _, _, W2, b2 = at.params
    z1, rounding = at.activations.z1.clone().requires_grad_(), at.rounding
    with torch.enable_grad():
        z2 = torch.sigmoid(z1) @ W2.T + b2  # (m, n_y)
        (dz1,) = torch.autograd.grad(z2, z1, dz2.value)  # (m, n_h)
    z1 = z1.detach()
    A1, slope = torch.sigmoid(z1), sigmoid_prime(z1)
    back = (dz2.value @ W2).abs()  # (m, n_h)
    gamma = rounding.product(len(W2))
    lost = len(z1) * rounding.underflow  # a rule may hold dz2 / m and dz1 / m
    back_error = (gamma * dz2.value.abs() + dz2.error + lost) @ W2.abs() + lost  # (m, n_h)
    slope_error = (
        (1 - 2 * A1).abs() * at.A1_error + at.A1_error**2 + rounding.unit * (A1 + 2 * slope)
    )
    error = back_error * (slope + slope_error) + back * slope_error + rounding.unit * dz1.abs()
    return Estimate(dz1, error + lost)

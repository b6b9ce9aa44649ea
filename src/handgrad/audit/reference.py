"""True value of each line of the backward pass, with a bound on the rounding error of a right rule.

Each line is one operation. Its true value is the float64 derivative of that operation alone, by
autograd, at the numbers that the rule was given and at the upstream value that the rule itself
used. No formula of `backprop` is repeated here.

The error bound is a running first-order one. A sum of K products has an error of at most
gamma sum |terms|, where gamma grows like sqrt(K) because rounding errors are as often up as down.
Errors of the inputs of the sum enter linearly. Because the terms are *absolute*, cancellation is
harmless, which it never is for a relative error.

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
    """Value in float64, with the largest error of a right program in the working dtype."""

    value: Tensor
    error: Tensor  # shaped like value, at least 0


@dataclass(frozen=True)
class Rounding:
    """Arithmetic that a right rule may have used, as a few small numbers.

    Attributes:
        unit: unit roundoff (half an eps) of one elementwise operation.
        factor: unit roundoff of the factors of a matrix product (TF32 and bf16 round them).
        accumulator: unit roundoff of the sum inside a product. Half precision sums in float32.
        underflow: the size below which a number may become 0.
        recomputes: whether a rule may compute the activations anew, in another order of sums. In
            half precision it may not, because that error would hide most mistakes.
        tolerance: the largest residual that passes. The bound is first-order and probabilistic, so
            full precision leaves a factor of 16. In half precision the bound must nearly hold.
    """

    unit: float
    factor: float
    accumulator: float
    underflow: float
    recomputes: bool
    tolerance: float

    def product(self, terms: int) -> float:
        """Return gamma for a sum of so many products: its error is at most gamma sum |terms|."""
        return math.sqrt(terms) * self.accumulator + 4 * self.factor

    @classmethod
    def of(cls, dtypes: Iterable[torch.dtype], device: str) -> "Rounding":
        """Return the rounding of the coarsest of these dtypes.

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
        return cls(
            unit=unit,
            factor=unit if half else max(unit, _product_unit(coarsest, device)),
            accumulator=torch.finfo(torch.float32).eps / 2 if half else unit,
            underflow=min(torch.finfo(coarsest).tiny, 2**-24),  # 2**-24: float16's smallest number
            recomputes=not half,
            tolerance=2.0 if half else 16.0,
        )


class Point(NamedTuple):
    """Inputs of a rule as float64 copies, its cost and its arithmetic."""

    params: Parameters
    activations: Activations
    X: Tensor  # (m, n_x)
    Y: Tensor  # (m, n_y)
    cost: Cost
    rounding: Rounding
    A1_error: Tensor  # (m, n_h), how far a rule's own A1 may be from sigma(z1)
    A2_error: Tensor  # (m, n_y), how far a rule's own A2 may be from sigma(z2)

    @classmethod
    def of(
        cls,
        params: Parameters,
        activations: Activations,
        X: Tensor,
        Y: Tensor,
        cost: Cost,
        rounding: Rounding,
    ) -> "Point":
        """Copy a rule's inputs to float64, and bound the errors of its activations."""
        W1, b1, W2, b2 = exact = Parameters(*map(float64, params))
        z1, A1, z2, A2 = map(float64, activations)
        X = float64(X)
        z1_error, z2_error = torch.zeros_like(z1), torch.zeros_like(z2)
        if rounding.recomputes:
            terms = X.abs() @ W1.abs().T + b1.abs()  # (m, n_h)
            z1_error = rounding.product(X.shape[1]) * terms
        A1_error = _sigmoid_error(z1, z1_error, rounding)
        if rounding.recomputes:
            terms = A1.abs() @ W2.abs().T + b2.abs()  # (m, n_y)
            z2_error = rounding.product(A1.shape[1]) * terms + A1_error @ W2.abs().T
        A2_error = _sigmoid_error(z2, z2_error, rounding)
        known = Activations(z1, A1, z2, A2)
        return cls(exact, known, X, float64(Y), cost, rounding, A1_error, A2_error)


def working_dtypes(tensors: Iterable[Tensor], device: str) -> set[torch.dtype]:
    """Return the dtypes in which a rule may compute: the tensors' and, if active, autocast's."""
    dtypes = {tensor.dtype for tensor in tensors}
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    return dtypes


def float64(tensor: Tensor) -> Tensor:
    """Copy to float64 outside every graph. On Apple's devices, which lack it, copy to the CPU."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device, torch.float64, copy=True)


def output_delta(at: Point) -> Estimate:
    """Return dz2, the derivative of one example's cost by z2, (m, n_y).

    It is m times autograd's derivative of the mean cost. The error of A2 enters through the
    derivative of dz2 by A2, which autograd's second derivative gives for any cost that is a sum
    over outputs. Half of the second derivative of dz2 by A2 is below 2 for both costs here.
    """
    z2 = at.activations.z2
    dz2, _ = _derivatives_by_z2(at, z2)  # (m, n_y)
    # Where A2 is 0 or 1 to the last digit, autograd's second derivative has none left.
    near = z2.clamp(-30, 30)
    by_A2 = _derivatives_by_z2(at, near)[1].abs() / _sigmoid_prime(near)  # (m, n_y)
    error = by_A2 * at.A2_error + 2 * at.A2_error**2 + 4 * at.rounding.unit * dz2.abs()
    return Estimate(dz2, error + len(dz2) * at.rounding.underflow)  # a rule may hold dz2 / m


def _derivatives_by_z2(at: Point, z2: Tensor) -> tuple[Tensor, Tensor]:
    """Return autograd's first and second derivative of each example's cost by z2, (m, n_y)."""
    z1, A1, _, _ = at.activations
    z2 = z2.clone().requires_grad_()
    with torch.enable_grad():
        value = at.cost.value(Activations(z1, A1, z2, torch.sigmoid(z2)), at.Y) * len(at.Y)
        (dz2,) = torch.autograd.grad(value, z2, create_graph=True)
        (by_z2,) = torch.autograd.grad(dz2.sum(), z2)
    return dz2.detach(), by_z2


def layer_gradients(
    inputs: Tensor, inputs_error: Tensor | None, dz: Estimate, rounding: Rounding
) -> tuple[Estimate, Estimate]:
    """Return dW and db of one layer: the derivatives of z = inputs W^T + b at upstream dz, over m.

    Args:
        inputs: A1 or X as the rule was given it, (m, n_in).
        inputs_error: how far the rule's own value may be from it. None if the rule has no other.
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
    """Return dz1, the derivative of z2 = sigma(z1) W2^T + b2 by z1 at upstream dz2, (m, n_h)."""
    _, _, W2, b2 = at.params
    z1, rounding = at.activations.z1.clone().requires_grad_(), at.rounding
    with torch.enable_grad():
        z2 = torch.sigmoid(z1) @ W2.T + b2  # (m, n_y)
        (dz1,) = torch.autograd.grad(z2, z1, dz2.value)  # (m, n_h)
    z1 = z1.detach()
    A1, slope = torch.sigmoid(z1), _sigmoid_prime(z1)
    back = (dz2.value @ W2).abs()  # (m, n_h)
    gamma = rounding.product(len(W2))
    lost = len(z1) * rounding.underflow  # a rule may hold dz2 / m and dz1 / m
    back_error = (gamma * dz2.value.abs() + dz2.error + lost) @ W2.abs() + lost  # (m, n_h)
    slope_error = (
        (1 - 2 * A1).abs() * at.A1_error + at.A1_error**2 + rounding.unit * (A1 + 2 * slope)
    )
    error = back_error * (slope + slope_error) + back * slope_error + rounding.unit * dz1.abs()
    return Estimate(dz1, error + lost)


def _product_unit(dtype: torch.dtype, device: str) -> float:
    """Return the roundoff that `torch.set_float32_matmul_precision` adds to factors of products."""
    precision = torch.get_float32_matmul_precision() if dtype is torch.float32 else "highest"
    if precision == "medium":
        return 2**-9  # bfloat16
    return 2**-11 if precision == "high" and device == "cuda" else 0.0  # TF32


def _sigmoid_error(z: Tensor, z_error: Tensor, rounding: Rounding) -> Tensor:
    """Bound the error of sigma(z): |(ln sigma')'| <= 1, so sigma' grows by e^error at most."""
    slope = _sigmoid_prime(z)
    steepest = (slope * z_error.clamp(max=50).exp()).clamp(max=0.25)
    return steepest * z_error + 4 * rounding.unit * torch.sigmoid(z) + rounding.underflow


def _sigmoid_prime(z: Tensor) -> Tensor:
    """Return sigma(z) sigma(-z), which keeps its digits where those of 1 - sigma(z) are lost."""
    return torch.sigmoid(z) * torch.sigmoid(-z)

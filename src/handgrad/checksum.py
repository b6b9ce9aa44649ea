"""A checksum of the gradients that costs a handful of matrix-vector products, to use while training.

A product C = A B may be checked without computing it: C r = A (B r) for a random vector r, and a
wrong C fails for at least half of all r of plus and minus ones (R. Freivalds, Probabilistic machines
can use less running time, IFIP 1977, p. 839-842). Here dW r = (1/m) dz (A^T r).
"""

import math

import torch
from torch import Tensor

from handgrad.backprop import Activations, Gradients, Parameters
from handgrad.reference import rounding_of


def checksum(
    activations: Activations,
    gradients: Gradients,
    X: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The residuals of dW2, db2, dW1, db1 over what rounding explains: above 1 a line is wrong.

    Rounding leaves dW off by at most gamma |dz|^T |A| / m in each entry, so for random signs r the
    residual's norm is about gamma ||dz|| ||A|| / m at most (Cauchy-Schwarz; Frobenius norms).

    Args:
        activations: A1 (m, n_h) as the rule used it; nothing else is read.
        gradients: what the rule returned, means over these m examples.
        X: inputs, (m, n_x).
        generator: where the random signs come from; PyTorch's own unless told.

    Returns:
        Four numbers on the gradients' device, so that nothing waits for it; NaN where a gradient
        is not finite.
    """
    dtypes = {activations.A1.dtype, *(gradient.dtype for gradient in gradients)}
    rounding = rounding_of(dtypes, X.device.type)
    exact = torch.promote_types(gradients.dW1.dtype, torch.float32)
    dz2, dW2, db2, dz1, dW1, db1 = (gradient.to(exact) for gradient in gradients)
    m = len(X)
    gamma = rounding.tolerance * rounding.product(max(m, X.shape[1])) / m
    with torch.autocast(X.device.type, enabled=False), torch.no_grad():
        second = _layer(activations.A1.to(exact), dz2, dW2, db2, generator)
        first = _layer(X.to(exact), dz1, dW1, db1, generator)
        residuals = torch.stack((*second[:2], *first[:2]))
        bounds = torch.stack((*second[2:], *first[2:]))
        return residuals / (gamma * bounds + math.sqrt(dW1.numel()) * rounding.underflow)


def _layer(
    inputs: Tensor, dz: Tensor, dW: Tensor, db: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual norms of dW and db, then what their rounding bounds are proportional to."""
    m, n_in = inputs.shape
    signs = torch.randint(0, 2, (n_in,), generator=generator, device=dz.device, dtype=dz.dtype)
    signs.mul_(2).sub_(1)
    examples = dz.new_ones(m)
    off_W = torch.addmv(dW @ signs, dz.T, inputs @ signs, alpha=-1 / m)  # (n_out,)
    off_b = torch.addmv(db, dz.T, examples, alpha=-1 / m)  # (n_out,)
    size = torch.linalg.vector_norm(dz)
    bound_W, bound_b = size * torch.linalg.vector_norm(inputs), size * math.sqrt(m)
    norm = torch.linalg.vector_norm
    return norm(off_W), norm(off_b), bound_W, bound_b

"""Checksum of the gradients that costs a few matrix-vector products, to use while training.

C = A B can be checked without computing A B: C r = A (B r) for a random vector r, which a wrong C
violates almost surely (R. Freivalds, Probabilistic machines can use less running time, IFIP
1977, p. 839-842). Here dW r = (1/m) dz (A^T r).
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from handgrad.audit.reference import Rounding, working_dtypes
from handgrad.backprop import Activations, Gradients

NAMES = ("dW2", "db2", "dW1", "db1")
"""Lines that the checksum covers, in the order of its result."""


def checksum(
    activations: Activations,
    gradients: Gradients,
    X: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the residuals of dW2, db2, dW1, db1 over what rounding explains.

    A line is wrong if its figure is above 1.

    Rounding leaves each entry of dW off by at most gamma |dz|^T |A| / m, so for a random normal r
    the residual's norm is about gamma ||dz|| ||A|| / m at most (Cauchy-Schwarz, Frobenius norms).
    In mixed precision, call it under the autocast of the rule.

    Args:
        activations: those that the rule used, of which A1 (m, n_h) is read.
        gradients: all six that the rule returned, means over these m examples.
        X: inputs, (m, n_x).
        generator: source of r, on X's device. Not PyTorch's own generator, which training uses.

    Returns:
        Four numbers in the order of `NAMES`, still on the gradients' device, so that nothing waits
        for it. NaN where a gradient is not finite.
    """
    (m, n_x), A1 = X.shape, activations.A1
    device = X.device.type
    rounding = Rounding.of(working_dtypes((A1, *gradients), device), device)
    exact = torch.promote_types(gradients.dW1.dtype, torch.float32)
    with torch.autocast(device, enabled=False), torch.no_grad():
        dz2, dW2, db2, dz1, dW1, db1 = (gradient.to(exact) for gradient in gradients)
        A1, X = A1.to(exact), X.to(exact)
        r = torch.randn(A1.shape[1] + n_x, generator=generator, device=X.device, dtype=exact)
        second, first = r.tensor_split((A1.shape[1],))
        average = X.new_full((m,), 1 / m)  # (m,)
        residuals = (
            vector_norm(torch.addmv(dW2 @ second, dz2.T, A1 @ second, alpha=-1 / m)),
            vector_norm(torch.addmv(db2, dz2.T, average, alpha=-1)),
            vector_norm(torch.addmv(dW1 @ first, dz1.T, X @ first, alpha=-1 / m)),
            vector_norm(torch.addmv(db1, dz1.T, average, alpha=-1)),
        )
        least = m * rounding.underflow / rounding.unit  # below it, dz / m has no accuracy left
        size2 = vector_norm(dz2) + least * dz2.numel() ** 0.5
        size1 = vector_norm(dz1) + least * dz1.numel() ** 0.5
        root = m**0.5
        sizes = (size2 * vector_norm(A1), size2 * root, size1 * vector_norm(X), size1 * root)
        gamma = rounding.tolerance * rounding.product(max(m, n_x, A1.shape[1])) / m
        floor = rounding.tolerance * rounding.underflow * dW1.numel() ** 0.5
        return torch.stack(residuals) / torch.stack(sizes).mul_(gamma).add_(floor)

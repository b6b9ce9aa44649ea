"""Backward rules: what stands in the slot of `backprop.backward`.

A rule is any callable (params, activations, X, Y) -> Gradients, whose dW and db are means over the
m rows given. Each factory here binds the cost that trains once, before training. A rule that
leaves the equations on purpose says where: `deviates` names its lines, and the audit proves the
others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from handgrad.backprop import (
    Activations,
    Cost,
    Gradients,
    Parameters,
    backward,
    cross_entropy_dz2,
    forward,
    quadratic_dz2,
    require_shapes,
)
from handgrad.rules.planted import MISTAKES, mistake
from handgrad.rules.user_function import custom

__all__ = [
    "MISTAKES",
    "Feedback",
    "FlatSpot",
    "Rule",
    "autograd",
    "closed_form",
    "custom",
    "feedback_alignment",
    "flat_spot",
    "mistake",
    "random_matrix",
    "sign_concordant",
    "sign_symmetric",
]

Rule = Callable[[Parameters, Activations, Tensor, Tensor], Gradients]


def closed_form(cost: Cost) -> Rule:
    """The equations themselves: `backprop.backward` with the cost's dz2."""
    return partial(backward, dz2=cost.dz2)


def autograd(cost: Cost) -> Rule:
    """The reference: PyTorch differentiates the cost of the logits."""
    return partial(differentiate, cost=cost)


def differentiate(
    params: Parameters, activations: Activations, X: Tensor, Y: Tensor, *, cost: Cost
) -> Gradients:
    """All six gradients of the cost by `torch.autograd`, also where gradients are switched off.

    The activations given are only checked: autograd needs a forward pass of its own to record.

    Raises:
        ValueError: if a shape is wrong; the message has both shapes.
    """
    require_shapes(params, X, Y, activations)
    with torch.enable_grad():
        leaves = Parameters(*(parameter.detach().requires_grad_() for parameter in params))
        recorded = forward(leaves, X.detach())
        J = cost.value(recorded, Y.detach())
        dz2, dW2, db2, dz1, dW1, db1 = torch.autograd.grad(
            J, (recorded.z2, leaves.W2, leaves.b2, recorded.z1, leaves.W1, leaves.b1)
        )
    # J is a mean over m examples, dz2 and dz1 belong to one example's loss.
    return Gradients(len(X) * dz2, dW2, db2, len(X) * dz1, dW1, db1)


@dataclass(frozen=True)
class Feedback:
    """Errors return to the hidden layer through another matrix B than W2.

    dz1 = B^T dz2 * sigma'(z1); all other lines are the textbook's.

    Attributes:
        cost: the cost that trains.
        matrix: gives B (n_y, n_h) for the current W2 (n_y, n_h).
        fixed: gives what no training changes in it, (n_y, n_h); None where there is no such thing.
    """

    cost: Cost
    matrix: Callable[[Tensor], Tensor]
    fixed: Callable[[Tensor], Tensor] | None = None
    deviates: ClassVar[frozenset[str]] = frozenset({"dz1"})

    def __call__(
        self, params: Parameters, activations: Activations, X: Tensor, Y: Tensor
    ) -> Gradients:
        """The gradients, with B where `backward` has W2, which it uses in dz1 alone."""
        B = self.matrix(params.W2)  # (n_y, n_h)
        return backward(params._replace(W2=B), activations, X, Y, dz2=self.cost.dz2)


def random_matrix(W2: Tensor, *, seed: int, scale: float) -> Tensor:
    """A matrix from U(-scale, scale) that fits W2: a pure function of seed, scale and shape."""
    return drawn(seed, scale, W2.shape, W2.dtype, W2.device)


@lru_cache(maxsize=8)
def drawn(
    seed: int, scale: float, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """U(-scale, scale), in float64 on the CPU first, so that no device or dtype changes it."""
    matrix = torch.empty(shape, dtype=torch.float64, device="cpu")
    matrix.uniform_(-scale, scale, generator=torch.Generator().manual_seed(seed))
    return matrix.to(device=device, dtype=dtype)


def as_given(W2: Tensor, *, B: Tensor) -> Tensor:
    """A matrix that is there already, where W2 is."""
    return B.to(W2)


def with_signs(W2: Tensor, *, fixed: Callable[[Tensor], Tensor]) -> Tensor:
    """W2's signs with the magnitudes of a fixed matrix."""
    return torch.copysign(fixed(W2), W2)


def fixed_matrix(seed: int, scale: float, B: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The matrix B as a function of the W2 that it fits; drawn, if there is none yet."""
    if B is None:
        return partial(random_matrix, seed=seed, scale=scale)
    return partial(as_given, B=B)


def feedback_alignment(
    cost: Cost, *, seed: int = 0, scale: float = 0.5, B: Tensor | None = None
) -> Feedback:
    """Feedback alignment: errors return through a fixed random matrix, and W2 learns to fit it.

    T. Lillicrap, D. Cownden, D. Tweed, C. Akerman, Random synaptic feedback weights support error
    backpropagation for deep learning, Nature Communications 7:13276 (2016).

    Args:
        cost: the cost that trains.
        seed: of the matrix, which is a function of seed and shape alone.
        scale: the matrix is drawn from U(-scale, scale).
        B: the matrix of a training that goes on, (n_y, n_h); None draws one.
    """
    fixed = fixed_matrix(seed, scale, B)
    return Feedback(cost, fixed, fixed)


def sign_symmetric(
    cost: Cost, *, seed: int = 0, scale: float = 0.5, B: Tensor | None = None
) -> Feedback:
    """Sign symmetry: the feedback shares W2's signs but has fixed random magnitudes (frSF).

    Q. Liao, J. Leibo, T. Poggio, How important is weight symmetry in backpropagation?, AAAI (2016).

    Args:
        cost: the cost that trains.
        seed: of the magnitudes, which are a function of seed and shape alone.
        scale: the magnitudes are drawn from U(0, scale).
        B: whose magnitudes are those of a training that goes on, (n_y, n_h); None draws them.
    """
    fixed = fixed_matrix(seed, scale, B)
    return Feedback(cost, partial(with_signs, fixed=fixed), fixed)


def sign_concordant(cost: Cost) -> Feedback:
    """Uniform sign-concordant feedback (uSF): errors return through sign(W2).

    Q. Liao, J. Leibo, T. Poggio, How important is weight symmetry in backpropagation?, AAAI (2016).
    """
    return Feedback(cost, torch.sign)


@dataclass(frozen=True)
class FlatSpot:
    """Backpropagation with sigma' + offset wherever the textbook has sigma'.

    Attributes:
        cost: the cost that trains; of the two, only the quadratic one has sigma' in dz2.
        offset: what is added.
    """

    cost: Cost
    offset: float

    @property
    def deviates(self) -> frozenset[str]:
        """dz1, and dz2 too under the quadratic cost."""
        return frozenset({"dz1", "dz2"} if self.cost.dz2 is quadratic_dz2 else {"dz1"})

    def __call__(
        self, params: Parameters, activations: Activations, X: Tensor, Y: Tensor
    ) -> Gradients:
        """The textbook's six lines, sigma' + offset in place of sigma'."""
        require_shapes(params, X, Y, activations)
        W2, A1, m = params.W2, activations.A1, X.shape[0]
        dz2 = self.cost.dz2(activations, Y)  # (m, n_y)
        if self.cost.dz2 is quadratic_dz2:
            dz2 = dz2 + self.offset * cross_entropy_dz2(activations, Y)  # (m, n_y)
        dW2 = dz2.T @ A1 / m  # (n_y, n_h)
        db2 = dz2.sum(dim=0) / m  # (n_y,)
        dz1 = (dz2 @ W2) * (A1 * (1 - A1) + self.offset)  # (m, n_h)
        dW1 = dz1.T @ X / m  # (n_h, n_x)
        db1 = dz1.sum(dim=0) / m  # (n_h,)
        return Gradients(dz2, dW2, db2, dz1, dW1, db1)


def flat_spot(cost: Cost, *, offset: float = 0.1) -> FlatSpot:
    """Sigmoid-prime plus a constant, so that saturated units go on learning.

    S. Fahlman, An empirical study of learning speed in back-propagation networks,
    CMU-CS-88-162 (1988), section 3.1.
    """
    return FlatSpot(cost, offset)


def makes_the_same_operations(rule: Rule | None) -> bool:
    """Whether a rule is known to make the same operations at every update, whatever the numbers.

    Of a function of the user's own nobody knows: it may count its calls.
    """
    return isinstance(rule, Feedback | FlatSpot) or getattr(rule, "func", None) is backward

"""Backward rules that can replace `backprop.backward`, exact ones and ones with other feedback.

A rule is any callable (params, activations, X, Y) -> Gradients, whose dW and db are means over the
m rows given. Each factory here binds the training cost once, before training. A rule that deviates
from the equations on purpose names the lines in `deviates`, and the audit judges the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Gradients, Parameters

Rule = Callable[[Parameters, Activations, Tensor, Tensor], Gradients]


def closed_form(cost: Cost) -> Rule:
    """Return the equations themselves, `backprop.backward` with the cost's dz2."""
    return partial(backprop.backward, dz2=cost.dz2)


def autograd(cost: Cost) -> Rule:
    """Return the reference rule, in which PyTorch differentiates the cost of the logits."""
    return partial(_differentiate, cost=cost)


def _differentiate(
    params: Parameters, activations: Activations, X: Tensor, Y: Tensor, *, cost: Cost
) -> Gradients:
    """Compute all six gradients of the cost by `torch.autograd`, also under `no_grad`.

    The activations given are only checked, because autograd records a forward pass of its own.

    Raises:
        ValueError: if a shape is wrong. The message has both shapes.
    """
    backprop.require_shapes(params, X, Y, activations)
    with torch.enable_grad():
        leaves = Parameters(*(parameter.detach().requires_grad_() for parameter in params))
        recorded = backprop.forward(leaves, X.detach())
        J = cost.value(recorded, Y.detach())
        dz2, dW2, db2, dz1, dW1, db1 = torch.autograd.grad(
            J, (recorded.z2, leaves.W2, leaves.b2, recorded.z1, leaves.W1, leaves.b1)
        )
    # J is a mean over m examples, but dz2 and dz1 belong to one example's loss.
    return Gradients(len(X) * dz2, dW2, db2, len(X) * dz1, dW1, db1)


@dataclass(frozen=True)
class Feedback:
    """Rule that sends errors back to the hidden layer through a matrix B in place of W2.

    Its line dz1 = B^T dz2 * sigma'(z1) replaces the textbook's. All other lines are the textbook's.

    Attributes:
        cost: the training cost.
        matrix: returns B (n_y, n_h) for the current W2 (n_y, n_h).
        fixed: returns the part of B that training does not change, (n_y, n_h). None if B has none.
    """

    cost: Cost
    matrix: Callable[[Tensor], Tensor]
    fixed: Callable[[Tensor], Tensor] | None = None
    deviates: ClassVar[frozenset[str]] = frozenset({"dz1"})

    def __call__(
        self, params: Parameters, activations: Activations, X: Tensor, Y: Tensor
    ) -> Gradients:
        """Return the six gradients. `backward` uses W2 in dz1 alone, so B can take its place."""
        B = self.matrix(params.W2)  # (n_y, n_h)
        return backprop.backward(params._replace(W2=B), activations, X, Y, dz2=self.cost.dz2)


def random_matrix(W2: Tensor, *, seed: int, scale: float) -> Tensor:
    """Return a matrix shaped like W2 from U(-scale, scale), a function of seed, scale and shape."""
    return _drawn(seed, scale, W2.shape, W2.dtype, W2.device)


@lru_cache(maxsize=8)
def _drawn(
    seed: int, scale: float, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw from U(-scale, scale) in float64 on the CPU, so that no device or dtype changes it."""
    matrix = torch.empty(shape, dtype=torch.float64, device="cpu")
    matrix.uniform_(-scale, scale, generator=torch.Generator().manual_seed(seed))
    return matrix.to(device=device, dtype=dtype)


def _like_weights(W2: Tensor, *, B: Tensor) -> Tensor:
    """Return B in the dtype and on the device of W2."""
    return B.to(W2)


def _with_signs(W2: Tensor, *, fixed: Callable[[Tensor], Tensor]) -> Tensor:
    """Return W2's signs with the magnitudes of a fixed matrix."""
    return torch.copysign(fixed(W2), W2)


def _fixed_matrix(seed: int, scale: float, B: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a function of W2 that gives B, or a random matrix if there is no B yet."""
    if B is None:
        return partial(random_matrix, seed=seed, scale=scale)
    return partial(_like_weights, B=B)


def feedback_alignment(
    cost: Cost, *, seed: int = 0, scale: float = 0.5, B: Tensor | None = None
) -> Feedback:
    """Return feedback alignment: errors return through a fixed random matrix.

    W2 learns to fit the matrix.

    T. Lillicrap, D. Cownden, D. Tweed, C. Akerman, Random synaptic feedback weights support error
    backpropagation for deep learning, Nature Communications 7:13276 (2016).

    Args:
        cost: the training cost.
        seed: seed of the matrix, which depends on seed, scale and shape alone.
        scale: the matrix is drawn from U(-scale, scale).
        B: the matrix of a resumed training, (n_y, n_h). None draws one.
    """
    fixed = _fixed_matrix(seed, scale, B)
    return Feedback(cost, fixed, fixed)


def sign_symmetric(
    cost: Cost, *, seed: int = 0, scale: float = 0.5, B: Tensor | None = None
) -> Feedback:
    """Return sign-symmetric feedback with W2's signs and fixed random magnitudes (frSF).

    Q. Liao, J. Leibo, T. Poggio, How important is weight symmetry in backpropagation?, AAAI (2016).

    Args:
        cost: the training cost.
        seed: seed of the magnitudes, which depend on seed, scale and shape alone.
        scale: the magnitudes are drawn from U(0, scale).
        B: the matrix with the magnitudes of a resumed training, (n_y, n_h). None draws them.
    """
    fixed = _fixed_matrix(seed, scale, B)
    return Feedback(cost, partial(_with_signs, fixed=fixed), fixed)


def sign_concordant(cost: Cost) -> Feedback:
    """Return uniform sign-concordant feedback (uSF): errors return through sign(W2).

    Q. Liao, J. Leibo, T. Poggio, How important is weight symmetry in backpropagation?, AAAI (2016).
    """
    return Feedback(cost, torch.sign)


@dataclass(frozen=True)
class FlatSpot:
    """Rule with sigma' + offset wherever the textbook has sigma': saturated units keep learning.

    S. Fahlman, An empirical study of learning speed in back-propagation networks,
    CMU-CS-88-162 (1988), section 3.1.

    Attributes:
        cost: the training cost. Of the two costs, only the quadratic one has sigma' in dz2.
        offset: the constant that is added.
    """

    cost: Cost
    offset: float = 0.1

    @property
    def deviates(self) -> frozenset[str]:
        """Return dz1, and dz2 too under the quadratic cost."""
        return frozenset({"dz1", "dz2"} if self.cost.dz2 is backprop.quadratic_dz2 else {"dz1"})

    def __call__(
        self, params: Parameters, activations: Activations, X: Tensor, Y: Tensor
    ) -> Gradients:
        """Compute the textbook's six lines with sigma' + offset in place of sigma'."""
        backprop.require_shapes(params, X, Y, activations)
        W2, A1, m = params.W2, activations.A1, X.shape[0]
        dz2 = self.cost.dz2(activations, Y)  # (m, n_y)
        if self.cost.dz2 is backprop.quadratic_dz2:
            dz2 = dz2 + self.offset * backprop.cross_entropy_dz2(activations, Y)  # (m, n_y)
        dW2 = dz2.T @ A1 / m  # (n_y, n_h)
        db2 = dz2.sum(dim=0) / m  # (n_y,)
        dz1 = (dz2 @ W2) * (A1 * (1 - A1) + self.offset)  # (m, n_h)
        dW1 = dz1.T @ X / m  # (n_h, n_x)
        db1 = dz1.sum(dim=0) / m  # (n_h,)
        return Gradients(dz2, dW2, db2, dz1, dW1, db1)


flat_spot = FlatSpot  # the class is its factory


def makes_the_same_operations(rule: Rule) -> bool:
    """Return whether a rule makes the same operations at every call, whatever the numbers.

    Only the rules above, as their factories make them, are known to. A function, a dz2, a matrix or
    a subclass of the user's own may count its calls, look at values or leave PyTorch.
    """
    if isinstance(rule, partial) and type(rule) is partial:
        return rule.func is backprop.backward and not rule.args and _has_own_dz2(**rule.keywords)
    if isinstance(rule, Feedback) and type(rule) is Feedback:
        return _has_own_dz2(rule.cost.dz2) and _is_own_matrix(rule.matrix)
    return isinstance(rule, FlatSpot) and type(rule) is FlatSpot and _has_own_dz2(rule.cost.dz2)


def _has_own_dz2(dz2: object = backprop.cross_entropy_dz2, **others: object) -> bool:
    """Return whether dz2 is one of the two costs' and no other argument is bound."""
    return not others and dz2 in (backprop.cross_entropy_dz2, backprop.quadratic_dz2)


def _is_own_matrix(matrix: object) -> bool:
    """Return whether a function of W2 is one of the factories above."""
    if type(matrix) is partial and matrix.func is _with_signs:
        return _is_own_matrix(matrix.keywords["fixed"])
    return matrix is torch.sign or (
        type(matrix) is partial and matrix.func in (random_matrix, _like_weights)
    )

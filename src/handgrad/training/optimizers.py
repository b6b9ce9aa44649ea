"""Plain gradient descent, and optimizers with weight decay on the weights alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from typing_extensions import override

from handgrad.backprop import descend

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


class GradientDescent(torch.optim.Optimizer):
    """Steps by W := W - lr dW, b := b - lr db, or W := W - lr (dW + weight_decay W).

    It gives the same numbers as `torch.optim.SGD`, whose step costs more than a small network's
    products: one operation for all parameters, and PyTorch's hooks only where there are any.

    Args:
        params: parameters, or their groups.
        lr: the learning rate.
        weight_decay: of groups that do not name their own.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @override
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one update from `.grad`, between the hooks that are registered."""
        (self._hooked if _has_hooks(self) else self._descend)()

    step.hooked = True  # pyright: ignore - keeps PyTorch from doing at each step what _hooked does

    def _descend(self) -> None:
        if torch.is_grad_enabled():  # asking is cheaper than switching it off again
            with torch.no_grad():
                return self._descend()
        for group in self.param_groups:
            params = [each for each in group["params"] if each.grad is not None]
            gradients: list[Tensor] = [each.grad for each in params]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
            descend(params, gradients, group["lr"])
        return None

    _hooked = torch.optim.Optimizer.profile_hook_step(_descend)


def build(
    factory: OptimizerFactory,
    weights: list[Tensor],
    biases: list[Tensor],
    weight_decay: float | None,
) -> torch.optim.Optimizer:
    """Build the optimizer over weights and biases.

    Weight decay applies to the weights alone, as in the published tables (Nielsen, Neural Networks
    and Deep Learning, chapter 3, "Regularization").

    Args:
        factory: takes the parameters (or their groups) and gives the optimizer.
        weights: W1 and W2.
        biases: b1 and b2.
        weight_decay: per update, before the learning rate; None where the optimizer has none.
    """
    if weight_decay is None:
        return factory([*weights, *biases])
    if weight_decay == 0:  # said, because AdamW's own default is another
        return factory([{"params": [*weights, *biases], "weight_decay": 0.0}])
    return factory(
        [
            {"params": weights, "weight_decay": weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]
    )


def penalty(optimizer: torch.optim.Optimizer) -> float:
    """Return (1/2) weight_decay sum W^2, the term of the cost whose gradient is the weight decay.

    Nielsen, chapter 3, eq. 85; there lambda / n stands for the weight decay.
    """
    return sum(
        0.5 * group["weight_decay"] * float(parameter.detach().square().sum())
        for group in optimizer.param_groups
        if group.get("weight_decay")
        for parameter in group["params"]
    )


def leaves_gradients_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step neither keeps `.grad` nor writes into it.

    That is known of plain descent and of PyTorch's SGD, Adam and AdamW on the CPU, one tensor at a
    time. The versions for many tensors write Nesterov's step into `.grad`. A subclass, a hook or a
    patched step may do anything.
    """
    step = vars(optimizer).get("step")
    patched = step is not None and not hasattr(step, "_wrapped_by_lr_sched")
    one_by_one = not any(
        group.get("foreach") or group.get("fused") for group in optimizer.param_groups
    )
    on_cpu = all(each.is_cpu for group in optimizer.param_groups for each in group["params"])
    known = (GradientDescent, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    return (
        type(optimizer) in known
        and not _has_hooks(optimizer)
        and not patched
        and one_by_one
        and on_cpu
    )


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether anything is registered to run around a step of this or of all optimizers."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step evaluates cost and gradient several times, as a line search does."""
    return isinstance(optimizer, torch.optim.LBFGS)


def own_gradients(parameters: Sequence[Tensor]) -> None:
    """Give each `.grad` storage of its own, which neither the rule nor the next update knows."""
    for parameter in parameters:
        parameter.grad = None if parameter.grad is None else parameter.grad.clone()


def clip(parameters: Sequence[Tensor], norm: float | None) -> None:
    """Scale all gradients together so that their norm is at most `norm`, unless it is None."""
    if norm is not None:
        own_gradients(parameters)  # the rule's tensors are still to be checked
        clip_grad_norm_(parameters, norm)

"""From the configured optimizer to one over W1, b1, W2, b2: decay on weights, none on biases."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def build(
    factory: OptimizerFactory,
    weights: list[torch.nn.Parameter],
    biases: list[torch.nn.Parameter],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimizer over weights and biases.

    Weight decay is on the weights alone, as in the published tables (Nielsen, Neural Networks and
    Deep Learning, chapter 3, "Regularization").

    Args:
        factory: takes the parameters (or their groups) and gives the optimizer.
        weights: W1 and W2.
        biases: b1 and b2.
        weight_decay: per update, before the learning rate; 0 for none.
    """
    if not weight_decay:
        return factory([*weights, *biases])
    return factory(
        [
            {"params": weights, "weight_decay": weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]
    )


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step evaluates cost and gradient several times, as a line search does."""
    return isinstance(optimizer, torch.optim.LBFGS)


def clip(parameters: list[torch.nn.Parameter], norm: float | None) -> None:
    """Scale all gradients together so that their norm is at most `norm`; None leaves them."""
    if norm is not None:
        clip_grad_norm_(parameters, norm)

"""Planted mistakes: `backprop.backward` with wrong lines, to see what each does to training.

Every entry of `MISTAKES` reads `name: {left side: wrong right side}`. All other lines, the shape
checks and the speed are those of `backward` itself, because a planted rule is compiled from its
source. Every shape stays right, so the network trains and only its charts reveal the mistake.
"""

import ast
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Cost, Gradients, Parameters

MISTAKES: dict[str, dict[str, str]] = {
    # the mean over the m examples
    "missing_1_over_m": {"dW2": "dz2.T @ A1", "dW1": "dz1.T @ X"},
    "missing_1_over_m_bias": {"db1": "dz1.sum(dim=0)"},
    "double_1_over_m": {"dz1": "(dz2 @ W2) * A1 * (1 - A1) / m"},
    "dropped_last": {"dW1": "dz1[:-1].T @ X[:-1] / m"},
    "product_of_means": {"dW1": "dz1.mean(dim=0).outer(X.mean(dim=0))"},
    "bias_axis": {"db2": "dz2.sum().expand_as(params.b2) / m"},
    # sigma'(z1) = A1 * (1 - A1)
    "no_sprime": {"dz1": "dz2 @ W2"},
    "sprime_of_a": {"dz1": "(dz2 @ W2) * A1.sigmoid() * (1 - A1.sigmoid())"},
    "sprime_of_z": {"dz1": "(dz2 @ W2) * activations.z1 * (1 - activations.z1)"},
    "sprime_twice": {"dz1": "(dz2 @ W2) * A1 * (1 - A1) * A1 * (1 - A1)"},
    "tanh_prime": {"dz1": "(dz2 @ W2) * (1 - A1**2)"},
    # dz2, the cost's own line
    "sign": {"dz2": "-dz2(activations, Y)"},
    "factor_2": {"dz2": "2 * dz2(activations, Y)"},
    "factor_n_y": {"dz2": "dz2(activations, Y) / Y.shape[1]"},
    "quadratic_delta": {"dz2": "quadratic_dz2(activations, Y)"},
    "cross_entropy_delta": {"dz2": "cross_entropy_dz2(activations, Y)"},
    # the wrong tensor, or the right one the wrong way round
    "stale_W2": {"dz1": "(dz2 @ (W2 - dW2)) * A1 * (1 - A1)"},
    "z1_for_A1": {"dW2": "dz2.T @ activations.z1 / m"},
    "transposed": {"dW1": "(X.T @ dz1 / m).reshape_as(params.W1)"},
    "forgotten_bias": {"db1": "torch.zeros_like(params.b1)"},
}

# The dz2 under which an entry is the right line and not a mistake.
RIGHT_UNDER = {
    "quadratic_delta": backprop.quadratic_dz2,
    "cross_entropy_delta": backprop.cross_entropy_dz2,
}


def mistake(
    cost: Cost, mistake: str
) -> Callable[[Parameters, Activations, Tensor, Tensor], Gradients]:
    """Return the backward pass with the planted mistake of this name.

    Args:
        cost: the training cost.
        mistake: a name of `MISTAKES`.

    Raises:
        ValueError: if there is no such name, or if its line is right under this cost.
    """
    if mistake not in MISTAKES:
        nearest = get_close_matches(mistake, MISTAKES, n=1)
        meant = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ValueError(
            f"backward.mistake={mistake}: unknown mistake{meant}; accepted: {', '.join(MISTAKES)}"
        )
    if RIGHT_UNDER.get(mistake) is cost.dz2:
        raise ValueError(
            f"backward.mistake={mistake}: this dz2 is right under the cost of this run; "
            "choose the other cost or another mistake"
        )
    return partial(plant(MISTAKES[mistake]), dz2=cost.dz2)


def plant(wrong_lines: dict[str, str]) -> Callable[..., Gradients]:
    """Compile `backprop.backward` anew with other right sides.

    Args:
        wrong_lines: the expression that replaces the right side, for each name among dz2 dW2 db2
            dz1 dW1 db1. It can use every name that is assigned above it in `backward`.
    """
    tree = ast.parse(inspect.getsource(backprop.backward))
    for line in ast.walk(tree):
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            wrong = wrong_lines.get(line.targets[0].id)
            if wrong is not None:
                line.value = ast.parse(wrong, mode="eval").body
    namespace = dict(vars(backprop))
    exec(compile(tree, "backward with a planted mistake", "exec"), namespace)
    return namespace["backward"]

"""Draws the first weights and biases, in the published ways."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import init

from handgrad.backprop import Parameters

Fill = Callable[[Tensor, Tensor, Generator], None]  # writes one layer's weights and biases


def _xavier(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Draw weights from U(-r, r), r = sqrt(6 / (n_in + n_out)), with zero biases.

    X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
    AISTATS (2010), eq. 16.
    """
    init.xavier_uniform_(weight, generator=generator)
    init.zeros_(bias)


def _nielsen_small(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Draw weights from N(0, 1 / n_in) and biases from N(0, 1).

    M. Nielsen, Neural Networks and Deep Learning (2015), chapter 3, "Weight initialization".
    """
    init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    init.normal_(bias, generator=generator)


def _nielsen_large(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Draw weights and biases from N(0, 1).

    M. Nielsen, Neural Networks and Deep Learning (2015), chapter 1.
    """
    init.normal_(weight, generator=generator)
    init.normal_(bias, generator=generator)


def _small_random(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Draw weights from 0.01 N(0, 1), with zero biases.

    A. Ng, Neural Networks and Deep Learning (deeplearning.ai), week 3, "Random initialization".
    """
    init.normal_(weight, std=0.01, generator=generator)
    init.zeros_(bias)


def _uniform(weight: Tensor, bias: Tensor, generator: Generator, *, largest: float = 1.0) -> None:
    """Draw weights and biases from U(-largest, largest), as in the papers of the 1980s."""
    init.uniform_(weight, -largest, largest, generator=generator)
    init.uniform_(bias, -largest, largest, generator=generator)


def _zeros(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Set weights and biases to zero, so that every hidden unit stays the same as all others."""
    init.zeros_(weight)
    init.zeros_(bias)


INITIALIZATIONS: dict[str, Fill] = {
    "xavier": _xavier,
    "nielsen_small": _nielsen_small,
    "nielsen_large": _nielsen_large,
    "small_random": _small_random,
    "uniform": _uniform,
    "zeros": _zeros,
}


def initialize(
    name: str,
    input_features: int,
    hidden_features: int,
    output_features: int,
    *,
    generator: Generator,
    uniform_range: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Parameters:
    """Return the first parameters, a pure function of the arguments and the generator's state.

    They are drawn in float64 and then rounded, so that runs in different dtypes start alike.

    Args:
        name: one of `INITIALIZATIONS`.
        input_features: n_x.
        hidden_features: n_h.
        output_features: n_y.
        generator: on the CPU; torch.Generator().manual_seed(seed) for one seed's start.
        uniform_range: "uniform" draws from U(-uniform_range, uniform_range).
        dtype: of the result; PyTorch's default if None.

    Raises:
        ValueError: if no initialisation has this name, or the range is not a positive number.
    """
    if name not in INITIALIZATIONS:
        raise ValueError(
            f"model.init={name}: no such initialisation; accepted: {', '.join(INITIALIZATIONS)}"
        )
    if not 0 < uniform_range < float("inf"):
        raise ValueError(f"uniform_range is {uniform_range}, must be positive and finite")
    fill = INITIALIZATIONS[name]
    if name == "uniform":
        fill = partial(_uniform, largest=uniform_range)
    W1, b1 = _draw(fill, hidden_features, input_features, generator)
    W2, b2 = _draw(fill, output_features, hidden_features, generator)
    dtype = dtype or torch.get_default_dtype()
    return Parameters(W1.to(dtype), b1.to(dtype), W2.to(dtype), b2.to(dtype))


def _draw(fill: Fill, units: int, inputs: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw one layer's weights (units, inputs) and biases (units,), in float64."""
    weight = torch.empty(units, inputs, dtype=torch.float64, device="cpu")
    bias = torch.empty(units, dtype=torch.float64, device="cpu")
    fill(weight, bias, generator)
    return weight, bias

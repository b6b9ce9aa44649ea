"""Draws the first weights and biases, in the published ways."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import init

from handgrad.backprop import Parameters

Fill = Callable[[Tensor, Generator], object]  # draws the weights or the biases of one layer


def _zero(tensor: Tensor, generator: Generator) -> object:
    """Set all to zero."""
    return init.zeros_(tensor)


def _normal(tensor: Tensor, generator: Generator, *, std: float = 1.0) -> object:
    """Draw from N(0, std^2)."""
    return init.normal_(tensor, std=std, generator=generator)


def _uniform(tensor: Tensor, generator: Generator, *, largest: float = 1.0) -> object:
    """Draw from U(-largest, largest)."""
    return init.uniform_(tensor, -largest, largest, generator=generator)


INITIALIZATIONS: dict[str, tuple[Fill, Fill]] = {  # of the weights, then of the biases
    # Weights from U(-r, r), r = sqrt(6 / (n_in + n_out)), and zero biases: X. Glorot, Y. Bengio,
    # Understanding the difficulty of training deep feedforward neural networks, AISTATS (2010),
    # eq. 16.
    "xavier": (lambda weight, generator: init.xavier_uniform_(weight, generator=generator), _zero),
    # Weights from N(0, 1 / n_in), biases from N(0, 1): M. Nielsen, Neural Networks and Deep
    # Learning (2015), chapter 3, "Weight initialization".
    "nielsen_small": (lambda weight, g: _normal(weight, g, std=weight.shape[1] ** -0.5), _normal),
    # Both from N(0, 1): M. Nielsen, Neural Networks and Deep Learning (2015), chapter 1.
    "nielsen_large": (_normal, _normal),
    # Weights from 0.01 N(0, 1), and zero biases: A. Ng, Neural Networks and Deep Learning
    # (deeplearning.ai), week 3, "Random initialization".
    "small_random": (partial(_normal, std=0.01), _zero),
    # Both from U(-1, 1), or another range, as in the papers of the 1980s.
    "uniform": (_uniform, _uniform),
    # Every hidden unit stays the same as all others.
    "zeros": (_zero, _zero),
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
        draw = partial(_uniform, largest=uniform_range)
        fill = (draw, draw)
    W1, b1 = _draw(fill, hidden_features, input_features, generator)
    W2, b2 = _draw(fill, output_features, hidden_features, generator)
    dtype = dtype or torch.get_default_dtype()
    return Parameters(W1.to(dtype), b1.to(dtype), W2.to(dtype), b2.to(dtype))


def _draw(
    fill: tuple[Fill, Fill], units: int, inputs: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw one layer's weights (units, inputs) and biases (units,), in float64."""
    weight = torch.empty(units, inputs, dtype=torch.float64, device="cpu")
    bias = torch.empty(units, dtype=torch.float64, device="cpu")
    for draw, tensor in zip(fill, (weight, bias), strict=True):
        draw(tensor, generator)
    return weight, bias

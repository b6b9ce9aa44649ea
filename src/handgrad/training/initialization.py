"""Where descent starts: the published ways to draw the first weights and biases."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import init

from handgrad.backprop import Parameters

Fill = Callable[[Tensor, Tensor, Generator], None]  # writes one layer's weights and biases


def xavier(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Weights from U(-r, r), r = sqrt(6 / (n_in + n_out)); zero biases.

    X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
    AISTATS (2010), eq. 16.
    """
    init.xavier_uniform_(weight, generator=generator)
    init.zeros_(bias)


def nielsen_small(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Weights from N(0, 1 / n_in), biases from N(0, 1).

    M. Nielsen, Neural Networks and Deep Learning (2015), chapter 3, "Weight initialization".
    """
    init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    init.normal_(bias, generator=generator)


def nielsen_large(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Weights and biases from N(0, 1).

    M. Nielsen, Neural Networks and Deep Learning (2015), chapter 1.
    """
    init.normal_(weight, generator=generator)
    init.normal_(bias, generator=generator)


def small_random(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Weights from 0.01 N(0, 1), zero biases.

    A. Ng, Neural Networks and Deep Learning (deeplearning.ai), week 3, "Random initialization".
    """
    init.normal_(weight, std=0.01, generator=generator)
    init.zeros_(bias)


def uniform(weight: Tensor, bias: Tensor, generator: Generator, *, largest: float = 1.0) -> None:
    """Weights and biases from U(-largest, largest), as in the papers of the 1980s."""
    init.uniform_(weight, -largest, largest, generator=generator)
    init.uniform_(bias, -largest, largest, generator=generator)


def zeros(weight: Tensor, bias: Tensor, generator: Generator) -> None:
    """Zero weights and biases: every hidden unit stays the same as all others."""
    init.zeros_(weight)
    init.zeros_(bias)


INITIALIZATIONS: dict[str, Fill] = {
    "xavier": xavier,
    "nielsen_small": nielsen_small,
    "nielsen_large": nielsen_large,
    "small_random": small_random,
    "uniform": uniform,
    "zeros": zeros,
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
    """The first parameters, a pure function of the arguments and the generator's state.

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
        fill = partial(uniform, largest=uniform_range)
    W1, b1 = draw(fill, hidden_features, input_features, generator)
    W2, b2 = draw(fill, output_features, hidden_features, generator)
    dtype = dtype or torch.get_default_dtype()
    return Parameters(W1.to(dtype), b1.to(dtype), W2.to(dtype), b2.to(dtype))


def draw(fill: Fill, units: int, inputs: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One layer's weights (units, inputs) and biases (units,), in float64."""
    weight = torch.empty(units, inputs, dtype=torch.float64, device="cpu")
    bias = torch.empty(units, dtype=torch.float64, device="cpu")
    fill(weight, bias, generator)
    return weight, bias

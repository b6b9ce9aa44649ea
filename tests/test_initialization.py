"""Where descent starts: the distributions that the sources name, from one generator."""

import pytest
import torch

from handgrad.backprop import Parameters
from handgrad.training.initialization import INITIALIZATIONS, initialize

SIZES = (300, 200, 100)  # n_x, n_h, n_y: large enough to measure a spread
SHAPES = [(200, 300), (200,), (100, 200), (100,)]


def start(name: str, seed: int = 0, uniform_range: float = 1.0) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return initialize(
        name, *SIZES, generator=generator, uniform_range=uniform_range, dtype=torch.float64
    )


def assert_normal(tensor: torch.Tensor, std: float) -> None:
    n = tensor.numel()
    assert abs(float(tensor.mean())) < 4 * std / n**0.5
    assert float(tensor.std()) == pytest.approx(std, rel=4 / (2 * n) ** 0.5)
    if n > 10_000:
        assert float(tensor.abs().max()) > 3.5 * std  # no bound as a uniform one would have
        within = float((tensor.abs() < std).double().mean())
        assert within == pytest.approx(0.6827, abs=0.01)


def assert_uniform(tensor: torch.Tensor, largest: float) -> None:
    n = tensor.numel()
    assert float(tensor.abs().max()) <= largest
    assert float(tensor.abs().max()) > (1 - 10 / n) * largest
    assert abs(float(tensor.mean())) < 4 * largest / (3 * n) ** 0.5
    assert float(tensor.std()) == pytest.approx(largest / 3**0.5, rel=0.2)


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_shapes_are_those_of_linear_layers(name: str) -> None:
    params = start(name)
    assert [tuple(p.shape) for p in params] == SHAPES
    assert not any(p.requires_grad for p in params)


def test_xavier_is_uniform_with_glorots_range_and_zero_biases() -> None:
    W1, b1, W2, b2 = start("xavier")
    assert_uniform(W1, (6 / (300 + 200)) ** 0.5)
    assert_uniform(W2, (6 / (200 + 100)) ** 0.5)
    assert not b1.any()
    assert not b2.any()


def test_nielsen_small_divides_by_the_root_of_the_inputs() -> None:
    W1, b1, W2, b2 = start("nielsen_small")
    assert_normal(W1, 300**-0.5)
    assert_normal(W2, 200**-0.5)
    assert_normal(b1, 1.0)
    assert_normal(b2, 1.0)


def test_nielsen_large_is_standard_normal() -> None:
    for tensor in start("nielsen_large"):
        assert_normal(tensor, 1.0)


def test_small_random_is_a_hundredth_of_normal_with_zero_biases() -> None:
    W1, b1, W2, b2 = start("small_random")
    assert_normal(W1, 0.01)
    assert_normal(W2, 0.01)
    assert not b1.any()
    assert not b2.any()


@pytest.mark.parametrize("largest", [0.12, 1.0])
def test_uniform_draws_weights_and_biases_from_the_range(largest: float) -> None:
    for tensor in start("uniform", uniform_range=largest):
        assert_uniform(tensor, largest)


def test_zeros_are_zero() -> None:
    assert not any(tensor.any() for tensor in start("zeros"))


RANDOM = [name for name in INITIALIZATIONS if name != "zeros"]


@pytest.mark.parametrize("name", RANDOM)
def test_the_start_is_a_function_of_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, other = start(name, seed=0), start(name, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    again = start(name, seed=0)
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.W1, other.W1)
    assert not torch.equal(first.W2, other.W2)


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_every_dtype_starts_from_the_same_values(name: str) -> None:
    wide = start(name)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        narrow = initialize(name, *SIZES, generator=torch.Generator().manual_seed(0), dtype=dtype)
        assert all(torch.equal(a.to(dtype), b) for a, b in zip(wide, narrow, strict=True))


def test_the_dtype_is_pytorchs_default_unless_told() -> None:
    params = initialize("xavier", 2, 3, 1, generator=torch.Generator())
    assert {p.dtype for p in params} == {torch.get_default_dtype()}


def test_an_unknown_name_lists_the_accepted_ones() -> None:
    with pytest.raises(ValueError, match=r"model\.init=xavir: no such") as refusal:
        start("xavir")
    assert all(name in str(refusal.value) for name in INITIALIZATIONS)


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_no_range_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        start("uniform", uniform_range=largest)

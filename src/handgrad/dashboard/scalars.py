"""Curves of one update: its statistics, fetched from the device in one copy."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters, forward
from handgrad.dashboard.sections import PARAMETERS, TIERS
from handgrad.statistics import curvature
from handgrad.statistics.gradients import (
    angle,
    cosines,
    example_norms,
    gradient_products,
    gradient_variances,
    means,
    noise_scale,
    saturation,
    signal_to_noise,
    update_to_weight,
    vanishing,
    wide,
)

MEMORY = 0.9  # weight of what was known of the noise before, at each new point
POWER_STEPS = 10  # of the search for the largest eigenvalue, which starts from the one before
KNOWN = 2.0  # standard errors beyond which a sign is known
PAIRED = 256  # examples of a batch at most whose gradients are compared in pairs
QUANTILES = (0.1, 0.5, 0.9)


class ObservedUpdate(NamedTuple):
    """Holds one update before and after its step, and this device's last microbatch of it."""

    before: Parameters
    after: Parameters
    activations: Activations
    gradients: Gradients
    inputs: Tensor
    targets: Tensor
    step_gradient: list[Tensor]  # dW1, db1, dW2, db2 as the optimizer got them
    examples: int  # of the update, on all devices
    learning_rate: float
    cost: Cost


class Scalars:
    """Computes the quantities of a tier from an update, as finite numbers by tag.

    Args:
        tier: "lite", "full" or "deep".
        start: the parameters at the beginning, copied.
    """

    def __init__(self, tier: str, start: Parameters) -> None:
        self.tier, self.start = TIERS.index(tier), start
        self.previous: list[Tensor] | None = None
        self.noise, self.signal = 0.0, 0.0  # running sums with weights that fade
        self.direction: Parameters | None = None

    @torch.no_grad()
    def of(self, update: ObservedUpdate) -> dict[str, float]:
        """Return all quantities of an update that are finite."""
        tensors = self.basic(update)
        if update.gradients.dz1 is not None:  # a rule of four gradients gives none
            tensors |= self.backward_pass(update)
        if self.tier >= TIERS.index("full"):
            tensors |= self.more(update)
        if self.tier >= TIERS.index("deep"):
            tensors |= self.curvature(update)
        values = torch.stack([tensor.detach().float() for tensor in tensors.values()]).tolist()
        figures = self.running(dict(zip(tensors, values, strict=True)))
        figures |= {
            "step/learning_rate": update.learning_rate,
            "noise/log10_batch_size": float(update.examples),
            "cost/chance": figures.pop("cost/chance"),
        }
        return _finite(figures)

    def basic(self, update: ObservedUpdate) -> dict[str, Tensor]:
        """Measure step, sigmoids and norms, and the cost of answering 1/2 to everything."""
        hidden = saturation(update.activations.A1)  # how many still pass on an error
        half = torch.full_like(update.targets, 0.5)
        unknowing = update.activations._replace(z2=torch.zeros_like(half), A2=half)
        ratios = update_to_weight(update.before, update.after)
        norms = [torch.linalg.vector_norm(wide(each)) for each in update.step_gradient]
        return {
            **dict(zip(_each("step/log10_update_to_weight_"), ratios, strict=True)),
            "health/saturated_hidden": hidden.share,
            "health/saturated_output": saturation(update.activations.A2).share,
            "health/dead_units": hidden.dead_share,
            **_quantiles(hidden.slope, "health/slope"),
            **dict(zip(_each("backward/log10_norm_d"), norms, strict=True)),
            "cost/chance": update.cost.value(unknowing, update.targets),
        }

    def backward_pass(self, update: ObservedUpdate) -> dict[str, Tensor]:
        """Measure where the error shrinks on its way back, and how the gradients scatter."""
        chain = vanishing(update.before, update.gradients)
        norms = example_norms(update.activations, update.gradients, update.inputs).whole
        noise, signal, _ = noise_scale(norms, means(update.gradients))
        return {
            "backward/log10_dz2": chain.dz2,
            "backward/log10_W2T_dz2": chain.W2T_dz2,
            "backward/log10_dz1": chain.dz1,
            "backward/kept_by_W2": chain.kept_by_W2,
            "backward/kept_by_slope": chain.kept_by_slope,
            "noise": noise,
            "signal": signal,
            **_quantiles(norms, "noise/example_norm"),
        }

    def more(self, update: ObservedUpdate) -> dict[str, Tensor]:
        """Return the quantities that the full tier adds."""
        travelled = update_to_weight(self.start, update.after)
        found = {
            "step/distance_from_start_W1": travelled[0],
            "step/distance_from_start_W2": travelled[2],
        }
        if self.previous is not None:
            found["step/angle_to_previous"] = angle(self.previous, update.step_gradient)
        self.previous = [each.clone() for each in update.step_gradient]
        if update.gradients.dz1 is not None:
            variances = gradient_variances(update.activations, update.gradients, update.inputs)
            ratios = signal_to_noise(update.gradients, variances)
            for name, ratio in zip(PARAMETERS, ratios, strict=True):
                found[f"noise/known_signs_{name}"] = (ratio > KNOWN).float().mean()
            found["noise/agreement"] = _agreement(update)
        return found

    def curvature(self, update: ObservedUpdate) -> dict[str, Tensor]:
        """Return the quantities that the deep tier adds: the curvature after the step."""
        params = Parameters(*(wide(each) for each in update.after))
        inputs, targets = wide(update.inputs), wide(update.targets)
        activations = forward(params, inputs)
        hessian = curvature.hessian(params, activations, inputs, targets, cost=update.cost)
        if self.direction is None:
            draw = torch.Generator(inputs.device).manual_seed(0)  # not the training's
            self.direction = Parameters(
                *(torch.empty_like(each).normal_(generator=draw) for each in params)
            )
        top = curvature.largest_eigenvalue(hessian, self.direction, POWER_STEPS)
        self.direction = top.vector
        diagonal = curvature.gauss_newton_diagonal(params, activations, inputs, cost=update.cost)
        traces = {
            f"step/log10_gauss_newton_{name}": part.sum()
            for name, part in zip(PARAMETERS, diagonal, strict=True)
        }
        return {
            "step/log10_curvature": top.value,
            "step/rate_times_curvature": top.value * update.learning_rate,
            "step/stable_below": torch.full_like(top.value, 2.0),
            **traces,
        }

    def running(self, figures: dict[str, float]) -> dict[str, float]:
        """Add the noise scale over the points so far: noise and signal averaged, then divided."""
        noise, signal = figures.pop("noise", math.nan), figures.pop("signal", math.nan)
        if math.isfinite(noise + signal):
            self.noise = MEMORY * self.noise + noise
            self.signal = MEMORY * self.signal + signal
        if self.signal > 0:
            figures["noise/log10_scale"] = self.noise / self.signal
        return figures


def _agreement(update: ObservedUpdate) -> Tensor:
    """Return the mean cosine between gradients of different examples, or NaN for one example."""
    activations, gradients = update.activations, update.gradients
    products = gradient_products(
        activations._replace(A1=activations.A1[:PAIRED]),
        gradients._replace(dz2=gradients.dz2[:PAIRED], dz1=gradients.dz1[:PAIRED]),
        update.inputs[:PAIRED],
    )
    m = len(products)
    pairs = cosines(products).fill_diagonal_(0)
    return pairs.sum() / (m * (m - 1) or math.nan)


def _each(prefix: str) -> list[str]:
    """Return a tag for each parameter."""
    return [prefix + name for name in PARAMETERS]


def _quantiles(values: Tensor, tag: str) -> dict[str, Tensor]:
    """Return the quantiles of a band, each the value nearest in rank."""
    ordered = values.sort().values
    last = len(ordered) - 1
    return {f"{tag}_q{100 * each:.0f}": ordered[round(each * last)] for each in QUANTILES}


def _finite(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures that can be drawn, as logarithms where the tag says log10."""
    found = {}
    for tag, figure in figures.items():
        if "/log10_" in tag:
            figure = math.log10(figure) if figure > 0 else math.nan
        if math.isfinite(figure):
            found[tag] = figure
    return found

"""Statistics that one backward pass gives almost for free: norms, noise, saturation, curvature."""

from handgrad.statistics.curvature import gauss_newton_diagonal, hessian, largest_eigenvalue
from handgrad.statistics.gradients import (
    angle,
    cosines,
    example_norms,
    gradient_products,
    gradient_variances,
    noise_scale,
    saturation,
    signal_to_noise,
    update_to_weight,
    vanishing,
)

__all__ = [
    "angle",
    "cosines",
    "example_norms",
    "gauss_newton_diagonal",
    "gradient_products",
    "gradient_variances",
    "hessian",
    "largest_eigenvalue",
    "noise_scale",
    "saturation",
    "signal_to_noise",
    "update_to_weight",
    "vanishing",
]

"""Statistics that one backward pass gives almost for free: norms, noise, saturation, curvature."""

from handgrad.statistics.curvature import gauss_newton_diagonal as gauss_newton_diagonal
from handgrad.statistics.curvature import hessian as hessian
from handgrad.statistics.curvature import largest_eigenvalue as largest_eigenvalue
from handgrad.statistics.gradients import angle as angle
from handgrad.statistics.gradients import cosines as cosines
from handgrad.statistics.gradients import example_norms as example_norms
from handgrad.statistics.gradients import gradient_products as gradient_products
from handgrad.statistics.gradients import gradient_variances as gradient_variances
from handgrad.statistics.gradients import noise_scale as noise_scale
from handgrad.statistics.gradients import saturation as saturation
from handgrad.statistics.gradients import signal_to_noise as signal_to_noise
from handgrad.statistics.gradients import update_to_weight as update_to_weight
from handgrad.statistics.gradients import vanishing as vanishing

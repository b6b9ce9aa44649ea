"""Backward rules, each of which can replace `backprop.backward`."""

from handgrad.rules.autograd_function import TwoLayerCost, two_layer_cost
from handgrad.rules.feedback import (
    Feedback,
    FlatSpot,
    Rule,
    autograd,
    closed_form,
    feedback_alignment,
    flat_spot,
    random_matrix,
    sign_concordant,
    sign_symmetric,
)
from handgrad.rules.planted import MISTAKES, mistake
from handgrad.rules.user_function import custom

__all__ = [
    "MISTAKES",
    "Feedback",
    "FlatSpot",
    "Rule",
    "TwoLayerCost",
    "autograd",
    "closed_form",
    "custom",
    "feedback_alignment",
    "flat_spot",
    "mistake",
    "random_matrix",
    "sign_concordant",
    "sign_symmetric",
    "two_layer_cost",
]

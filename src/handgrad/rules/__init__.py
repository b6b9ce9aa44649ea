"""Backward rules, each of which can replace `backprop.backward`."""

from handgrad.rules.autograd_function import TwoLayerCost as TwoLayerCost
from handgrad.rules.autograd_function import two_layer_cost as two_layer_cost
from handgrad.rules.feedback import Feedback as Feedback
from handgrad.rules.feedback import FlatSpot as FlatSpot
from handgrad.rules.feedback import Rule as Rule
from handgrad.rules.feedback import autograd as autograd
from handgrad.rules.feedback import closed_form as closed_form
from handgrad.rules.feedback import feedback_alignment as feedback_alignment
from handgrad.rules.feedback import flat_spot as flat_spot
from handgrad.rules.feedback import random_matrix as random_matrix
from handgrad.rules.feedback import sign_concordant as sign_concordant
from handgrad.rules.feedback import sign_symmetric as sign_symmetric
from handgrad.rules.planted import MISTAKES as MISTAKES
from handgrad.rules.planted import mistake as mistake
from handgrad.rules.user_function import custom as custom

"""Histograms of the tensors of the equations, and the precision-recall curve of each output.

The histograms are counted on the device in 64 bins. The curves set one output against the
rest, over the validation split.
"""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import histogram_raw, pr_curve

from handgrad.backprop import Activations, Gradients, Parameters
from handgrad.dashboard.sections import HISTOGRAMS
from handgrad.statistics.gradients import wide

BINS = 64
EXAMPLES = 10_000  # of the split at most
THRESHOLDS = 127
OUTPUTS = 20  # at most


def precision_recall_summary(answers: Tensor, targets: Tensor, names: tuple[str, ...]) -> Summary:
    """Return the curves of the outputs.

    Args:
        answers: probabilities, (m, outputs).
        targets: in [0, 1], (m, outputs).
        names: of the classes or labels; with one output, that of the second class counts.
    """
    if targets.shape[1] == 1:
        names = names[-1:]
    right, said = (targets > 0.5).cpu().numpy(), answers.to("cpu", torch.float32).numpy()
    values = []
    for number, name in enumerate(names[:OUTPUTS]):
        tag = f"precision_recall/{name}"
        drawn = pr_curve(tag, right[:, number], said[:, number], THRESHOLDS)
        values += drawn.value
    return Summary(value=values)


@torch.no_grad()
def histogram_summary(
    params: Parameters, activations: Activations, gradients: Gradients
) -> Summary:
    """Return histograms of parameters, gradients and activations whose values are finite."""
    groups = {"parameters": params, "gradients": gradients, "activations": activations}
    values = []
    for group, names in HISTOGRAMS.items():
        for name in names:
            tensor = getattr(groups[group], name)
            if tensor is not None and (drawn := histogram(f"{group}/{name}", tensor)):
                values += drawn.value
    return Summary(value=values)


def histogram(tag: str, tensor: Tensor) -> Summary | None:
    """Return one histogram, or None where a value is not finite."""
    tensor = wide(tensor.detach())
    low, high = tensor.aminmax()
    ends = torch.stack([low, high, tensor.sum(), tensor.square().sum()])
    lowest, highest, total, squares = ends.tolist()
    if not ends.isfinite().all():
        return None
    if lowest == highest:
        lowest, highest = lowest - 0.5, highest + 0.5  # as torch.histc does
    counts = torch.histc(tensor, BINS, lowest, highest).tolist()
    width = (highest - lowest) / BINS
    limits = [lowest + width * (number + 1) for number in range(BINS)]
    return histogram_raw(tag, lowest, highest, tensor.numel(), total, squares, limits, counts)

"""A precision-recall curve for each output, one against the rest, over the validation part."""

# pyright: reportAttributeAccessIssue=false
# Protocol buffers make their classes when they are imported.

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import pr_curve

EXAMPLES = 10_000  # of the part at most
THRESHOLDS = 127
OUTPUTS = 20  # at most


def curves(answers: Tensor, targets: Tensor, names: tuple[str, ...]) -> Summary:
    """The curves of the outputs.

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

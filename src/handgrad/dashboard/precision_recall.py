"""A precision-recall curve for each output, one against the rest, over the validation part."""

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.pr_curve.summary import pb
from torch import Tensor

EXAMPLES = 10_000  # of the part at most
THRESHOLDS = 127


def curves(answers: Tensor, targets: Tensor, names: tuple[str, ...]) -> Summary:
    """The curves of all outputs.

    Args:
        answers: probabilities, (m, outputs).
        targets: in [0, 1], (m, outputs).
        names: of the classes or labels; with one output, that of the second class counts.
    """
    if targets.shape[1] == 1:
        names = names[-1:]
    right, said = (targets > 0.5).cpu().numpy(), answers.to("cpu", torch.float32).numpy()
    values = []
    for number, name in enumerate(names):
        drawn = pb(
            f"precision_recall/{name}",
            labels=right[:, number],
            predictions=said[:, number],
            num_thresholds=THRESHOLDS,
            description=f"Precision against recall of {name} against the rest, validation part.",
        )
        values += drawn.value
    return Summary(value=values)

"""Order the examples by the norm of their gradients: examples.csv, the suspicious labels first."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from handgrad.backprop import backward, forward
from handgrad.config.errors import printable
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork
from handgrad.runs.tables import safe
from handgrad.statistics.gradients import example_norms
from handgrad.tasks import build
from handgrad.tasks.predict import tabulate


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """List all examples that `ckpt_path` was trained, validated and tested on, or a file's rows.

    Raises:
        BadInput: if the checkpoint or the data cannot be read, or do not fit each other.
    """
    trained = build.restore(config, overrides, folder)
    data = trained.data
    data.setup("test")
    network = trained.network.to(data.dtype)
    tables = [_listed(network, data, split) for split in data.indices if len(data.indices[split])]
    table = pd.concat(tables).sort_values("gradient_norm", ascending=False, kind="stable")
    if trained.own_file:
        table["part"] = "file"
    if trained.note:
        print(printable(trained.note))
    path = folder / "examples.csv"
    table.to_csv(path, index=False)
    print(f"{len(table)} examples, the largest gradients first, are in {path}")


def _listed(network: TwoLayerNetwork, data: ExampleData, split: str) -> pd.DataFrame:
    """Return a row for each example of a split, in the split's order.

    The columns are row, label, prediction, probability (of the prediction), gradient_norm, part;
    with independent labels a label, a prediction and a probability for each of them.
    """
    answers, norms = _measure(network, data, split)
    examples, rows = data.examples, data.indices[split]
    table = tabulate(answers, examples, rows)
    if examples.multi_label:
        assert examples.target is not None, "the source was asked for a target"
        for name, column in zip(examples.class_names, examples.target[rows].T, strict=True):
            table[f"label_{safe(name)}"] = column
    else:
        probability = table.filter(regex="^probability_").max(axis=1)
        table = table[["row", "label", "prediction"]].assign(probability=probability)
    return table.assign(gradient_norm=norms, part=split)


@torch.no_grad()
def _measure(
    network: TwoLayerNetwork, data: ExampleData, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the network's answer to each example, and the norm of its gradient by the equations.

    The gradient is that of the network's cost, whatever rule trained it.

    Returns:
        Answers (m, outputs) and norms (m,).
    """
    answers, norms = [], []
    for inputs, targets in data.microbatches(split):
        activations = forward(network.params, inputs)
        gradients = backward(network.params, activations, inputs, targets, dz2=network.cost.dz2)
        answers.append(activations.A2.float())
        norms.append(example_norms(activations, gradients, inputs).whole)
    return torch.cat(answers).numpy(), torch.cat(norms).numpy()

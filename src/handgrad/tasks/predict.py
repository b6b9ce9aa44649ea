"""Predict with a trained network: predictions.csv, one row for each example."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from handgrad.config.errors import printable
from handgrad.data.examples import Examples
from handgrad.runs.tables import safe
from handgrad.tasks import build


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Predict the test split of the training's data, or every row of a file named for it.

    Raises:
        BadInput: if the checkpoint or the data cannot be read, or do not fit each other.
    """
    trained = build.restore(config, overrides, folder, target_required=False)
    trainer = build.trainer({**trained.config, "logger": {}}, folder, extra=[])
    answers = trainer.predict(trained.network, datamodule=trained.data)
    table = tabulate(
        torch.cat(answers).float().numpy(),  # pyright: ignore[reportArgumentType] - one loader
        trained.data.examples,
        trained.data.indices["test"],
    )
    if trained.note:
        print(printable(trained.note))
    path = folder / "predictions.csv"
    table.to_csv(path, index=False)
    print(f"{len(table)} predictions are in {path}")


def tabulate(answers: np.ndarray, examples: Examples, rows: np.ndarray) -> pd.DataFrame:
    """Return a row for each example: its row in the data, probabilities, prediction, known label.

    Args:
        answers: of the network, (m, outputs) in 0..1.
        examples: the whole data.
        rows: the examples that the answers belong to, (m,).
    """
    names = np.array([safe(name) for name in examples.class_names])
    if examples.n_outputs == 1 and not examples.multi_label:
        answers = np.hstack([1 - answers, answers])
    table = pd.DataFrame(answers, columns=[f"probability_{name}" for name in names])
    table.insert(0, "row", rows)
    if examples.multi_label:
        table[[f"prediction_{name}" for name in names]] = (answers > 0.5).astype(int)
    else:
        table["prediction"] = names[answers.argmax(axis=1)]
        if examples.target is not None:
            table["label"] = names[examples.target[rows]]
    return table

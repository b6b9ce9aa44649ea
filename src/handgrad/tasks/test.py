"""Test a trained network: cost and accuracy, every example counted once."""

from pathlib import Path
from typing import Any

from handgrad.config.errors import printable
from handgrad.runs.folder import place_for_figures, write_json
from handgrad.tasks import build


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Test `ckpt_path` on the test split of its data, or on every row of a file named for it.

    Raises:
        BadInput: if the checkpoint or the data cannot be read, or do not fit each other.
    """
    trained = build.restore(config, overrides, folder)
    trainer = build.trainer(trained.config, folder, extra=[])
    trainer.test(trained.network, datamodule=trained.data, verbose=False)
    if trainer.is_global_zero:
        if trained.note:
            print(printable(trained.note))
        metrics = trained.network.published
        figures = place_for_figures(folder, "test")
        write_json(figures, {**metrics, "run/devices": trainer.world_size})
        accuracy, cost = f"{metrics['accuracy/test']:.2%}", f"{metrics['cost/test']:.4f}"
        print(f"{len(trained.data.splits['test'])} examples: accuracy {accuracy}, cost {cost}")

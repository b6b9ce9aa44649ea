"""What an earlier command, interrupted or not, left in a run's folder."""

import json
from pathlib import Path
from typing import Any

from handgrad.errors import BadInput
from handgrad.saved import load

FREE = (
    *("task", "ckpt_path", "on_change", "logger", "dashboard"),
    *("benchmark", "replay", "tune", "compare"),
)
"""Groups that make no difference to what a run trains."""


def last_state(folder: Path) -> Path:
    """The newest checkpoint of a run."""
    return folder / "checkpoints" / "last.ckpt"


def is_done(folder: Path) -> bool:
    """Whether a run came to its end: the final figures are written last."""
    return "run/updates" in figures(folder)


def figures(folder: Path) -> dict[str, Any]:
    """The final figures of a run; none where it did not come to its end."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def checkpoint_to_continue(folder: Path, config: dict[str, Any]) -> str | None:
    """The `ckpt_path` with which a run goes on where it was; None where nothing is there.

    Args:
        folder: of the run.
        config: of the run.

    Raises:
        BadInput: if what lies there was trained with other settings.
    """
    if not last_state(folder).is_file():
        return None
    was = load(last_state(folder))["config"]
    for name in (config.keys() & was.keys()) - set(FREE):  # a key may be younger than the run
        if bare(was[name]) != bare(config[name]):
            raise BadInput(
                f"{folder} was trained with other settings of {name}; name another folder for "
                "these runs, or give the settings it had"
            )
    return "last"


def bare(value: Any) -> Any:
    """A group without what only the screen shows."""
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key != "enable_progress_bar"}
    return value

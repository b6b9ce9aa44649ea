"""Trained networks: where a checkpoint lies, and what is in it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from handgrad.config.errors import BadInput
from handgrad.module import TwoLayerNetwork
from handgrad.runs.checkpoint_content import check_content
from handgrad.runs.checkpoint_file import Damaged, read

# FOLDED from earlier.py: "What an earlier command, interrupted or not, left in a run's folder."
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


MEANT = {"best": ["best"], "last": ["last", "previous"]}  # files by the names in ckpt_path


class Saved(NamedTuple):
    """A checkpoint that was read."""

    path: Path
    checkpoint: dict[str, Any]
    passed_over: str = ""  # what is wrong with a newer one; empty where nothing is


def find(ckpt_path: str, folder: Path, prefer: str = "last") -> Saved:
    """The checkpoint that `ckpt_path` means; of the newest two, the first that is not damaged.

    Args:
        ckpt_path: a file, a run's folder, or "best" or "last" of this run's folder.
        folder: of this run.
        prefer: which of a run's checkpoints is meant by its folder, "best" or "last".

    Raises:
        BadInput: if there is none, or none that is not damaged.
    """
    if ckpt_path in ("best", "last"):
        paths = within(folder, ckpt_path)
    elif Path(ckpt_path).is_dir():
        paths = within(Path(ckpt_path), prefer)
        if prefer == "best" and not paths[0].is_file():
            paths = within(Path(ckpt_path), "last")
    else:
        paths = [Path(ckpt_path)]
    there = [path.resolve() for path in paths if path.is_file()]  # .latest will lead elsewhere
    if not there:
        raise BadInput(f"ckpt_path={ckpt_path}: there is no file {paths[0]}")
    return first_good(there)


def within(folder: Path, name: str) -> list[Path]:
    """A run's checkpoints that are meant by "best" or "last", the newest first."""
    return [folder / "checkpoints" / f"{each}.ckpt" for each in MEANT[name]]


def first_good(paths: list[Path]) -> Saved:
    """The first of some files that is not damaged.

    Raises:
        BadInput: if all are damaged; one line that names a good one of the same folder.
    """
    passed_over: list[str] = []
    for path in paths:
        try:
            return Saved(path, load(path), "; ".join(passed_over))
        except Damaged as error:
            passed_over.append(str(error))
    raise BadInput(f"ckpt_path={'; '.join(passed_over)}{instead(paths)}")


def instead(damaged: list[Path]) -> str:
    """The newest checkpoint beside a damaged one that can be used; empty where there is none."""
    good: list[tuple[int, Path]] = []
    for path in damaged[0].parent.glob("*.ckpt"):
        with suppress(Damaged):
            if path not in damaged:
                good.append((load(path)["global_step"], path))
    if not good:
        return ""
    updates, path = max(good)
    return f"; ckpt_path={path} is good (update {updates})"


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours holds; nothing in it is executed.

    Raises:
        Damaged: if it cannot be used.
    """
    checkpoint = read(path)
    if "config" not in checkpoint:
        raise Damaged(path, "not a checkpoint of handgrad")
    check_content(checkpoint, path)
    return checkpoint


def network(checkpoint: dict[str, Any]) -> TwoLayerNetwork:
    """The trained network of a checkpoint that `load` gave."""
    made = TwoLayerNetwork(**checkpoint["hyper_parameters"])
    made.load_state_dict(checkpoint["state_dict"])
    return made

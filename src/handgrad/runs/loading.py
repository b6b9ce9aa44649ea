"""Checkpoints to apply or to resume: where one is, what it contains, and what a run left behind."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from handgrad.config.compose import arguments
from handgrad.config.errors import BadInput, warn
from handgrad.config.schema import BY_TARGET
from handgrad.config.validate import check, schema_of
from handgrad.module import TwoLayerNetwork
from handgrad.runs.checkpoint_content import check_content
from handgrad.runs.checkpoint_file import Damaged, read

MEANT = {"best": ["best"], "last": ["last", "previous"]}  # files by the names in ckpt_path
FREE = (
    *("task", "ckpt_path", "on_change", "logger", "dashboard"),
    *("benchmark", "replay", "tune", "compare"),
)
"""Groups that make no difference to what a run trains."""
_FIGURES = TypeAdapter(dict[str, int | float | list[str]])
UNTRAINED = ("enable_progress_bar", "strategy")  # keys likewise; strategy is of older runs


class Saved(NamedTuple):
    """Holds a checkpoint that was read."""

    path: Path
    checkpoint: dict[str, Any]
    passed_over: str = ""  # what is wrong with a newer one; empty where nothing is


def find(ckpt_path: str, folder: Path, prefer: str = "last") -> Saved:
    """Read the checkpoint that `ckpt_path` means, or the one before it where that is damaged.

    Args:
        ckpt_path: a file, a run's folder, or "best" or "last" of this run's folder.
        folder: of this run.
        prefer: which of a run's checkpoints its folder stands for, "best" or "last".

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
    existing = [path.resolve() for path in paths if path.is_file()]  # .latest will lead elsewhere
    if not existing:
        raise BadInput(f"ckpt_path={ckpt_path}: there is no file {paths[0]}")
    return _first_good(existing)


def within(folder: Path, name: str) -> list[Path]:
    """Return the checkpoints of a run that "best" or "last" means, newest first."""
    return [folder / "checkpoints" / f"{each}.ckpt" for each in MEANT[name]]


def _first_good(paths: list[Path], *, checked: bool = True) -> Saved:
    """Read the first of some files that is not damaged, as `load` does.

    Raises:
        BadInput: if all are damaged; one line that names a good one of the same folder.
    """
    passed_over: list[str] = []
    for path in paths:
        try:
            return Saved(path, load(path, checked=checked), "; ".join(passed_over))
        except Damaged as error:
            passed_over.append(str(error))
    raise BadInput(f"ckpt_path={'; '.join(passed_over)}{_good_one_beside(paths)}")


def _good_one_beside(damaged: list[Path]) -> str:
    """Name the newest usable checkpoint of the run that has damaged ones, if there is one."""
    beside = [damaged[0].with_name(f"{name}.ckpt") for names in MEANT.values() for name in names]
    good = [path for path in beside if path.is_file() and path not in damaged]
    for path in sorted(good, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(Damaged):
            updates = load(path)["global_step"]
            return f"; {arguments({'ckpt_path': path})} is good (update {updates})"
    return ""


def load(path: Path, *, checked: bool = True) -> dict[str, Any]:
    """Return what a checkpoint of handgrad contains, without executing any of it.

    Args:
        path: of the file.
        checked: whether every byte is checked; otherwise for a look at the settings alone.

    Raises:
        Damaged: if it cannot be used.
    """
    checkpoint = read(path, checked=checked)
    check_content(checkpoint, path)
    return checkpoint


def data_node(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the part of a checkpoint's configuration that says which data trained it.

    Raises:
        BadInput: if it does not name a source of this package with that source's keys.
    """
    node = checkpoint["config"].get("data")
    target = node.get("_target_") if isinstance(node, dict) else None
    if target is None or target not in BY_TARGET["data"]:
        raise BadInput(
            f"ckpt_path={path}: its data come from {str(target)[:60]!r}, which a checkpoint must "
            "not name; name the data for this run, such as data=csv data.path=FILE"
        )
    try:
        check(schema_of("data", node), node, "data.")
    except BadInput as error:
        raise BadInput(f"ckpt_path={path}: in its configuration, {error}") from None
    return node


def network(checkpoint: dict[str, Any]) -> TwoLayerNetwork:
    """Make the trained network of a checkpoint that `load` returned."""
    state = checkpoint["state_dict"]
    made = TwoLayerNetwork(**checkpoint["hyper_parameters"]).to(state["W1"].dtype)
    made.load_state_dict(state)
    return made


def last_state(folder: Path) -> Path:
    """Return the path of a run's newest checkpoint."""
    return within(folder, "last")[0]


def is_done(folder: Path) -> bool:
    """Return whether a run came to its end: the final figures are written last."""
    return "run/updates" in figures(folder)


def figures(folder: Path) -> dict[str, Any]:
    """Return the final figures of a run, or none if it did not come to its end.

    A file that was cut short counts as none, so that the end of the run is made again.
    """
    path = folder / "metrics.json"
    try:
        return _FIGURES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        warn(f"{path} is damaged: it does not contain the final figures of a run")
        return {}


def checkpoint_to_continue(folder: Path, config: dict[str, Any]) -> str | None:
    """Return the `ckpt_path` that resumes a run of a sweep, or None if it left no checkpoint.

    Args:
        folder: of the run.
        config: of the run.

    Raises:
        BadInput: if the checkpoint was trained with other settings.
    """
    paths = [path for path in within(folder, "last") if path.is_file()]
    if not paths:
        return None
    was, now = settings(_first_good(paths, checked=False).checkpoint["config"]), settings(config)
    for name in now:
        if was.get(name, now[name]) != now[name]:  # a group may be younger than the run
            raise BadInput(
                f"{folder} was trained with other settings of {name}; name another folder for "
                "these runs, or give the settings it had"
            )
    return "last"


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the groups of a configuration that make a difference to what a run trains."""
    kept = {name: node for name, node in config.items() if name not in FREE}
    for name, node in kept.items():
        if isinstance(node, dict):
            kept[name] = {key: value for key, value in node.items() if key not in UNTRAINED}
    return kept

"""Trained networks: where a checkpoint lies, and what is in it."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from handgrad import build
from handgrad.checkpoint_content import check_content, data_node
from handgrad.checkpoint_files import Damaged, read
from handgrad.data.module import ExampleData
from handgrad.errors import BadInput
from handgrad.module import TwoLayerNetwork

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


class Trained(NamedTuple):
    """A trained network with the data to apply it to."""

    network: TwoLayerNetwork
    data: ExampleData
    config: dict[str, Any]  # of this run, with the training's seed, and its data unless named
    own_file: bool  # whether the data are a file named for this run: then every row counts


def restore(config: dict[str, Any], overrides: list[str], folder: Path) -> Trained:
    """The network of `ckpt_path` and the data it was trained on, or those named for this run.

    Args:
        config: of this run.
        overrides: given for this run; `data=` among them replaces what training used.
        folder: of this run.

    Raises:
        BadInput: if the checkpoint cannot be read.
    """
    path, checkpoint, _ = find(config["ckpt_path"], folder, prefer="best")
    own = any(override.startswith(("data=", "experiment=")) for override in overrides)
    node = config["data"] if own else data_node(checkpoint, path)
    config = {**config, "data": node, "seed": checkpoint["hyper_parameters"]["seed"]}
    data = build.data(config)
    data.load_state_dict(checkpoint["ExampleData"])
    return Trained(network(checkpoint), data, config, own_file=own and "path" in node)

"""Trained networks: where a checkpoint lies, and what is in it."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

from handgrad import build
from handgrad.checkpoint_content import check_content, data_node
from handgrad.data.module import ExampleData
from handgrad.errors import BadInput
from handgrad.module import TwoLayerNetwork


def find(ckpt_path: str, folder: Path, prefer: str = "last") -> Path:
    """The checkpoint that `ckpt_path` means.

    Args:
        ckpt_path: a file, a run's folder, or "best" or "last" of this run's folder.
        folder: of this run.
        prefer: which of a run's checkpoints is meant by its folder, "best" or "last".

    Raises:
        BadInput: if there is none.
    """
    if ckpt_path in ("best", "last"):
        path = folder / "checkpoints" / f"{ckpt_path}.ckpt"
    elif Path(ckpt_path).is_dir():
        path = Path(ckpt_path) / "checkpoints" / f"{prefer}.ckpt"
        if not path.exists():
            path = path.with_name("last.ckpt")
    else:
        path = Path(ckpt_path)
    if not path.is_file():
        raise BadInput(f"ckpt_path={ckpt_path}: there is no file {path}")
    return path.resolve()  # .latest will lead to this very run as soon as it trains


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; nothing in it is executed.

    Raises:
        BadInput: if it is damaged, or not one of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose advice, to load it all the same, is not repeated
        raise BadInput(
            f"ckpt_path={path}: damaged, or holds more than numbers and text: refused unexecuted"
        ) from None
    except Exception as error:  # reading arbitrary bytes as a pickle may raise anything
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BadInput(f"ckpt_path={path}: damaged or not a checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise BadInput(f"ckpt_path={path}: not a checkpoint of handgrad")
    check_content(checkpoint, path)
    return checkpoint


def network(checkpoint: dict[str, Any]) -> TwoLayerNetwork:
    """The trained network of a checkpoint that `load` gave."""
    made = TwoLayerNetwork(**checkpoint["hyper_parameters"])
    made.load_state_dict(checkpoint["state_dict"])
    return made


def check_resumable(path: Path, config: dict[str, Any], network: TwoLayerNetwork) -> None:
    """Refuse a checkpoint that this run cannot continue from.

    Raises:
        BadInput: if it is damaged, of another size, or of another optimizer.
    """
    checkpoint = load(path)
    was, now = checkpoint["config"]["optimizer"]["_target_"], config["optimizer"]["_target_"]
    if was != now:
        raise BadInput(f"ckpt_path={path}: it was trained with {was}, not {now}; see optimizer")
    for name, mine in network.state_dict().items():
        its = checkpoint["state_dict"][name]
        if its.shape != mine.shape:
            raise BadInput(
                f"ckpt_path={path}: its {name} is {tuple(its.shape)}, this run's "
                f"{tuple(mine.shape)}; see model.hidden and data"
            )


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
    path = find(config["ckpt_path"], folder, prefer="best")
    checkpoint = load(path)
    own = any(override.startswith(("data=", "experiment=")) for override in overrides)
    node = config["data"] if own else data_node(checkpoint, path)
    config = {**config, "data": node, "seed": checkpoint["hyper_parameters"]["seed"]}
    data = build.data(config)
    data.load_state_dict(checkpoint["ExampleData"])
    return Trained(network(checkpoint), data, config, own_file=own and "path" in node)

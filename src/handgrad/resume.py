"""Where a training begins: at the beginning, or with the checkpoint that `ckpt_path` means."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from handgrad import saved
from handgrad.checkpoint_files import keep
from handgrad.csv_log import CsvLog
from handgrad.dashboard.event_log import EventLog
from handgrad.errors import BadInput
from handgrad.fingerprint import differences
from handgrad.module import TwoLayerNetwork


class Start(NamedTuple):
    """Where a training begins."""

    path: Path | None  # of the checkpoint; None at the beginning
    updates: int  # made before
    notes: list[str]  # what the user is to know of it
    nothing_left: bool  # whether the training is done, its final figures included


def find(
    config: dict[str, Any], folder: Path, fingerprint: dict[str, Any], network: TwoLayerNetwork
) -> Start:
    """Where this training begins.

    Args:
        config: validated.
        folder: of this run.
        fingerprint: of this training.
        network: as this run has made it.

    Raises:
        BadInput: if there is no such checkpoint, or this run cannot go on from it.
    """
    ckpt_path = config["ckpt_path"]
    if ckpt_path is None:
        return Start(None, 0, [], nothing_left=False)
    if ckpt_path == "last" and not any(path.is_file() for path in saved.within(folder, "last")):
        note = f"ckpt_path=last: there is none in {folder} yet; training starts from the beginning"
        return Start(None, 0, [note], nothing_left=False)
    path, checkpoint, passed_over = saved.find(ckpt_path, folder)
    check_fits(path, checkpoint, config, fingerprint, network)
    updates = checkpoint["global_step"]
    left = not (finished(config, checkpoint) and reported(path.parent.parent, updates))
    notes = [f"warning: {passed_over}"] if passed_over else []
    if left:
        notes.append(f"going on after update {updates} of {path}")
        was, now = checkpoint["config"]["optimizer"]["lr"], config["optimizer"]["lr"]
        if was != now:
            notes.append(f"optimizer.lr={was} in the checkpoint, {now} from here on")
        if changed := differences(checkpoint["fingerprint"], fingerprint):
            notes.append(f"on_change=accept: it was trained with {'; with '.join(changed)}")
    else:
        notes.append(
            f"nothing is left to do: {path.parent.parent} made all of its {updates} updates"
        )
    return Start(path, updates, notes, nothing_left=not left)


def check_fits(
    path: Path,
    checkpoint: dict[str, Any],
    config: dict[str, Any],
    fingerprint: dict[str, Any],
    network: TwoLayerNetwork,
) -> None:
    """Refuse a checkpoint that this run cannot continue from, or not with the same result.

    Raises:
        BadInput: if it is of another size or optimizer, or, unless on_change=accept, of a training
            with any other setting that its result depends on.
    """
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
    changed = differences(checkpoint["fingerprint"], fingerprint)
    if changed and config["on_change"] == "stop":
        raise BadInput(
            f"ckpt_path={path}: it was trained with {'; with '.join(changed)}; "
            "on_change=accept goes on all the same"
        )


def finished(config: dict[str, Any], checkpoint: dict[str, Any]) -> bool:
    """Whether a training with this configuration would end at this state."""
    trainer, patience = config["trainer"], config["callbacks"]["early_stopping"]["patience"]
    updates = checkpoint["global_step"]
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    waited = [
        state["wait_count"]
        for name, state in checkpoint["callbacks"].items()
        if name.startswith("Patience")
    ]
    enough = epochs >= (trainer["min_epochs"] or 0) and updates >= (trainer["min_steps"] or 0)
    return (
        0 < trainer["max_steps"] <= updates
        or 0 < trainer["max_epochs"] <= epochs
        or bool(patience and enough and waited and waited[0] >= patience)
    )


def reported(folder: Path, updates: int) -> bool:
    """Whether a run's final figures, which are written last, are those after so many updates."""
    path = folder / "metrics.json"
    if not path.is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("run/updates") == updates


def prepare(start: Start, folder: Path, trainer: L.Trainer) -> None:
    """Let the folder hold nothing that comes after this training's beginning, or is of another.

    Args:
        start: where it begins.
        folder: of this run, claimed by this process.
        trainer: with its loggers.
    """
    last, previous = saved.within(folder, "last")
    (best,) = saved.within(folder, "best")
    if start.path is None or start.path.parent != last.parent.resolve():
        for path in (last, previous, best):
            path.unlink(missing_ok=True)
    elif start.path == previous.resolve():
        keep(previous, last)  # in place of the damaged one, which must not become the previous one
    known = start.updates if start.path else -1
    for log in trainer.loggers:
        if isinstance(log, CsvLog) or (
            isinstance(log, EventLog) and any(folder.glob("events.out.tfevents.*"))
        ):
            log.forget_after(known)

"""Resuming: where a training begins, and whether a checkpoint fits the training that resumes it.

A training is identified by the keys that decide what it computes and a digest of its data, which
every checkpoint contains: only the same training resumes it.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np

from handgrad.config.errors import BadInput
from handgrad.data.checks import row_slices
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork
from handgrad.runs import loading
from handgrad.runs.checkpoint_file import CheckpointFiles, Damaged, keep
from handgrad.runs.checkpointing import BestCheckpoint, Resumable
from handgrad.runs.curves import LearningCurves
from handgrad.runs.folder import check_free, is_ours, set_aside

GROUPS = ("model", "backward", "optimizer", "scheduler")  # every key of these
KEYS = ("cost", "seed", "reproducible", "on_nonfinite")
DATA_KEYS = ("batch_size", "microbatch", "passes_per_epoch")
TRAINER_KEYS = ("precision", "limit_train_batches", "val_check_interval", "check_val_every_n_epoch")
FREE = ("optimizer.lr",)  # may change when a training is resumed
HASHED_BYTES = 2**25  # of a large array, in rows evenly spread


@dataclass
class Start:
    """Holds where a training begins.

    Attributes:
        path: of the checkpoint; None at the beginning.
        updates: made before.
        notes: what the user should know of it.
        nothing_left: whether the training is done, its final figures included.
        checkpoint: as it was read, until the Trainer has it.
    """

    path: Path | None
    updates: int
    notes: list[str]
    nothing_left: bool
    checkpoint: dict[str, Any] | None = None

    def state(self) -> str:
        """Return what tells the state in which a training begins from another one."""
        if self.path is None:
            return "none"
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]
        return f"{self.path.name} of update {self.updates}, digest {digest}"

    def hand_to(self, trainer: L.Trainer) -> Path | None:
        """Return the path, and give the Trainer the checkpoint, so that it is not read again."""
        if self.path is not None and self.checkpoint is not None:
            files = trainer.strategy.checkpoint_io
            assert isinstance(files, CheckpointFiles), "every Trainer is made with them"
            files.hand_on(self.path, self.checkpoint)
            self.checkpoint = None
        return self.path


def find(
    config: dict[str, Any], folder: Path, fingerprint: dict[str, Any], network: TwoLayerNetwork
) -> Start:
    """Find where this training begins.

    Args:
        config: validated.
        folder: of this run.
        fingerprint: of this training.
        network: as this run has made it.

    Raises:
        BadInput: if there is no such checkpoint, or this run cannot resume it.
    """
    ckpt_path = config["ckpt_path"]
    if ckpt_path is None:
        return Start(None, 0, [], nothing_left=False)
    if ckpt_path == "last" and not any(path.is_file() for path in loading.within(folder, "last")):
        note = f"ckpt_path=last: there is none in {folder} yet; training starts from the beginning"
        return Start(None, 0, [note], nothing_left=False)
    path, checkpoint, passed_over = loading.find(ckpt_path, folder)
    _check_fits(path, checkpoint, config, fingerprint, network)
    run, updates = path.parent.parent, checkpoint["global_step"]
    notes = [f"warning: {passed_over}"] if passed_over else []
    if _is_finished(config, checkpoint) and loading.figures(run).get("run/updates") == updates:
        notes.append(f"nothing is left to do: {run} made all of its {updates} updates")
        return Start(path, updates, notes, nothing_left=True)
    _check_not_beyond(path, checkpoint, config["trainer"])
    checkpoint["callbacks"].pop("Timer", None)  # trainer.max_time is the time of one life
    notes.append(f"resuming {path} after update {updates}")
    was, now = checkpoint["config"]["optimizer"]["lr"], config["optimizer"]["lr"]
    if was != now:
        notes.append(f"optimizer.lr={was} in the checkpoint, {now} from here on")
    if changed := _differences(checkpoint["fingerprint"], fingerprint):
        notes.append(f"on_change=accept: it was trained with {'; with '.join(changed)}")
    return Start(path, updates, notes, nothing_left=False, checkpoint=checkpoint)


def _check_fits(
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
    changed = _differences(checkpoint["fingerprint"], fingerprint)
    if changed and config["on_change"] == "stop":
        raise BadInput(
            f"ckpt_path={path}: it was trained with {'; with '.join(changed)}; "
            "on_change=accept resumes it nevertheless"
        )


def _check_not_beyond(path: Path, checkpoint: dict[str, Any], trainer: dict[str, Any]) -> None:
    """Refuse a training that is to be shorter than it is already.

    Raises:
        BadInput: with the length that it has.
    """
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    for key, made in (("max_epochs", epochs), ("max_steps", checkpoint["global_step"])):
        if 0 <= trainer[key] < made:
            raise BadInput(
                f"trainer.{key}={trainer[key]}: nothing is left to do, {path} is in its "
                f"{'epoch' if key == 'max_epochs' else 'update'} {made}; trainer.{key}={made} or "
                "more resumes it, task=test tests it"
            )


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs, each with both values, of which None stands for a missing key."""
    return [
        f"{key}={was.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys((*was, *now))
        if was.get(key) != now.get(key)
    ]


def _is_finished(config: dict[str, Any], checkpoint: dict[str, Any]) -> bool:
    """Return whether a training with this configuration would end at this state."""
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


@runtime_checkable
class _GoesOn(Protocol):
    """A logger whose files continue where an earlier life of the run stopped."""

    def forget_after(self, step: int) -> None:
        """Drop the points after an update, or all of them if it is -1."""
        ...


def prepare(start: Start, folder: Path, trainer: L.Trainer) -> None:
    """Remove from the folder what comes after this training's beginning, and nothing else.

    Args:
        start: where the training begins.
        folder: of this run, claimed by this process.
        trainer: with its loggers.

    Raises:
        BadInput: if the folder contains what a training from the beginning would replace.
    """
    last, previous = loading.within(folder, "last")
    (best,) = loading.within(folder, "best")
    here = start.path is not None and start.path.parent == last.parent.resolve()
    made_again = best.is_file() and _is_made_again(best, start, trainer)
    if not here:
        check_free(folder, best if made_again else None)
    elif (figures := folder / "metrics.json").is_file() and not is_ours(figures):
        set_aside(figures)
    last.parent.mkdir(exist_ok=True)
    best_so_far = _best_beside(start, trainer)
    if made_again:
        best.unlink()
    elif best_so_far is None:
        if best.is_file() and isinstance(trainer.checkpoint_callback, BestCheckpoint):
            set_aside(best)
    elif best_so_far != best.resolve():
        temporary = best.with_name(f".{best.name}.tmp")
        shutil.copyfile(best_so_far, temporary)
        os.replace(temporary, best)
    if here and start.path == previous.resolve():
        keep(previous, last)  # in place of the damaged one, which must not become the previous one
    for log in trainer.loggers:
        if isinstance(log, _GoesOn):
            log.forget_after(start.updates if start.path else -1)
    for each in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue] - set late
        if isinstance(each, LearningCurves):
            run = start.path.parent.parent if start.path else folder
            each.go_on_from(run, start.updates if start.path else -1)


def _is_made_again(best: Path, start: Start, trainer: L.Trainer) -> bool:
    """Return whether this training comes to the state in a file, of a life that was cut off."""
    (own,) = (each for each in trainer.callbacks if isinstance(each, Resumable))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        state = loading.load(best)
    except Damaged:
        return False
    return state["global_step"] > start.updates and state["fingerprint"] == own.fingerprint


def _best_beside(start: Start, trainer: L.Trainer) -> Path | None:
    """Return the best checkpoint until this training's beginning, or None if it is not known.

    It lies beside the one that is resumed. Its score is the best that this one knows, and it is not
    of a later update. A path in a file is not followed: the folder may be a copy of another one.
    """
    keeper = trainer.checkpoint_callback
    if start.path is None or start.checkpoint is None or not isinstance(keeper, BestCheckpoint):
        return None
    path = start.path.with_name(keeper.path.name)
    try:
        best = loading.load(path)
    except Damaged:  # or there is none
        return None
    known, its = (each["callbacks"].get(keeper.state_key) for each in (start.checkpoint, best))
    belongs = (
        known
        and its
        and known["best_model_score"] is not None
        and known["best_model_score"] == its["best_model_score"]
        and best["global_step"] <= start.updates
    )
    return path if belongs else None


def fingerprint_of(config: dict[str, Any], data: ExampleData) -> dict[str, Any]:
    """Return the keys that decide what a training computes, and a digest of its data.

    Args:
        config: validated.
        data: read.

    Returns:
        Values by key, in plain containers.
    """
    values = {key: config[key] for key in KEYS}
    for group, names in (
        *((group, list(config[group])) for group in GROUPS),
        ("data", DATA_KEYS),
        ("trainer", TRAINER_KEYS),
    ):
        values |= {f"{group}.{name}": config[group][name] for name in names}
    values["data"] = digest(data)
    return {key: value for key, value in values.items() if key not in FREE}


def compare_data(
    config: dict[str, Any],
    checkpoint: dict[str, Any],
    data: ExampleData,
    trained: Callable[[], ExampleData | None],
    *,
    may_differ: bool,
) -> str:
    """Compare data to test a network on with those that trained it.

    Args:
        config: of this run.
        checkpoint: of the network.
        data: read.
        trained: reads the data of the training again, or returns None.
        may_differ: whether other data are meant.

    Returns:
        A line on what differs, empty where nothing does.

    Raises:
        BadInput: if the test split has examples that were trained on, or that is not known, unless
            on_change=accept. Of a file, all of whose rows count, it is only said.
    """
    was, now, rows = checkpoint["fingerprint"]["data"], digest(data), data.indices["test"]
    if was == now:
        return ""
    before, of_file = trained(), "train" not in data.indices
    line = f"the data are not those of the training ({was}; now {now}): "
    if before is not None and digest(before) == was:
        seen = set(_rows(before, before.indices["train"]))
        again = sum(row in seen for row in _rows(data, rows))
        line += f"{again or 'none'} of the {len(rows)} examples to test were trained on"
    else:
        again = 0 if of_file or may_differ else len(rows)
        line += f"those are gone, and some of the {len(rows)} examples to test may be among them"
    if not again or of_file or config["on_change"] == "accept":
        return line
    raise BadInput(
        f"ckpt_path={config['ckpt_path']}: {line}; leave data.test and data.validation out for the "
        "split of the training, name a file of which every row counts (data=csv data.path=FILE), "
        "or give on_change=accept"
    )


def _rows(data: ExampleData, indices: np.ndarray) -> Iterator[int]:
    """Yield a number for the features of each example, the same for the same features."""
    features = data.examples.X
    for part in row_slices((len(indices), features.shape[1])):
        for row in np.asarray(features[indices[part]], dtype=np.float64) + 0.0:  # which has no -0.0
            yield hash(row.tobytes())


def digest(data: ExampleData) -> str:
    """Return the size of the data as trained on, and a digest of values, splits and scaling."""
    examples, digest = data.examples, hashlib.sha256()
    arrays = [examples.X, examples.target, *(data.indices[split] for split in sorted(data.indices))]
    for array in arrays:
        if array is not None:
            digest.update(f"{array.shape}{array.dtype}".encode())
            step = max(1, -(-array.nbytes // HASHED_BYTES))  # a large array: rows evenly spread
            digest.update(np.ascontiguousarray(array[::step]).tobytes())
    digest.update(repr(data.scaling.state() if data.scaling else None).encode())
    rows, features = len(data.indices.get("train", ())), examples.X.shape[1]
    return (
        f"{rows} of {len(examples)} examples, {features} features, digest {digest.hexdigest()[:12]}"
    )

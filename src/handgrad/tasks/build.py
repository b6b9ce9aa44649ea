"""Builds objects from the validated configuration, each class in one place."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from handgrad.config.errors import BadInput, warn
from handgrad.dashboard import hparams
from handgrad.dashboard.callback import Dashboard
from handgrad.dashboard.pictures.callback import PictureCallback, next_picture
from handgrad.data.batches import BatchPlan
from handgrad.data.checks import available_memory
from handgrad.data.module import ExampleData
from handgrad.devices.equal_weights import DriftCheck, EqualWeights, agree
from handgrad.devices.lightning import hide_hints, take_over_signals
from handgrad.module import Schedule, TwoLayerNetwork
from handgrad.runs import loading, resume
from handgrad.runs.checkpoint_file import CheckpointFiles
from handgrad.runs.checkpointing import BestCheckpoint, LastCheckpoint, Patience, Resumable
from handgrad.runs.curves import LearningCurves
from handgrad.runs.live_check import LiveCheck
from handgrad.runs.progress import TrainingProgress
from handgrad.runs.resume import Start, fingerprint_of
from handgrad.runs.stopping import SignalStop
from handgrad.training.updates import UpdateSettings

CACHED_ACTIVATIONS = 2**19  # numbers of a hidden layer that stay in a processor's cache
SMALLEST_MICROBATCH = 1000  # rows: fewer take long to add, more exceed autograd's memory
OF_A_MACHINE = ("data.path", "data.root", "trainer.devices", "ckpt_path")  # the digests count
DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16}  # all others keep float32


@contextmanager
def bad_input() -> Iterator[None]:
    """Turn errors that the user can mend into bad input: one line, exit code 2.

    Raises:
        BadInput: in place of a ValueError, an OSError or a failed instantiation.
    """
    try:
        yield
    except (ValueError, OSError, MisconfigurationException, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise BadInput(str(cause or error)) from error


def data(config: dict[str, Any]) -> ExampleData:
    """Return the data module, not yet read."""
    node = dict(config["data"])
    common = inspect.signature(ExampleData).parameters
    ours = {name: node.pop(name) for name in list(node) if name in common and name != "seed"}
    with bad_input():
        source = instantiate(node)
        source.prepare()
    if ours["microbatch"] == "auto":
        gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        on_gpu = gpu and config["trainer"]["accelerator"] != "cpu"
        # Whole batches on a GPU, and where microbatches follow another rule. On a processor, those
        # whose hidden layer stays in the cache, which bounds the memory of an update too.
        whole = on_gpu or config["reproducible"] == "bitwise"
        in_cache = max(SMALLEST_MICROBATCH, CACHED_ACTIVATIONS // config["model"]["hidden"])
        ours["microbatch"] = None if whole else in_cache
    return ExampleData(
        source,
        **ours,
        accumulate=config["optimizer"]["accumulate"],
        ordered=config["reproducible"] == "bitwise",
        seed=config["seed"],
        dtype=DTYPES.get(config["trainer"]["precision"], torch.float32),
    )


def network(config: dict[str, Any], examples: ExampleData) -> TwoLayerNetwork:
    """Return the network that fits the data, with its rule and its optimizer.

    Its weights have the number format in which it trains, to which a checkpoint's are rounded.
    """
    optimizer = dict(config["optimizer"])
    model = config["model"]
    _check_sizes(model["hidden"], examples)
    optimizer.pop("accumulate")
    with bad_input():
        guarded = instantiate(config["backward"], _partial_=True)
        # Hydra's partial would authorize each call of the rule that it gives anew: 0.2 ms.
        rule = partial(guarded.func, **guarded.keywords)
        scheduler = dict(config["scheduler"])
        interval, monitor = scheduler.pop("interval"), scheduler.pop("monitor")
        schedule = None  # the learning rate stays constant
        if scheduler["_target_"]:
            schedule = Schedule(instantiate(scheduler, _partial_=True), interval, monitor)
        return TwoLayerNetwork(
            examples.examples.X.shape[1],
            model["hidden"],
            examples.examples.n_outputs,
            init=model["init"],
            init_range=model["init_range"],
            seed=config["seed"],
            cost=config["cost"],
            multilabel=examples.examples.multi_label,
            rule=rule,
            settings=UpdateSettings(
                weight_decay=optimizer.pop("weight_decay", None),
                clip_norm=optimizer.pop("clip_norm"),
                slots=examples.plan().slots if examples.ordered else None,
                on_nonfinite=config["on_nonfinite"],
                compile=model["compile"],
            ),
            optimizer=instantiate(optimizer, _partial_=True),
            schedule=schedule,
        ).to(examples.dtype)


def _check_sizes(hidden: int, data: ExampleData) -> None:
    """Refuse a network that the memory cannot hold, before it is made, and warn of a lone batch.

    This counts the weights with their gradient and two states of an optimizer, and the hidden layer
    of the smallest microbatch, forward and backward.

    Raises:
        BadInput: with both sizes.
    """
    examples, inputs = len(data.indices["train"]), data.examples.X.shape[1]
    numbers = inputs + data.examples.n_outputs + 1 + min(SMALLEST_MICROBATCH, examples)
    size, memory = 4 * hidden * numbers * data.dtype.itemsize, available_memory()
    if memory is not None and size > memory:
        raise BadInput(
            f"model.hidden={hidden}: training this network takes {size / 2**30:.1f} GiB, and "
            f"{memory / 2**30:.1f} GiB of memory are free"
        )
    if data.batch_size != "full" and int(data.batch_size) > examples:
        warn(
            f"data.batch_size={data.batch_size}: there are {examples} training examples, so every "
            "update sees all of them, as with full"
        )


def trainer(config: dict[str, Any], folder: Path, *, extra: list[Callback]) -> L.Trainer:
    """Return the Trainer with its loggers and callbacks.

    Args:
        config: validated.
        folder: of the run.
        extra: the task's own callbacks.

    Raises:
        BadInput: if the machine has no such device, or the device no such precision.
    """
    flags = dict(config["trainer"])
    if flags["precision"] == "16-mixed" and not torch.cuda.is_available():
        raise BadInput(
            "trainer.precision=16-mixed requires a GPU, and this machine has none; use bf16-mixed, "
            "bf16-true, 32-true or 64-true"
        )
    hide_hints()
    flags["strategy"] = EqualWeights.for_flags(flags, flags.pop("timeout"))
    callbacks = [*extra]
    if flags["enable_progress_bar"]:
        callbacks.append(TrainingProgress())
    try:
        made = L.Trainer(
            **flags,
            callbacks=callbacks,
            logger=loggers(config, folder),
            default_root_dir=folder,
            enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
            use_distributed_sampler=False,
            plugins=[CheckpointFiles(), LightningEnvironment()],
        )
    except (ValueError, MisconfigurationException) as error:
        device = f"trainer.accelerator={flags['accelerator']} trainer.devices={flags['devices']}"
        reason = " ".join(str(error).split())
        raise BadInput(f"{device}: {reason}; trainer=cpu runs anywhere") from error
    take_over_signals(made)
    return made


def loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    """Return the loggers, which write into the run's folder.

    Raises:
        BadInput: if there is no such class.
    """
    with bad_input():
        return [
            instantiate(node, save_dir=str(folder)) for node in config["logger"].values() if node
        ]


def keepers(config: dict[str, Any], data: ExampleData, folder: Path) -> list[Callback]:
    """Return the callbacks that keep the network and its curves, and that end the training early.

    Raises:
        BadInput: if early stopping is to watch a validation and there is none, or a split whose
            curve is wanted is empty.
    """
    wanted = config["callbacks"]
    checkpoint, early, curves = wanted["checkpoint"], wanted["early_stopping"], wanted["curves"]
    trainer, monitor = config["trainer"], checkpoint["monitor"]
    validated = len(data.indices["val"]) > 0 and trainer["limit_val_batches"] != 0
    kept: list[Callback] = []
    if validated or monitor.endswith("/train"):
        every: int | None = 1 if monitor.endswith("/train") else trainer["check_val_every_n_epoch"]
        if monitor.endswith("/val") and trainer["val_check_interval"]:
            every = None
        kept.append(BestCheckpoint(folder / "checkpoints", monitor, checkpoint["mode"], every))
    last = LastCheckpoint(folder / "checkpoints", checkpoint["every_n_updates"])
    kept += [last, SignalStop(last)]
    if early["patience"] is not None:
        if not validated and early["monitor"].endswith("/val"):
            raise BadInput(
                f"callbacks.early_stopping.monitor={early['monitor']}: there is no validation "
                "split; give data.validation, or watch cost/train or accuracy/train"
            )
        kept.append(Patience(**early))
    for split in curves["parts"]:
        if not len(data.indices[split]):
            raise BadInput(f"callbacks.curves.parts={curves['parts']}: the split {split} is empty")
    if curves["parts"] or curves["gradient"]:
        kept.append(LearningCurves(folder / "curves.csv", **curves))
    return kept


def _warn_of_no_validation(config: dict[str, Any], plan: BatchPlan) -> None:
    """Warn of a first validation that comes after the end of training."""
    trainer, every = config["trainer"], config["trainer"]["val_check_interval"]
    ends = [trainer["max_epochs"] * plan.updates_per_epoch, trainer["max_steps"]]
    updates = min((each for each in ends if each > 0), default=None)
    if every and updates and every > updates:
        warn(
            f"trainer.val_check_interval={every}: the training ends after {updates} updates, "
            "without a validation"
        )


def horizon(config: dict[str, Any], trainer: L.Trainer) -> Any:
    """Return how many updates may run until something else is due, given the updates done."""
    cadences = [
        config["trainer"]["val_check_interval"],
        trainer.log_every_n_steps,  # pyright: ignore[reportAttributeAccessIssue] - set late
        config["callbacks"]["checkpoint"]["every_n_updates"],
        config["check"]["checksum_every_n_updates"],
        config["check"]["audit_every_n_updates"],
    ]

    def updates(done: int) -> int:
        due = [cadence - done % cadence for cadence in cadences if cadence]
        if config["dashboard"]["tier"] != "off":
            due.append(next_picture(done) - done)
        if trainer.max_steps > 0:
            due.append(trainer.max_steps - done)
        return max(1, min(due))

    return updates


class Training(NamedTuple):
    """Holds all that a training needs."""

    trainer: L.Trainer
    network: TwoLayerNetwork
    data: ExampleData
    start: Start
    check: LiveCheck
    dashboard: Dashboard | None  # None where it is off
    pictures: PictureCallback | None  # likewise


def training(
    config: dict[str, Any], folder: Path, *, watchers: Sequence[Callback] = ()
) -> Training:
    """Read the data, and build the network and the Trainer with all callbacks of a training.

    Args:
        config: validated.
        folder: of the run.
        watchers: the caller's own callbacks.

    Raises:
        BadInput: if the data, the rule, the device or the checkpoint are not what they must be.
    """
    examples = data(config)
    with bad_input():
        examples.read()
    model, made_of = network(config, examples), fingerprint_of(config, examples)
    start = resume.find(config, folder, made_of, model)
    check = LiveCheck.from_keys(config["check"])
    tier, share, png = (config["dashboard"][key] for key in ("tier", "share", "save_png"))
    board = pictures = None
    if tier != "off":
        text, found = OmegaConf.to_yaml(OmegaConf.create(config)), hparams.values(config)
        board = Dashboard(tier, share, folder, text, found, checked=config["check"]["at_start"])
        pictures = PictureCallback(examples, tier, share, folder / "pictures" if png else None)
    callbacks = [
        *(each for each in (board, pictures) if each),
        Resumable(config, made_of),
        check,
        *watchers,
        DriftCheck(),
        *keepers(config, examples, folder),
    ]
    loop = trainer(config, folder, extra=callbacks)
    if loop.world_size > 1:
        agree(loop, {**dict(_keys(config)), **made_of, "ckpt_path": start.state()})
    examples.horizon = horizon(config, loop)
    _warn_of_no_validation(config, examples.plan())
    return Training(loop, model, examples, start, check, board, pictures)


def _keys(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a configuration with their values, but those of one machine alone."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
        elif prefix + name not in OF_A_MACHINE:
            yield prefix + name, value


class Restored(NamedTuple):
    """Holds a trained network with the data to apply it to, which are read."""

    network: TwoLayerNetwork
    data: ExampleData
    config: dict[str, Any]  # of this run, with the training's seed, and its data unless named
    own_file: bool  # whether the data are a file named for this run, of which every row counts
    note: str  # what the user should know of the data; empty where they are those of the training


def restore(
    config: dict[str, Any], overrides: list[str], folder: Path, *, target_required: bool = True
) -> Restored:
    """Return the network of `ckpt_path`, and the data of its training or those named for this run.

    The data are those of the training and split likewise, but for keys that are given for this run.
    Every row of a file named for this run counts.

    Args:
        config: of this run.
        overrides: given for this run; `data=` among them replaces what training used.
        folder: of this run.
        target_required: of a file named for this run. Where it is not, the rows may be any.

    Raises:
        BadInput: if the checkpoint or the data cannot be read, or do not fit each other, or a test
            split may have examples of the training, unless on_change=accept.
    """
    path, checkpoint, _ = loading.find(config["ckpt_path"], folder, prefer="best")
    own = any(override.startswith(("data=", "experiment=")) for override in overrides)
    own_file = own and "path" in config["data"]
    was, node = checkpoint["config"].get("data"), config["data"]
    same = isinstance(was, dict) and was.get("_target_") == node["_target_"]
    if not own or (same and not own_file):
        given = {override.lstrip("+").partition("=")[0] for override in overrides}
        was = loading.data_node(checkpoint, path)
        node = was | {key: node[key] for key in was.keys() & node.keys() if f"data.{key}" in given}
    config = {**config, "data": node, "seed": checkpoint["hyper_parameters"]["seed"]}
    examples = data(config)
    examples.load_state_dict(checkpoint["ExampleData"])
    with bad_input():
        examples.read_unsplit(target_required=target_required) if own_file else examples.read()
    note = ""
    if not own_file or target_required:
        trained = partial(_data_of_training, config, checkpoint, path)
        note = resume.compare_data(
            config, checkpoint, examples, trained, may_differ=own and not same
        )
    made = loading.network(checkpoint).to(examples.dtype)
    return Restored(made, examples, config, own_file, note)


def _data_of_training(
    config: dict[str, Any], checkpoint: dict[str, Any], path: Path
) -> ExampleData | None:
    """Read the data that trained a checkpoint again, or return None where they are gone."""
    try:
        node = loading.data_node(checkpoint, path)
        node |= {"download": False} if "download" in node else {}
        made = data({**config, "data": node})
        made.load_state_dict(checkpoint["ExampleData"])
        with bad_input():
            return made.read()
    except BadInput:
        return None

"""From the validated configuration to objects: each class is made in one place, here."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from handgrad.config.errors import BadInput, warn
from handgrad.dashboard import hparams
from handgrad.dashboard.callback import Dashboard
from handgrad.dashboard.pictures.callback import Album, next_picture
from handgrad.data.checks import available_memory
from handgrad.data.module import ExampleData
from handgrad.devices import equal_weights
from handgrad.devices.lightning import take_over_signals
from handgrad.module import Schedule, TwoLayerNetwork
from handgrad.runs import loading
from handgrad.runs.checkpoint_content import data_node
from handgrad.runs.checkpoint_file import CheckpointFiles
from handgrad.runs.checkpointing import BestCheckpoint, LastCheckpoint, Patience
from handgrad.runs.curves import LearningCurves
from handgrad.runs.progress import TrainingProgress
from handgrad.runs.stopping import SignalStop
from handgrad.training.updates import UpdateSettings

CACHED_ACTIVATIONS = 2**19  # numbers of a hidden layer that stay in a processor's cache
SMALLEST_PIECE = 1000  # rows: fewer take long to add, more exceed autograd's memory
DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16}  # all others keep float32


@contextmanager
def bad_input() -> Iterator[None]:
    """What is raised within is the user's to mend: one line, exit code 2.

    Raises:
        BadInput: in place of a ValueError, an OSError or a failed instantiation.
    """
    try:
        yield
    except (ValueError, OSError, MisconfigurationException, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise BadInput(str(cause or error)) from error


def data(config: dict[str, Any]) -> ExampleData:
    """The data module, not yet read."""
    node = dict(config["data"])
    common = inspect.signature(ExampleData).parameters
    ours = {name: node.pop(name) for name in list(node) if name in common and name != "seed"}
    with bad_input():
        source = instantiate(node)
        source.prepare()
    if ours["microbatch"] == "auto":
        ours["microbatch"] = microbatch(config)
    return ExampleData(
        source,
        **ours,
        accumulate=config["optimizer"]["accumulate"],
        ordered=config["reproducible"] == "bitwise",
        seed=config["seed"],
        dtype=DTYPES.get(config["trainer"]["precision"], torch.float32),
    )


def microbatch(config: dict[str, Any]) -> int | None:
    """The rows computed at once where data.microbatch=auto says nothing else.

    On a processor, those whose hidden layer stays in the cache, which bounds the memory of an
    update too. None for whole batches: on a GPU, and where the pieces follow another rule.
    """
    accelerators = (torch.cuda, torch.backends.mps)
    on_cpu = config["trainer"]["accelerator"] == "cpu" or not any(
        each.is_available() for each in accelerators
    )
    if not on_cpu or config["reproducible"] == "bitwise":
        return None
    return max(SMALLEST_PIECE, CACHED_ACTIVATIONS // config["model"]["hidden"])


def network(config: dict[str, Any], examples: ExampleData) -> TwoLayerNetwork:
    """The network that fits the data, with its rule and its optimizer."""
    optimizer = dict(config["optimizer"])
    model = config["model"]
    check_sizes(model["hidden"], examples)
    optimizer.pop("accumulate")
    with bad_input():
        guarded = instantiate(config["backward"], _partial_=True)
        # Hydra's partial would authorize each call of the rule that it gives anew: 0.2 ms.
        rule = partial(guarded.func, **guarded.keywords)
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
                slots=examples.plan().places if examples.ordered else None,
                on_nonfinite=config["on_nonfinite"],
                compile=model["compile"],
            ),
            optimizer=instantiate(optimizer, _partial_=True),
            schedule=schedule(config["scheduler"]),
        )


def schedule(node: dict[str, Any]) -> Schedule | None:
    """Return the schedule of the learning rate; None where it stays constant."""
    scheduler = dict(node)
    interval, monitor = scheduler.pop("interval"), scheduler.pop("monitor")
    if not scheduler["_target_"]:
        return None
    return Schedule(instantiate(scheduler, _partial_=True), interval, monitor)


def check_sizes(hidden: int, data: ExampleData) -> None:
    """Refuse a network that the memory cannot hold, before it is made; warn of a lone batch.

    Counted are the weights with their gradient and two states of an optimizer, and the hidden layer
    of the smallest piece of a batch, forward and backward.

    Raises:
        BadInput: with both sizes.
    """
    examples, inputs = len(data.indices["train"]), data.examples.X.shape[1]
    numbers = inputs + data.examples.n_outputs + 1 + min(SMALLEST_PIECE, examples)
    size, memory = 4 * hidden * numbers * data.dtype.itemsize, available_memory()
    if memory is not None and size > memory:
        raise BadInput(
            f"model.hidden={hidden}: such a network takes {size / 2**30:.1f} GiB to train, and "
            f"{memory / 2**30:.1f} GiB of memory are free"
        )
    if data.batch_size != "full" and int(data.batch_size) > examples:
        warn(
            f"data.batch_size={data.batch_size}: there are {examples} training examples, so every "
            "update sees all of them, as with full"
        )


def trainer(config: dict[str, Any], folder: Path, *, extra: list[Callback]) -> L.Trainer:
    """The Trainer with its loggers and callbacks.

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
            "trainer.precision=16-mixed needs a GPU, and there is none; use bf16-mixed, bf16-true, "
            "32-true or 64-true"
        )
    flags["strategy"] = equal_weights.choose(flags, flags.pop("timeout"))
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
            plugins=[CheckpointFiles()],
        )
    except (ValueError, MisconfigurationException) as error:
        device = f"trainer.accelerator={flags['accelerator']} trainer.devices={flags['devices']}"
        reason = " ".join(str(error).split())
        raise BadInput(f"{device}: {reason}; trainer=cpu runs anywhere") from error
    take_over_signals(made)
    return made


def loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    """The loggers, which write into the run's folder.

    Raises:
        BadInput: if there is no such class.
    """
    with bad_input():
        return [
            instantiate(node, save_dir=str(folder)) for node in config["logger"].values() if node
        ]


def keepers(config: dict[str, Any], data: ExampleData, folder: Path) -> list[Callback]:
    """What keeps the network while it trains, and what ends the training early.

    Raises:
        BadInput: if early stopping is to watch a validation that there is none of.
    """
    checkpoint, early = (
        config["callbacks"]["checkpoint"],
        dict(config["callbacks"]["early_stopping"]),
    )
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
                "part; give data.validation, or watch cost/train or accuracy/train"
            )
        kept.append(Patience(**early))
    return [*kept, *recorders(config, data, folder)]


def recorders(config: dict[str, Any], data: ExampleData, folder: Path) -> list[Callback]:
    """What records the learning curves, if that is wanted.

    Raises:
        BadInput: if a part that is to be evaluated is empty.
    """
    curves = config["callbacks"]["curves"]
    for part in curves["parts"]:
        if not len(data.indices[part]):
            raise BadInput(f"callbacks.curves.parts={curves['parts']}: the part {part} is empty")
    wanted = curves["parts"] or curves["gradient"]
    return [LearningCurves(folder / "curves.csv", **curves)] if wanted else []


def dashboard(config: dict[str, Any], folder: Path) -> list[Dashboard]:
    """What shows the training; nothing where it is off."""
    tier, share = config["dashboard"]["tier"], config["dashboard"]["share"]
    if tier == "off":
        return []
    text, found = OmegaConf.to_yaml(OmegaConf.create(config)), hparams.values(config)
    return [Dashboard(tier, share, folder, text, found, checked=config["check"]["at_start"])]


def album(config: dict[str, Any], data: ExampleData, folder: Path) -> list[Album]:
    """What draws the training; nothing where the dashboard is off."""
    tier, share, png = (config["dashboard"][key] for key in ("tier", "share", "save_png"))
    return [] if tier == "off" else [Album(data, tier, share, folder / "pictures" if png else None)]


def horizon(config: dict[str, Any], trainer: L.Trainer) -> Any:
    """How many updates may run until something else is due, as a function of the updates done."""
    if config["trainer"]["val_check_interval"] is not None:
        return lambda done: 1
    cadences = [
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
    path, checkpoint, _ = loading.find(config["ckpt_path"], folder, prefer="best")
    own = any(override.startswith(("data=", "experiment=")) for override in overrides)
    node = config["data"] if own else data_node(checkpoint, path)
    config = {**config, "data": node, "seed": checkpoint["hyper_parameters"]["seed"]}
    examples = data(config)
    examples.load_state_dict(checkpoint["ExampleData"])
    return Trained(loading.network(checkpoint), examples, config, own_file=own and "path" in node)

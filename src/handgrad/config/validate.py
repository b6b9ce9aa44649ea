"""Validation of a composed configuration: it is accepted whole, or refused with one line.

It runs before anything heavy is imported and before any file is written.
"""

import os
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ConfigDict, ValidationError

from handgrad.config.compose import arguments
from handgrad.config.errors import BadInput
from handgrad.config.refusals import accepted_keys, explain, unknown_key
from handgrad.config.schema import BY_TARGET, FIXED, OPEN, Main, Node, TaskOfCheckpoint

MOST_PER_CORE = 8  # processes; each takes some 400 MB before it has any data
_LBFGS = "torch.optim.LBFGS"
_UNSCALED = {  # rules for which scaling dz2 does not scale the gradient
    "handgrad.rules.flat_spot": "backward=flat_spot adds an unscaled offset in dz2",
    "handgrad.rules.custom": "backward=custom need not compute dz2 from the cost",
}
_PLAIN = {  # what the contenders of task=benchmark have in common
    "cost": "cross_entropy",
    "optimizer._target_": "handgrad.training.optimizers.GradientDescent",
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": None,
    "optimizer.accumulate": 1,
    "scheduler._target_": None,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
}
_PLAIN_CHOICES = {"optimizer._target_": "optimizer=sgd", "scheduler._target_": "scheduler=none"}


def validate(config: dict[str, Any]) -> None:
    """Refuse a configuration with a wrong key, type, value or combination.

    Args:
        config: composed and resolved, in plain containers.

    Raises:
        BadInput: one line that names the key and what is accepted.
    """
    groups = {name: config.get(name) for name in (*FIXED, *BY_TARGET)}
    for name in config.keys() - groups.keys() - Main.model_fields.keys():
        raise BadInput(unknown_key(str(name)))
    check(Main, {name: value for name, value in config.items() if name not in groups}, "")
    for name, node in groups.items():
        if not isinstance(node, dict):
            raise BadInput(f"{name}={node}: must be a group of keys; see --help for its choices")
        check(schema_of(name, node), node, f"{name}.")
    for conflict in _conflicts(config):
        raise BadInput(conflict)


def schema_of(group: str, node: dict[str, Any]) -> type[Node]:
    """Return the schema of a node. Of a user's own class, only the common keys are known."""
    if group in FIXED:
        return FIXED[group]
    target = node.get("_target_")
    if isinstance(target, str | None) and target in BY_TARGET[group]:
        return BY_TARGET[group][target]
    base = OPEN[group]
    return type(f"Own{base.__name__}", (base,), {"model_config": ConfigDict(extra="allow")})


def check(schema: type[Node], node: dict[str, Any], prefix: str) -> None:
    """Refuse the first thing in a node that does not fit its schema."""
    try:
        schema.model_validate(node)
    except ValidationError as error:
        raise BadInput(explain(error, prefix)) from None


def _conflicts(config: dict[str, Any]) -> Iterator[str]:
    """Yield one line on each set of values that are right by themselves and wrong together."""
    yield from _training_conflicts(config)
    yield from _device_conflicts(**config["trainer"])
    yield from _precision_conflicts(config)
    task = config["task"]
    if task in get_args(TaskOfCheckpoint) and not config["ckpt_path"]:
        yield f"task={task} requires ckpt_path: a checkpoint or a run's folder"
    if config["check"]["precision"] and task != "check":
        yield "check.precision=all is a separate report: it requires task=check"
    if task == "benchmark":
        yield from _benchmark_conflicts(config)
    yield from _replay_conflicts(config["replay"], wanted=task == "replay")
    yield from _tune_conflicts(config["tune"], wanted=task == "tune")
    if task == "compare" and not config["compare"]["runs"]:
        yield "task=compare requires folders of runs: 'compare.runs=[logs/A,logs/B]'"


def _training_conflicts(config: dict[str, Any]) -> Iterator[str]:
    """Yield conflicts between the length of training, its optimizer, its schedule and its data."""
    trainer, scheduler, data = config["trainer"], config["scheduler"], config["data"]
    if trainer["max_epochs"] == -1 and trainer["max_steps"] == -1 and not trainer["max_time"]:
        yield "trainer.max_epochs=-1 requires trainer.max_steps or trainer.max_time as well"
    if trainer["val_check_interval"] and trainer["check_val_every_n_epoch"] != 1:
        yield (
            f"trainer.val_check_interval={trainer['val_check_interval']} counts updates over all "
            "epochs: leave out trainer.check_val_every_n_epoch"
        )
    if config["optimizer"].get("nesterov") and not config["optimizer"].get("momentum"):
        yield "optimizer.nesterov=true requires optimizer.momentum above 0"
    if scheduler["interval"] == "validation":
        if not scheduler["monitor"]:
            yield "scheduler.interval=validation requires scheduler.monitor"
        if data["validation"] == 0 or trainer["limit_val_batches"] == 0:
            yield (
                "scheduler.interval=validation requires validation data: data.validation above 0 "
                "and trainer.limit_val_batches other than 0"
            )
    if (data["validation"] or 0) + (data["test"] or 0) >= 1:
        yield (
            f"data.validation={data['validation']} and data.test={data['test']} leave no training "
            "data: their sum must be below 1"
        )


def _device_conflicts(
    *, devices: int | str | list[int], accelerator: str, **_: Any
) -> Iterator[str]:
    """Yield conflicts of the devices: processors have no numbers, and mps has one device."""
    if accelerator == "mps" and devices not in (1, [0], "auto"):
        yield "trainer.accelerator=mps has one device: use trainer.devices=1"
    cores = os.cpu_count() or 1
    count = len(devices) if isinstance(devices, list) else devices
    if isinstance(count, int) and count > MOST_PER_CORE * cores:
        yield (
            f"trainer.devices={count}: each is a process, and this machine has {cores} cores; at "
            f"most {MOST_PER_CORE * cores} are accepted"
        )
    if not isinstance(devices, list):
        return
    if accelerator == "cpu":
        yield (
            f"trainer.devices={devices}: a list selects GPUs; with trainer.accelerator=cpu, give "
            "the number of processes"
        )
    if len(set(devices)) < len(devices):
        yield f"trainer.devices={devices}: names a device twice"


def _precision_conflicts(config: dict[str, Any]) -> Iterator[str]:
    """Yield what does not work with a loss scale, or with sums in a fixed order."""
    trainer, optimizer = config["trainer"], config["optimizer"]["_target_"]
    if config["reproducible"] == "bitwise" and optimizer == _LBFGS:
        yield (
            "optimizer=lbfgs does not work with reproducible=bitwise: its line search reads the "
            "cost, whose terms are added in no fixed order"
        )
    if trainer["precision"] != "16-mixed":
        return
    if trainer["accelerator"] in ("cpu", "mps"):
        yield (
            "trainer.precision=16-mixed requires a GPU: trainer=gpu or ddp; with "
            f"trainer.accelerator={trainer['accelerator']}, use bf16-mixed, bf16-true or 32-true"
        )
    no_loss_scale = "does not work with the loss scale of trainer.precision=16-mixed"
    if optimizer == _LBFGS:
        yield f"optimizer=lbfgs {no_loss_scale}, which changes during its line search"
    if why := _UNSCALED.get(config["backward"]["_target_"]):
        yield f"{why}: it {no_loss_scale}"
    if config["model"]["compile"]:
        yield f"model.compile=true {no_loss_scale}, which changes during training"


def _benchmark_conflicts(config: dict[str, Any]) -> Iterator[str]:
    """Yield the settings that the programs compared with ours do not have."""
    for key, plain in _PLAIN.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name, plain)
        if value != plain:
            write = _PLAIN_CHOICES.get(key) or arguments({key: plain})
            yield f"{key}={value}: task=benchmark compares plain gradient descent; use {write}"


def _replay_conflicts(replay: dict[str, Any], *, wanted: bool) -> Iterator[str]:
    """Yield what is missing from a replay, and published figures of runs that do not exist."""
    if wanted and not replay["figures"]:
        yield "task=replay requires an experiment with published figures: experiment=NAME"
    names = [run["name"] for run in replay["runs"]]
    named = [(key, figure) for figure in replay["figures"] for key in ("run", "minus")]
    named += [("run", curve) for curve in replay["published_curves"]]
    for key, node in named:
        name = node.get(key)
        if name not in names and (name is not None or (key == "run" and names)):
            accepted = ", ".join(names) or "null"
            yield f"replay: {key}={name} is not one of replay.runs; accepted: {accepted}"
    if len(set(names)) < len(names):
        yield f"replay.runs={names}: each run requires a unique name"


def _tune_conflicts(tune: dict[str, Any], *, wanted: bool) -> Iterator[str]:
    """Yield what is missing from a search, keys that do not exist, and bounds that do not fit."""
    if wanted and not tune["space"]:
        yield (
            "task=tune requires a search space: 'tune.space={optimizer.lr: {low: 0.01, high: 10, "
            "log: true}, model.hidden: {choices: [10, 30]}}'"
        )
    for key, node in (tune["space"] or {}).items():
        if key not in accepted_keys():
            yield f"tune.space: {unknown_key(key)}"
        given = {name: value for name, value in node.items() if value not in (None, False)}
        if "choices" in given:
            right = len(given) == 1
        else:
            right = "low" in node and "high" in node and node["low"] < node["high"]
            right = right and not (given.get("log") and (node["low"] <= 0 or "step" in given))
        if not right:
            yield (
                f"tune.space.{key}={node}: requires low below high, with step, or with log and "
                "low above 0; or choices alone"
            )

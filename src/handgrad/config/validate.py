"""The gate: a configuration passes whole, or is refused with one line.

It runs before anything heavy is imported and before any file is made.
"""

from typing import Any

from pydantic import ConfigDict, ValidationError

from handgrad.config.errors import BadInput
from handgrad.config.refusals import accepted_keys, explain, unknown_key
from handgrad.config.schema import BY_TARGET, FIXED, OPEN, Main, Node

LBFGS = "torch.optim.LBFGS"
UNSCALED = {  # rules that no loss scale on dz2 serves
    "handgrad.rules.flat_spot": "backward=flat_spot adds an unscaled offset in dz2",
    "handgrad.rules.custom": "backward=custom need not take its dz2 from the cost",
}
PLAIN = {  # what the contenders of task=benchmark have in common
    "cost": "cross_entropy",
    "optimizer._target_": "handgrad.training.optimizers.GradientDescent",
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": None,
    "optimizer.accumulate": 1,
    "scheduler._target_": None,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
}


def validate(config: dict[str, Any]) -> None:
    """Refuse a configuration with a wrong key, type, value or combination.

    Args:
        config: composed and resolved, in plain containers.

    Raises:
        BadInput: one line that names the key and what is accepted.
    """
    groups = {name: config.get(name) for name in (*FIXED, *BY_TARGET)}
    for name in config.keys() - groups.keys() - Main.model_fields.keys():
        raise BadInput(unknown_key(name))
    check(Main, {name: value for name, value in config.items() if name not in groups}, "")
    for name, node in groups.items():
        if not isinstance(node, dict):
            raise BadInput(f"{name}={node}: is a group of keys; see --help for its choices")
        check(schema_of(name, node), node, f"{name}.")
    check_combinations(config)


def schema_of(group: str, node: dict[str, Any]) -> type[Node]:
    """Return the keys of a node; of the user's own class, only the common keys are known."""
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


def check_combinations(config: dict[str, Any]) -> None:
    """Refuse values that are right by themselves and wrong together.

    Raises:
        BadInput: one line that names both.
    """
    trainer, scheduler, data = config["trainer"], config["scheduler"], config["data"]
    if trainer["max_epochs"] == -1 and trainer["max_steps"] == -1 and not trainer["max_time"]:
        raise BadInput("trainer.max_epochs=-1 needs trainer.max_steps or trainer.max_time as well")
    if trainer["accelerator"] == "mps" and trainer["devices"] not in (1, [0], "auto"):
        raise BadInput("trainer.accelerator=mps has one device: trainer.devices=1")
    check_device_list(trainer["devices"], trainer["accelerator"])
    if config["optimizer"].get("nesterov") and not config["optimizer"].get("momentum"):
        raise BadInput("optimizer.nesterov=true needs optimizer.momentum above 0")
    if scheduler["interval"] == "validation" and not scheduler["monitor"]:
        raise BadInput("scheduler.interval=validation needs scheduler.monitor")
    unvalidated = data["validation"] == 0 or trainer["limit_val_batches"] == 0
    if unvalidated and scheduler["interval"] == "validation":
        raise BadInput(
            "scheduler.interval=validation needs a validation: data.validation above 0 and "
            "trainer.limit_val_batches not 0"
        )
    if (data["validation"] or 0) + (data["test"] or 0) >= 1:
        raise BadInput(
            f"data.validation={data['validation']} and data.test={data['test']} leave nothing "
            "to train on"
        )
    check_exactness(config)
    if config["task"] in ("test", "predict", "export", "examples") and not config["ckpt_path"]:
        raise BadInput(f"task={config['task']} needs ckpt_path: a checkpoint or a run's folder")
    if config["check"]["precision"] and config["task"] != "check":
        raise BadInput("check.precision=all is a report of its own: it needs task=check")
    if config["task"] == "benchmark":
        check_plain(config)
    check_replay(config["replay"], wanted=config["task"] == "replay")
    check_tune(config["tune"], wanted=config["task"] == "tune")
    if config["task"] == "compare" and not config["compare"]["runs"]:
        raise BadInput("task=compare needs folders of runs: 'compare.runs=[logs/A,logs/B]'")


def check_tune(tune: dict[str, Any], *, wanted: bool) -> None:
    """Refuse a search of nothing, of keys that there are not, or between no bounds.

    Raises:
        BadInput: one line that names the key.
    """
    if wanted and not tune["space"]:
        raise BadInput(
            "task=tune needs what is searched: 'tune.space={optimizer.lr: {low: 0.01, high: 10, "
            "log: true}, model.hidden: {choices: [10, 30]}}'"
        )
    for key, node in (tune["space"] or {}).items():
        if key not in accepted_keys():
            raise BadInput(f"tune.space: {unknown_key(key)}")
        given = {name: value for name, value in node.items() if value not in (None, False)}
        if "choices" in given:
            right = len(given) == 1
        else:
            right = "low" in node and "high" in node and node["low"] < node["high"]
            right = right and not (given.get("log") and (node["low"] <= 0 or "step" in given))
        if not right:
            raise BadInput(
                f"tune.space.{key}={node}: needs low below high, with step or log (then low above "
                "0), or choices alone"
            )


def check_device_list(devices: int | str | list[int], accelerator: str) -> None:
    """Refuse a list of devices that names one twice, or processors, which have no numbers.

    Raises:
        BadInput: one line that names the key.
    """
    if not isinstance(devices, list):
        return
    if accelerator == "cpu":
        raise BadInput(
            f"trainer.devices={devices}: a list chooses GPUs; on trainer.accelerator=cpu give how "
            "many processes"
        )
    if len(set(devices)) < len(devices):
        raise BadInput(f"trainer.devices={devices}: each device once")


def check_replay(replay: dict[str, Any], *, wanted: bool) -> None:
    """Refuse figures of runs that there are none of, and a replay of nothing.

    Raises:
        BadInput: one line that names the key.
    """
    if wanted and not replay["figures"]:
        raise BadInput("task=replay needs an experiment with published figures: experiment=...")
    names = [run["name"] for run in replay["runs"]]
    named = [(key, figure) for figure in replay["figures"] for key in ("run", "minus")]
    named += [("run", curve) for curve in replay["published_curves"]]
    for key, node in named:
        name = node.get(key)
        if name not in names and (name is not None or (key == "run" and names)):
            accepted = ", ".join(names) or "null"
            raise BadInput(f"replay: {key}={name} is none of replay.runs; accepted: {accepted}")
    if len(set(names)) < len(names):
        raise BadInput(f"replay.runs={names}: every run needs a name of its own")


def check_exactness(config: dict[str, Any]) -> None:
    """Refuse what a loss scale, or a sum in a fixed order, cannot serve.

    Raises:
        BadInput: one line that names both keys.
    """
    trainer, optimizer = config["trainer"], config["optimizer"]["_target_"]
    if config["reproducible"] == "bitwise" and optimizer == LBFGS:
        raise BadInput(
            "optimizer=lbfgs: its line search reads the cost, a sum without order; not with "
            "reproducible=bitwise"
        )
    if trainer["precision"] != "16-mixed":
        return
    if trainer["accelerator"] in ("cpu", "mps"):
        raise BadInput(
            "trainer.precision=16-mixed needs a GPU: trainer=gpu or ddp; on "
            f"trainer.accelerator={trainer['accelerator']} use bf16-mixed, bf16-true or 32-true"
        )
    if optimizer == LBFGS:
        raise BadInput("optimizer=lbfgs: no loss scale can follow its line search; not 16-mixed")
    if why := UNSCALED.get(config["backward"]["_target_"]):
        raise BadInput(f"{why}; not with trainer.precision=16-mixed")
    if config["model"]["compile"]:
        raise BadInput("model.compile=true: the loss scale changes while it trains; not 16-mixed")


def check_plain(config: dict[str, Any]) -> None:
    """Refuse what only we can do where ours is compared with others.

    Raises:
        BadInput: one line that names the key.
    """
    for key, plain in PLAIN.items():
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name, plain)
        if value != plain:
            raise BadInput(f"{key}={value}: task=benchmark compares plain descent ({key}={plain})")

"""The typed configuration: every key, its type, its range; and one clear line for a wrong one.

It runs before anything heavy is imported and before any file is made.
"""

# pyright: reportIncompatibleVariableOverride=false
# A choice of a group may accept less than the group does: that is what its schema says.

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handgrad.errors import BadInput

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Metric = Literal["cost/train", "accuracy/train", "cost/val", "accuracy/val"]
Mode = Literal["min", "max"]


class Node(BaseModel):
    """A group of keys; any other key is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class Main(Node):
    """The keys at the top."""

    task: Literal["train", "check", "test", "predict", "export", "benchmark"]
    cost: Literal["cross_entropy", "quadratic"]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    ckpt_path: str | None


class Model(Node):
    """Keys of model.* and their values."""

    hidden: Positive
    init: Literal["xavier", "nielsen_small", "nielsen_large", "small_random", "uniform", "zeros"]
    init_range: PositiveFloat
    compile: bool


class Target(Node):
    """A node that names the class it is made into."""

    target_: str | None = Field(alias="_target_")


class Data(Target):
    """data.* of every source."""

    batch_size: Positive | Literal["full"]
    microbatch: Positive | None
    passes_per_epoch: Positive
    scale: Annotated[str, Field(pattern=r"^(auto|none|standard|minmax|/[0-9.eE+-]+)$")]
    validation: Fraction | None
    test: Fraction | None


class Generated(Data):
    """data.* of points in the plane."""

    examples: Annotated[int, Field(ge=4)]
    noise: NotNegativeFloat
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class Idx(Data):
    """data.* of MNIST and its kin."""

    root: str
    download: bool
    validation: None
    test: None


class Table(Data):
    """data.* of the user's own table."""

    path: str
    target: str | int | list[str | int] | None


class Arrays(Table):
    """data.* of the user's own arrays."""

    target: str | None
    features: str


class CustomRule(Target):
    """backward.* of the user's own function."""

    function: Annotated[str, Field(pattern=r"^[\w.]+\.\w+$")]


class Mistake(Target):
    """backward.* of a planted error."""

    mistake: str


class RandomFeedback(Target):
    """Keys of backward.* of the rules with random feedback."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    scale: PositiveFloat


class FlatSpot(Target):
    """Keys of backward=flat_spot and their values."""

    offset: NotNegativeFloat


class Optimizer(Target):
    """optimizer.* of every optimizer."""

    lr: PositiveFloat
    clip_norm: PositiveFloat | None
    accumulate: Positive


class Descent(Optimizer):
    """Keys of optimizer=sgd and their values."""

    weight_decay: NotNegativeFloat


class Sgd(Optimizer):
    """Keys of optimizer=momentum and nesterov and their values."""

    weight_decay: NotNegativeFloat
    momentum: Annotated[float, Field(gt=0, lt=1)]
    nesterov: bool = False


class Adam(Optimizer):
    """optimizer.* of Adam and AdamW."""

    weight_decay: NotNegativeFloat
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: PositiveFloat


class Lbfgs(Optimizer):
    """optimizer.* of L-BFGS."""

    max_iter: Positive
    history_size: Positive
    line_search_fn: Literal["strong_wolfe"] | None


class Scheduler(Target):
    """scheduler.* of every scheduler."""

    interval: Literal["epoch", "step", "validation"]
    monitor: Metric | None


class Step(Scheduler):
    """Keys of scheduler=step and their values."""

    interval: Literal["epoch", "step"]
    step_size: Positive
    gamma: PositiveFloat


class Cosine(Scheduler):
    """Keys of scheduler=cosine and their values."""

    interval: Literal["epoch", "step"]
    T_max: Positive
    eta_min: NotNegativeFloat


class Exponential(Scheduler):
    """Keys of scheduler=exponential and their values."""

    interval: Literal["epoch", "step"]
    gamma: PositiveFloat


class Plateau(Scheduler):
    """Keys of scheduler=plateau and their values."""

    interval: Literal["validation"]
    monitor: Literal["cost/val", "accuracy/val"]
    mode: Mode
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: NotNegative


class Trainer(Node):
    """trainer.*: the flags of Lightning's Trainer that are the user's."""

    accelerator: Literal["cpu", "gpu", "cuda", "mps", "auto"]
    devices: Positive | Annotated[list[NotNegative], Field(min_length=1)] | Literal["auto"]
    num_nodes: Positive
    strategy: Literal["auto", "ddp"]
    timeout: PositiveFloat
    precision: Literal["32-true", "64-true", "bf16-true", "bf16-mixed"]
    max_epochs: Positive | Literal[-1]
    min_epochs: Positive | None
    max_steps: Positive | Literal[-1]
    min_steps: Positive | None
    max_time: Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None
    fast_dev_run: bool | Positive
    limit_train_batches: Positive | Annotated[float, Field(gt=0, le=1)] | None
    limit_val_batches: NotNegative | Annotated[float, Field(ge=0, le=1)] | None
    limit_test_batches: NotNegative | Annotated[float, Field(ge=0, le=1)] | None
    limit_predict_batches: NotNegative | Annotated[float, Field(ge=0, le=1)] | None
    val_check_interval: Positive | None
    check_val_every_n_epoch: Positive
    num_sanity_val_steps: NotNegative
    log_every_n_steps: Positive
    enable_progress_bar: bool
    enable_model_summary: bool
    deterministic: bool | Literal["warn"] | None
    benchmark: bool | None
    inference_mode: bool
    profiler: Literal["simple", "advanced"] | None


REPLACED = {
    "callbacks": "callbacks.checkpoint.* or callbacks.early_stopping.*",
    "logger": "logger=tensorboard, csv or none",
    "default_root_dir": "hydra.run.dir=FOLDER",
    "use_distributed_sampler": "data.batch_size, which is shared out over the devices",
    "gradient_clip_val": "optimizer.clip_norm",
    "gradient_clip_algorithm": "optimizer.clip_norm, which clips by the norm",
    "accumulate_grad_batches": "optimizer.accumulate",
    "overfit_batches": "trainer.limit_train_batches (or debug=overfit)",
    "enable_checkpointing": "callbacks.checkpoint.*",
    "sync_batchnorm": "nothing: the network has no batch normalisation",
    "detect_anomaly": "task=check: training runs without autograd",
    "reload_dataloaders_every_n_epochs": "nothing: the order of the examples is new in every pass",
    "plugins": "trainer.precision or trainer.accelerator",
    "barebones": "logger=none trainer.enable_progress_bar=false",
    "enable_autolog_hparams": "logger=none",
    "model_registry": "task=export",
}


class Checkpoint(Node):
    """Keys of callbacks.checkpoint.* and their values."""

    monitor: Metric
    mode: Mode
    every_n_updates: Positive | None


class EarlyStopping(Node):
    """Keys of callbacks.early_stopping.* and their values."""

    patience: Positive | None
    monitor: Metric
    mode: Mode
    min_delta: NotNegativeFloat


class Callbacks(Node):
    """Keys of callbacks.* and their values."""

    checkpoint: Checkpoint
    early_stopping: EarlyStopping


class TensorBoard(Target):
    """Keys of logger.tensorboard.* and their values."""

    name: Literal[""]
    version: Literal[""]
    default_hp_metric: bool


class Csv(Target):
    """Keys of logger.csv.* and their values."""

    name: Literal[""]
    version: Literal[""]


class Loggers(Node):
    """Keys of logger.* and their values."""

    tensorboard: TensorBoard | None = None
    csv: Csv | None = None


class Check(Node):
    """Keys of check.* and their values."""

    at_start: bool
    on_failure: Literal["stop", "warn"]
    checksum_every_n_updates: Positive | None
    audit_every_n_updates: Positive | None


class Benchmark(Node):
    """Keys of benchmark.* and their values."""

    rows: list[
        Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*(-[1-9]\d*){2}(:(full|[1-9]\d*))?$")]
        | Literal["growth", "processes", "startup"]
    ]
    contenders: list[
        Literal[
            "trainer",
            "bare",
            "autograd",
            "compiled",
            "lightning",
            "scikit_learn",
            "numpy",
            "jax",
            "products",
        ]
    ]
    repeats: Positive
    seconds: PositiveFloat
    examples: Positive


FIXED = {
    "model": Model,
    "trainer": Trainer,
    "callbacks": Callbacks,
    "logger": Loggers,
    "check": Check,
    "benchmark": Benchmark,
}
PLAIN = {  # what the contenders of task=benchmark have in common
    "cost": "cross_entropy",
    "optimizer._target_": "handgrad.optimizers.GradientDescent",
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": None,
    "optimizer.accumulate": 1,
    "scheduler._target_": None,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
}
BY_TARGET: dict[str, dict[str | None, type[Node]]] = {
    "data": {
        **dict.fromkeys(
            (
                f"handgrad.data.sources.{name}"
                for name in ("Digits", "BreastCancer", "Iris", "Wine")
            ),
            Data,
        ),
        **dict.fromkeys(
            (f"handgrad.data.sources.{name}" for name in ("Moons", "Circles", "Spirals", "Xor")),
            Generated,
        ),
        "handgrad.data.idx.Mnist": Idx,
        "handgrad.data.idx.FashionMnist": Idx,
        "handgrad.data.tables.Csv": Table,
        "handgrad.data.tables.Parquet": Table,
        "handgrad.data.arrays.Arrays": Arrays,
    },
    "backward": {
        "handgrad.rules.closed_form": Target,
        "handgrad.rules.autograd": Target,
        "handgrad.rules.custom": CustomRule,
        "handgrad.rules.mistake": Mistake,
        "handgrad.rules.feedback_alignment": RandomFeedback,
        "handgrad.rules.sign_symmetric": RandomFeedback,
        "handgrad.rules.sign_concordant": Target,
        "handgrad.rules.flat_spot": FlatSpot,
    },
    "optimizer": {
        "handgrad.optimizers.GradientDescent": Descent,
        "torch.optim.SGD": Sgd,
        "torch.optim.Adam": Adam,
        "torch.optim.AdamW": Adam,
        "torch.optim.LBFGS": Lbfgs,
    },
    "scheduler": {
        None: Scheduler,
        "torch.optim.lr_scheduler.StepLR": Step,
        "torch.optim.lr_scheduler.CosineAnnealingLR": Cosine,
        "torch.optim.lr_scheduler.ExponentialLR": Exponential,
        "torch.optim.lr_scheduler.ReduceLROnPlateau": Plateau,
    },
}
GROUPS = (*FIXED, *BY_TARGET, "experiment", "debug")
OPEN = {"data": Data, "backward": Target, "optimizer": Optimizer, "scheduler": Scheduler}


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
    """The keys of a node; of a class that is the user's own, only the common keys are known."""
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


def explain(error: ValidationError, prefix: str) -> str:
    """A validation error as one line; of a union's errors, what any member accepts."""
    first, *others = error.errors()
    path = [str(part) for part in first["loc"]]
    top = path[0]
    key = prefix + top
    if first["type"] == "extra_forbidden":
        return unknown_key(prefix + ".".join(path))
    if first["type"] == "missing":
        return f"{prefix}{'.'.join(path)} is missing"
    same = [first, *(other for other in others if other["loc"][:1] == first["loc"][:1])]
    nested = isinstance(error.errors()[0]["input"], dict) or (len(path) > 1 and len(same) == 1)
    if nested and "[" not in path[-1]:
        key = prefix + ".".join(path)
    messages = dict.fromkeys(str(each["msg"])[0].lower() + str(each["msg"])[1:] for each in same)
    return f"{key}={first['input']}: {', or '.join(messages)}".replace("input should be", "must be")


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
    if config["task"] in ("test", "predict", "export") and not config["ckpt_path"]:
        raise BadInput(f"task={config['task']} needs ckpt_path: a checkpoint or a run's folder")
    if config["task"] == "benchmark":
        check_plain(config)


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


def accepted_keys() -> Iterator[str]:
    """Every key that some choice of the groups accepts."""
    yield from Main.model_fields
    yield from GROUPS
    schemas = list(FIXED.items())
    schemas += [(name, schema) for name, by in BY_TARGET.items() for schema in by.values()]
    for group, schema in schemas:
        yield from keys_of(schema, f"{group}.")


def keys_of(schema: type[BaseModel], prefix: str) -> Iterator[str]:
    """The keys of a schema and of the schemas within."""
    for name, field in schema.model_fields.items():
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type(BaseModel)):
                yield from keys_of(annotation, f"{prefix}{name}.")
        yield f"{prefix}{field.alias or name}"


def unknown_key(key: str) -> str:
    """One line about a key that does not exist, with the key to use instead."""
    group, _, flag = key.partition(".")
    if group == "trainer" and flag in REPLACED:
        return f"{key} is not set here; use {REPLACED[flag]}"
    accepted = list(dict.fromkeys(accepted_keys()))
    if key in accepted:
        return f"{key} does not exist for this choice of {group}"
    parent, _, name = key.rpartition(".")
    siblings = [each.rpartition(".")[2] for each in accepted if each.rpartition(".")[0] == parent]
    if near := difflib.get_close_matches(name, siblings, n=1):
        return f"{key} is not a key; did you mean {key.removesuffix(name)}{near[0]}?"
    if not siblings and (near := difflib.get_close_matches(key, accepted, n=1, cutoff=0.75)):
        return f"{key} is not a key; did you mean {near[0]}?"
    choices = siblings or [each for each in accepted if "." not in each]
    return f"{key} is not a key; accepted: {', '.join(choices)}"

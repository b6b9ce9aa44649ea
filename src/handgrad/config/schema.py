"""Every key of the configuration, its type and its range: a schema for each choice."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

LARGEST = 10**18  # accepted number: 64-bit integers and float32 hold it
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
NotNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NotNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Metric = Literal["cost/train", "accuracy/train", "cost/val", "accuracy/val"]
Mode = Literal["min", "max"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Cost = Literal["cross_entropy", "quadratic"]
Init = Literal["xavier", "nielsen_small", "nielsen_large", "small_random", "uniform", "zeros"]
TaskOfCheckpoint = Literal["test", "predict", "export", "examples"]
_Library = Literal["lightning", "scikit_learn", "numpy", "jax"]
_Duration = Annotated[str, Field(pattern=r"^\d{1,5}:\d\d:\d\d:\d\d$")]
_Choices = Annotated[list[str | bool | int | Finite], Field(min_length=1)]
_TWO = Field(min_length=2, max_length=2)
_SOURCES = "handgrad.data.sources"
_CURVE = "(cost|objective|accuracy|deviation)/(train|val|test)"
_Curve = Annotated[str, Field(pattern=f"^{_CURVE}$")]


class Node(BaseModel):
    """A group of keys that refuses any other key."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class _Target(Node):
    """A node that names the class to instantiate."""

    target_: str | None = Field(alias="_target_")


class Main(Node):
    """Keys at the top of the configuration."""

    task: Literal["train", "check", TaskOfCheckpoint, "benchmark", "replay", "tune", "compare"]
    cost: Cost
    seed: Seed
    reproducible: Literal["bitwise"] | None
    ckpt_path: Annotated[str, Field(min_length=1)] | None
    on_change: Literal["stop", "accept"]
    on_nonfinite: Literal["stop", "skip"]


class PublishedFigure(Node):
    """One published figure: its quantity, how the source computed it, and the tolerance."""

    run: str | None = None
    value: Annotated[
        str,
        Field(
            pattern=rf"^((best|first|last) {_CURVE}"
            r"|(first|last) (angle/dz1|speed/(hidden|output))"
            r"|solved|sweeps|antisymmetric|weights 1:2:4)$"
        ),
    ]
    seeds: Literal["best_of_3", "mean", "median"]
    minus: str | None = None
    published: Finite | None = None
    within: PositiveFloat | None = None
    at_least: Finite | None = None
    at_most: Finite | None = None


def _keys(base: type[Node] = Node, **keys: Any) -> type[Node]:
    """Return the schema of a node: the keys of the base, and others or narrower ones.

    Args:
        base: a choice may accept less than it does.
        keys: the type of each, or its type and its default where it may be missing.
    """
    fields: dict[str, Any] = {
        name: key if isinstance(key, tuple) else (key, ...) for name, key in keys.items()
    }
    return create_model(base.__name__, __base__=base, **fields)


_DATA = _keys(
    _Target,
    batch_size=Positive | Literal["full"],
    microbatch=Positive | Literal["auto"] | None,
    passes_per_epoch=Positive,
    scale=Annotated[str, Field(pattern=r"^(auto|none|standard|minmax|/[0-9.eE+-]+)$")],
    validation=Fraction | None,
    test=Fraction | None,
)
_GENERATED = _keys(
    _DATA,
    examples=Annotated[int, Field(ge=4, le=10_000_000)],
    noise=Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)],
    seed=Seed,
)
_TRUTH_TABLE = _keys(
    _DATA,
    bits=Annotated[int, Field(ge=2, le=16)],
    targets=Annotated[list[Annotated[float, Field(ge=0, le=1)]], _TWO],
)
_IDX = _keys(
    _DATA, root=str, download=bool, train_examples=Positive | None, validation=None, test=None
)
_TABLE = _keys(_DATA, path=str, target=str | int | list[str | int] | None)
_RANDOM_FEEDBACK = _keys(_Target, seed=Seed, scale=PositiveFloat)
_OPTIMIZER = _keys(_Target, lr=PositiveFloat, clip_norm=PositiveFloat | None, accumulate=Positive)
_DESCENT = _keys(_OPTIMIZER, weight_decay=NotNegativeFloat)
_ADAM = _keys(_DESCENT, betas=Annotated[list[Fraction], _TWO], eps=PositiveFloat)
_SCHEDULER = _keys(_Target, interval=Literal["epoch", "step", "validation"], monitor=Metric | None)
_EXPONENTIAL = _keys(_SCHEDULER, interval=Literal["epoch", "step"], gamma=PositiveFloat)
_CSV = _keys(_Target, name=Literal[""], version=Literal[""])
_TENSORBOARD = _keys(_CSV, default_hp_metric=bool)
_LIMIT = NotNegative | Annotated[float, Field(ge=0, le=1)] | None
Trainer = _keys(  # the flags of Lightning's Trainer that users set
    accelerator=Literal["cpu", "gpu", "cuda", "mps", "auto"],
    devices=Positive | Annotated[list[NotNegative], Field(min_length=1)] | Literal["auto"],
    num_nodes=Positive,
    timeout=PositiveFloat,
    precision=Literal["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"],
    max_epochs=Positive | Literal[-1],
    min_epochs=Positive | None,
    max_steps=Positive | Literal[-1],
    min_steps=Positive | None,
    max_time=_Duration | None,
    fast_dev_run=bool | Positive,
    limit_train_batches=Positive | Annotated[float, Field(gt=0, le=1)] | None,
    limit_val_batches=_LIMIT,
    limit_test_batches=_LIMIT,
    limit_predict_batches=_LIMIT,
    val_check_interval=Positive | None,
    check_val_every_n_epoch=Positive,
    num_sanity_val_steps=NotNegative,
    log_every_n_steps=Positive,
    enable_progress_bar=bool,
    enable_model_summary=bool,
    deterministic=bool | Literal["warn"] | None,
    benchmark=bool | None,
    inference_mode=bool,
    profiler=Literal["simple", "advanced"] | None,
)
# A training of a replay: its changes to the experiment, as on the command line.
_REPLAY_RUN = _keys(name=Annotated[str, Field(pattern=r"^[\w.+-]+$")], overrides=list[str])
# Points of a published curve: epoch, counted from 0, and value.
_PUBLISHED_CURVE = _keys(run=(str | None, None), points=list[Annotated[list[Finite], _TWO]])
# Values of one key that a search may draw: within bounds, or among choices.
_SEARCHED = _keys(
    low=(Finite | None, None),
    high=(Finite | None, None),
    log=(bool, False),
    step=(PositiveFloat | None, None),
    choices=(_Choices | None, None),
)

FIXED = {
    "model": _keys(hidden=Positive, init=Init, init_range=PositiveFloat, compile=bool),
    "trainer": Trainer,
    "callbacks": _keys(
        checkpoint=_keys(monitor=Metric, mode=Mode, every_n_updates=Positive | None),
        early_stopping=_keys(
            patience=Positive | None, monitor=Metric, mode=Mode, min_delta=NotNegativeFloat
        ),
        curves=_keys(parts=list[Literal["train", "val", "test"]], gradient=bool),
    ),
    "logger": _keys(tensorboard=(_TENSORBOARD | None, None), csv=(_CSV | None, None)),
    "check": _keys(
        at_start=bool,
        on_failure=Literal["stop", "warn"],
        checksum_every_n_updates=Positive | None,
        audit_every_n_updates=Positive | None,
        precision=Literal["all"] | None,
    ),
    "dashboard": _keys(tier=Literal["off", "lite", "full", "deep"], share=Fraction, save_png=bool),
    "benchmark": _keys(
        rows=list[
            Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*(-[1-9]\d*){2}(:(full|[1-9]\d*))?$")]
            | Literal["growth", "processes", "startup"]
        ],
        contenders=list[Literal["trainer", "bare", "autograd", "compiled", _Library, "products"]],
        repeats=Positive,
        seconds=PositiveFloat,
        examples=Positive,
    ),
    "replay": _keys(  # an annotated item of a list has fields that are no keys of the command line
        seeds=Positive,
        jobs=Positive,
        source=str | None,
        differs=str | None,
        solved_within=PositiveFloat,
        runs=list[Annotated[_REPLAY_RUN, Field(description="together they are a grid")]],
        figures=list[Annotated[PublishedFigure, Field(description="each is a row of the table")]],
        curve=_Curve | None,
        published_curves=list[Annotated[_PUBLISHED_CURVE, Field(description="drawn beside ours")]],
    ),
    "tune": _keys(
        space=dict[str, _SEARCHED] | None,
        sampler=Literal["tpe", "random"],
        trials=Positive,
        pruner=Literal["median", "hyperband", "none"],
        monitor=Metric | None,
    ),
    "compare": _keys(runs=list[str]),
}
BY_TARGET: dict[str, dict[str | None, type[Node]]] = {
    "data": {
        **{f"{_SOURCES}.{name}": _DATA for name in ("Digits", "BreastCancer", "Iris", "Wine")},
        **{f"{_SOURCES}.{name}": _GENERATED for name in ("Moons", "Circles", "Spirals", "Xor")},
        **{f"{_SOURCES}.{name}": _TRUTH_TABLE for name in ("Parity", "Symmetry")},
        "handgrad.data.idx.Mnist": _IDX,
        "handgrad.data.idx.FashionMnist": _IDX,
        "handgrad.data.tables.Csv": _TABLE,
        "handgrad.data.tables.Parquet": _TABLE,
        "handgrad.data.arrays.Arrays": _keys(_TABLE, target=str | None, features=str),
    },
    "backward": {
        "handgrad.rules.closed_form": _Target,
        "handgrad.rules.autograd": _Target,
        "handgrad.rules.custom": _keys(
            _Target, function=Annotated[str, Field(pattern=r"^[\w.]+\.\w+$")]
        ),
        "handgrad.rules.mistake": _keys(_Target, mistake=str),
        "handgrad.rules.feedback_alignment": _RANDOM_FEEDBACK,
        "handgrad.rules.sign_symmetric": _RANDOM_FEEDBACK,
        "handgrad.rules.sign_concordant": _Target,
        "handgrad.rules.flat_spot": _keys(_Target, offset=NotNegativeFloat),
    },
    "optimizer": {
        "handgrad.training.optimizers.GradientDescent": _DESCENT,
        "torch.optim.SGD": _keys(
            _DESCENT, momentum=Annotated[float, Field(gt=0, lt=1)], nesterov=(bool, False)
        ),
        "torch.optim.Adam": _ADAM,
        "torch.optim.AdamW": _ADAM,
        "torch.optim.LBFGS": _keys(
            _OPTIMIZER,
            max_iter=Positive,
            history_size=Annotated[int, Field(ge=1, le=10_000)],
            line_search_fn=Literal["strong_wolfe"] | None,
        ),
    },
    "scheduler": {
        None: _SCHEDULER,
        "torch.optim.lr_scheduler.StepLR": _keys(_EXPONENTIAL, step_size=Positive),
        "torch.optim.lr_scheduler.CosineAnnealingLR": _keys(
            _SCHEDULER,
            interval=Literal["epoch", "step"],
            T_max=Positive,
            eta_min=NotNegativeFloat,
        ),
        "torch.optim.lr_scheduler.ExponentialLR": _EXPONENTIAL,
        "torch.optim.lr_scheduler.ReduceLROnPlateau": _keys(
            _SCHEDULER,
            interval=Literal["validation"],
            monitor=Literal["cost/val", "accuracy/val"],
            mode=Mode,
            factor=Annotated[float, Field(gt=0, lt=1)],
            patience=NotNegative,
        ),
    },
}
GROUPS = (*FIXED, *BY_TARGET, "experiment", "debug")
OPEN = {"data": _DATA, "backward": _Target, "optimizer": _OPTIMIZER, "scheduler": _SCHEDULER}

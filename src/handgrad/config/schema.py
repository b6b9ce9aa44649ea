"""Every key of the configuration, its type and its range: a schema for each choice."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
_CURVE = "(cost|objective|accuracy|deviation)/(train|val|test)"

# pyright: reportIncompatibleVariableOverride=false
# A choice of a group may accept less than the group does: that is what its schema says.


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


class _Model(Node):
    """Keys of model.* and their values."""

    hidden: Positive
    init: Init
    init_range: PositiveFloat
    compile: bool


class _Data(_Target):
    """Keys of data.* that every source has."""

    batch_size: Positive | Literal["full"]
    microbatch: Positive | Literal["auto"] | None
    passes_per_epoch: Positive
    scale: Annotated[str, Field(pattern=r"^(auto|none|standard|minmax|/[0-9.eE+-]+)$")]
    validation: Fraction | None
    test: Fraction | None


class _Generated(_Data):
    """Keys of data.* of generated points in the plane."""

    examples: Annotated[int, Field(ge=4, le=10_000_000)]
    noise: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    seed: Seed


class _TruthTable(_Data):
    """Keys of data.* of a Boolean function of bits."""

    bits: Annotated[int, Field(ge=2, le=16)]
    targets: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class _Idx(_Data):
    """Keys of data.* of MNIST and Fashion-MNIST."""

    root: str
    download: bool
    train_examples: Positive | None
    validation: None
    test: None


class _Table(_Data):
    """Keys of data.* of the user's own table."""

    path: str
    target: str | int | list[str | int] | None


class _Arrays(_Table):
    """Keys of data.* of the user's own arrays."""

    target: str | None
    features: str


class _CustomRule(_Target):
    """Keys of backward.* of the user's own function."""

    function: Annotated[str, Field(pattern=r"^[\w.]+\.\w+$")]


class _Mistake(_Target):
    """Keys of backward.* of a planted error."""

    mistake: str


class _RandomFeedback(_Target):
    """Keys of backward.* of the rules with random feedback."""

    seed: Seed
    scale: PositiveFloat


class _FlatSpot(_Target):
    """Keys of backward=flat_spot and their values."""

    offset: NotNegativeFloat


class _Optimizer(_Target):
    """Keys of optimizer.* that every optimizer has."""

    lr: PositiveFloat
    clip_norm: PositiveFloat | None
    accumulate: Positive


class _Descent(_Optimizer):
    """Keys of optimizer=sgd and their values."""

    weight_decay: NotNegativeFloat


class _Sgd(_Descent):
    """Keys of optimizer=momentum and nesterov and their values."""

    momentum: Annotated[float, Field(gt=0, lt=1)]
    nesterov: bool = False


class _Adam(_Descent):
    """Keys of optimizer=adam and adamw and their values."""

    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: PositiveFloat


class _Lbfgs(_Optimizer):
    """Keys of optimizer=lbfgs and their values."""

    max_iter: Positive
    history_size: Annotated[int, Field(ge=1, le=10_000)]
    line_search_fn: Literal["strong_wolfe"] | None


class _Scheduler(_Target):
    """Keys of scheduler.* that every scheduler has."""

    interval: Literal["epoch", "step", "validation"]
    monitor: Metric | None


class _Exponential(_Scheduler):
    """Keys of scheduler=exponential and their values."""

    interval: Literal["epoch", "step"]
    gamma: PositiveFloat


class _Step(_Exponential):
    """Keys of scheduler=step and their values."""

    step_size: Positive


class _Cosine(_Scheduler):
    """Keys of scheduler=cosine and their values."""

    interval: Literal["epoch", "step"]
    T_max: Positive
    eta_min: NotNegativeFloat


class _Plateau(_Scheduler):
    """Keys of scheduler=plateau and their values."""

    interval: Literal["validation"]
    monitor: Literal["cost/val", "accuracy/val"]
    mode: Mode
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: NotNegative


class Trainer(Node):
    """Keys of trainer.*: the flags of Lightning's Trainer that users set."""

    accelerator: Literal["cpu", "gpu", "cuda", "mps", "auto"]
    devices: Positive | Annotated[list[NotNegative], Field(min_length=1)] | Literal["auto"]
    num_nodes: Positive
    timeout: PositiveFloat
    precision: Literal["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"]
    max_epochs: Positive | Literal[-1]
    min_epochs: Positive | None
    max_steps: Positive | Literal[-1]
    min_steps: Positive | None
    max_time: Annotated[str, Field(pattern=r"^\d{1,5}:\d\d:\d\d:\d\d$")] | None
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


class _Checkpoint(Node):
    """Keys of callbacks.checkpoint.* and their values."""

    monitor: Metric
    mode: Mode
    every_n_updates: Positive | None


class _EarlyStopping(Node):
    """Keys of callbacks.early_stopping.* and their values."""

    patience: Positive | None
    monitor: Metric
    mode: Mode
    min_delta: NotNegativeFloat


class _Curves(Node):
    """Keys of callbacks.curves.* and their values."""

    parts: list[Literal["train", "val", "test"]]
    gradient: bool


class _Callbacks(Node):
    """Keys of callbacks.* and their values."""

    checkpoint: _Checkpoint
    early_stopping: _EarlyStopping
    curves: _Curves


class _Csv(_Target):
    """Keys of logger.csv.* and their values."""

    name: Literal[""]
    version: Literal[""]


class _TensorBoard(_Csv):
    """Keys of logger.tensorboard.* and their values."""

    default_hp_metric: bool


class _Loggers(Node):
    """Keys of logger.* and their values."""

    tensorboard: _TensorBoard | None = None
    csv: _Csv | None = None


class _Check(Node):
    """Keys of check.* and their values."""

    at_start: bool
    on_failure: Literal["stop", "warn"]
    checksum_every_n_updates: Positive | None
    audit_every_n_updates: Positive | None
    precision: Literal["all"] | None


class _Dashboard(Node):
    """Keys of dashboard.* and their values."""

    tier: Literal["off", "lite", "full", "deep"]
    share: Fraction
    save_png: bool


class _Benchmark(Node):
    """Keys of benchmark.* and their values."""

    rows: list[
        Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*(-[1-9]\d*){2}(:(full|[1-9]\d*))?$")]
        | Literal["growth", "processes", "startup"]
    ]
    contenders: list[Literal["trainer", "bare", "autograd", "compiled", _Library, "products"]]
    repeats: Positive
    seconds: PositiveFloat
    examples: Positive


class _ReplayRun(Node):
    """One training of a replay: its changes to the experiment, as on the command line."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    overrides: list[str]


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


class _PublishedCurve(Node):
    """Points of a published curve: epoch, counted from 0, and value."""

    run: str | None = None
    points: list[Annotated[list[Finite], Field(min_length=2, max_length=2)]]


class _Replay(Node):
    """Keys of replay.* and their values.

    An annotated item of a list has fields that are no keys of the command line.
    """

    seeds: Positive
    jobs: Positive
    source: str | None
    differs: str | None
    solved_within: PositiveFloat
    runs: list[Annotated[_ReplayRun, Field(description="together they are a grid")]]
    figures: list[Annotated[PublishedFigure, Field(description="each is a row of the table")]]
    curve: Annotated[str, Field(pattern=f"^{_CURVE}$")] | None
    published_curves: list[Annotated[_PublishedCurve, Field(description="drawn beside ours")]]


class _Searched(Node):
    """Values of one key that a search may draw: within bounds, or among choices."""

    low: Finite | None = None
    high: Finite | None = None
    log: bool = False
    step: PositiveFloat | None = None
    choices: Annotated[list[str | bool | int | Finite], Field(min_length=1)] | None = None


class _Tune(Node):
    """Keys of tune.* and their values."""

    space: dict[str, _Searched] | None
    sampler: Literal["tpe", "random"]
    trials: Positive
    pruner: Literal["median", "hyperband", "none"]
    monitor: Metric | None


class _Compare(Node):
    """Keys of compare.* and their values."""

    runs: list[str]


_SOURCES = "handgrad.data.sources"
FIXED = {
    "model": _Model,
    "trainer": Trainer,
    "callbacks": _Callbacks,
    "logger": _Loggers,
    "check": _Check,
    "dashboard": _Dashboard,
    "benchmark": _Benchmark,
    "replay": _Replay,
    "tune": _Tune,
    "compare": _Compare,
}
BY_TARGET: dict[str, dict[str | None, type[Node]]] = {
    "data": {
        **{f"{_SOURCES}.{name}": _Data for name in ("Digits", "BreastCancer", "Iris", "Wine")},
        **{f"{_SOURCES}.{name}": _Generated for name in ("Moons", "Circles", "Spirals", "Xor")},
        **{f"{_SOURCES}.{name}": _TruthTable for name in ("Parity", "Symmetry")},
        "handgrad.data.idx.Mnist": _Idx,
        "handgrad.data.idx.FashionMnist": _Idx,
        "handgrad.data.tables.Csv": _Table,
        "handgrad.data.tables.Parquet": _Table,
        "handgrad.data.arrays.Arrays": _Arrays,
    },
    "backward": {
        "handgrad.rules.closed_form": _Target,
        "handgrad.rules.autograd": _Target,
        "handgrad.rules.custom": _CustomRule,
        "handgrad.rules.mistake": _Mistake,
        "handgrad.rules.feedback_alignment": _RandomFeedback,
        "handgrad.rules.sign_symmetric": _RandomFeedback,
        "handgrad.rules.sign_concordant": _Target,
        "handgrad.rules.flat_spot": _FlatSpot,
    },
    "optimizer": {
        "handgrad.training.optimizers.GradientDescent": _Descent,
        "torch.optim.SGD": _Sgd,
        "torch.optim.Adam": _Adam,
        "torch.optim.AdamW": _Adam,
        "torch.optim.LBFGS": _Lbfgs,
    },
    "scheduler": {
        None: _Scheduler,
        "torch.optim.lr_scheduler.StepLR": _Step,
        "torch.optim.lr_scheduler.CosineAnnealingLR": _Cosine,
        "torch.optim.lr_scheduler.ExponentialLR": _Exponential,
        "torch.optim.lr_scheduler.ReduceLROnPlateau": _Plateau,
    },
}
GROUPS = (*FIXED, *BY_TARGET, "experiment", "debug")
OPEN = {"data": _Data, "backward": _Target, "optimizer": _Optimizer, "scheduler": _Scheduler}

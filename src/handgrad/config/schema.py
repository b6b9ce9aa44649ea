"""Every key of the configuration, its type and its range: a schema for each choice."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 10**18  # of a number: 64-bit integers and float32 hold it, and nobody needs more
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


class Node(BaseModel):
    """A group of keys; any other key is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


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


class ReplayRun(Node):
    """One training of a replay: what is changed of the experiment, as on the command line."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    overrides: list[str]


class PublishedFigure(Node):
    """One published figure: what it is of, how a source came to it, and how close is close."""

    run: str | None = None
    value: Annotated[
        str,
        Field(
            pattern=r"^((best|first|last) (cost|objective|accuracy|deviation)/(train|val|test)"
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


class PublishedCurve(Node):
    """Points of a published curve: epoch, counted from 0, and value."""

    run: str | None = None
    points: list[Annotated[list[Finite], Field(min_length=2, max_length=2)]]


class Replay(Node):
    """Keys of replay.* and their values.

    What is annotated is an item of a list: its fields are no keys of the command line.
    """

    seeds: Positive
    jobs: Positive
    source: str | None
    differs: str | None
    solved_within: PositiveFloat
    runs: list[Annotated[ReplayRun, Field(description="together they are a grid")]]
    figures: list[Annotated[PublishedFigure, Field(description="each is a row of the table")]]
    curve: (
        Annotated[str, Field(pattern=r"^(cost|objective|accuracy|deviation)/(train|val|test)$")]
        | None
    )
    published_curves: list[Annotated[PublishedCurve, Field(description="drawn beside ours")]]


class Searched(Node):
    """Where one key's values are searched: within bounds, or among choices."""

    low: Finite | None = None
    high: Finite | None = None
    log: bool = False
    step: PositiveFloat | None = None
    choices: Annotated[list[str | bool | int | Finite], Field(min_length=1)] | None = None


class Tune(Node):
    """Keys of tune.* and their values."""

    space: dict[str, Searched] | None
    sampler: Literal["tpe", "random"]
    trials: Positive
    pruner: Literal["median", "hyperband", "none"]
    monitor: Metric | None


class Compare(Node):
    """Keys of compare.* and their values."""

    runs: list[str]


# pyright: reportIncompatibleVariableOverride=false
# A choice of a group may accept less than the group does: that is what its schema says.


class Main(Node):
    """The keys at the top."""

    task: Literal[
        "train",
        "check",
        "test",
        "predict",
        "export",
        "examples",
        "benchmark",
        "replay",
        "tune",
        "compare",
    ]
    cost: Cost
    seed: Seed
    reproducible: Literal["bitwise"] | None
    ckpt_path: Annotated[str, Field(min_length=1)] | None
    on_change: Literal["stop", "accept"]
    on_nonfinite: Literal["stop", "skip"]


class Model(Node):
    """Keys of model.* and their values."""

    hidden: Positive
    init: Init
    init_range: PositiveFloat
    compile: bool


class Target(Node):
    """A node that names the class it is made into."""

    target_: str | None = Field(alias="_target_")


class Data(Target):
    """data.* of every source."""

    batch_size: Positive | Literal["full"]
    microbatch: Positive | Literal["auto"] | None
    passes_per_epoch: Positive
    scale: Annotated[str, Field(pattern=r"^(auto|none|standard|minmax|/[0-9.eE+-]+)$")]
    validation: Fraction | None
    test: Fraction | None


class Generated(Data):
    """data.* of points in the plane."""

    examples: Annotated[int, Field(ge=4, le=10_000_000)]
    noise: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    seed: Seed


class TruthTable(Data):
    """data.* of a Boolean function of bits."""

    bits: Annotated[int, Field(ge=2, le=16)]
    targets: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class Idx(Data):
    """data.* of MNIST and its kin."""

    root: str
    download: bool
    train_examples: Positive | None
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

    seed: Seed
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
    history_size: Annotated[int, Field(ge=1, le=10_000)]
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


class Curves(Node):
    """Keys of callbacks.curves.* and their values."""

    parts: list[Literal["train", "val", "test"]]
    gradient: bool


class Callbacks(Node):
    """Keys of callbacks.* and their values."""

    checkpoint: Checkpoint
    early_stopping: EarlyStopping
    curves: Curves


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
    precision: Literal["all"] | None


class Dashboard(Node):
    """Keys of dashboard.* and their values."""

    tier: Literal["off", "lite", "full", "deep"]
    share: Fraction
    save_png: bool


FIXED = {
    "model": Model,
    "trainer": Trainer,
    "callbacks": Callbacks,
    "logger": Loggers,
    "check": Check,
    "dashboard": Dashboard,
    "benchmark": Benchmark,
    "replay": Replay,
    "tune": Tune,
    "compare": Compare,
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
        "handgrad.data.sources.Parity": TruthTable,
        "handgrad.data.sources.Symmetry": TruthTable,
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
        "handgrad.training.optimizers.GradientDescent": Descent,
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

"""The keys of single tasks, their types and their ranges."""

from typing import Annotated, Literal

from pydantic import Field

from handgrad.schema_types import Finite, Metric, Node, Positive, PositiveFloat


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

"""Check of a checkpoint's content: it may come from anywhere, and nothing it names is run.

Its tensors, sizes and names are compared with what training writes before anything is made of
them. Of its data, only the sources of this package are made again, with keys that their schema
accepts. A user's own class is named on the command line, never by a file.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, strided

from handgrad.config.errors import BadInput
from handgrad.config.refusals import explain
from handgrad.config.schema import (
    BY_TARGET,
    Cost,
    Finite,
    Init,
    Node,
    Positive,
    PositiveFloat,
    Seed,
)
from handgrad.config.validate import check, schema_of
from handgrad.runs.checkpoint_file import Damaged


class _Hyperparameters(Node):
    """Holds the sizes and settings that the network is made with."""

    in_features: Positive
    hidden_features: Positive
    out_features: Positive
    init: Init
    init_range: PositiveFloat
    seed: Seed
    cost: Cost
    multilabel: bool


class _Known(Node):
    """Holds the names that training knew of its data."""

    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    feature_names: Annotated[tuple[str, ...], Field(min_length=1)]
    target_names: tuple[str, ...]
    multi_label: bool


class _Scaling(Node):
    """Holds how the features were scaled."""

    scale: str
    offset: list[Finite]
    divisor: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]  # as large as the data


class _Evaluation(Node):
    """Holds what the data module needs to read other data in the same way."""

    known: _Known
    scaling: _Scaling


class _Content(Node):
    """Holds the part of a checkpoint that applying its network needs."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    state_dict: dict[str, Tensor]
    hyper_parameters: _Hyperparameters
    evaluation: _Evaluation = Field(alias="ExampleData")
    config: dict[str, Any]


def check_content(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint that does not contain what training writes.

    Raises:
        Damaged: one line with the file, and what is wrong in it.
    """
    try:
        content = _Content.model_validate(checkpoint)
    except ValidationError as error:
        raise Damaged(path, f"not a checkpoint of handgrad: {explain(error, '')}") from None
    made = content.hyper_parameters
    n_x, n_h, n_y = made.in_features, made.hidden_features, made.out_features
    shapes = {"W1": (n_h, n_x), "b1": (n_h,), "W2": (n_y, n_h), "b2": (n_y,)}
    known, scaling = content.evaluation.known, content.evaluation.scaling
    one_for_two = len(known.class_names) == 2 and not known.multi_label
    wrong = [
        name for name, shape in shapes.items() if not _is_plain(content.state_dict.get(name), shape)
    ]
    wrong += sorted(content.state_dict.keys() - shapes.keys())
    wrong += ["feature_names"] * (len(known.feature_names) != n_x)
    wrong += ["class_names"] * ((1 if one_for_two else len(known.class_names)) != n_y)
    wrong += ["scaling"] * (not {len(scaling.offset), len(scaling.divisor)} <= {1, n_x})
    if wrong:
        raise Damaged(
            path,
            f"not a checkpoint of handgrad: {wrong[0]} does not match a network with {n_x} inputs, "
            f"{n_h} hidden units and {n_y} outputs",
        )


def _is_plain(tensor: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor has this shape and all its numbers are in the file, each once."""
    return (
        tensor is not None
        and tensor.shape == shape
        and tensor.is_floating_point()
        and tensor.layout == strided
        and tensor.device.type == "cpu"
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )


def data_node(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the part of a checkpoint's configuration that says which data trained it.

    Raises:
        BadInput: if it does not name a source of this package with that source's keys.
    """
    node = checkpoint["config"].get("data")
    target = node.get("_target_") if isinstance(node, dict) else None
    if target is None or target not in BY_TARGET["data"]:
        raise BadInput(
            f"ckpt_path={path}: its data come from {str(target)[:60]!r}, which a checkpoint must "
            "not name; name the data for this run, such as data=csv data.path=FILE"
        )
    try:
        check(schema_of("data", node), node, "data.")
    except BadInput as error:
        raise BadInput(f"ckpt_path={path}: in its configuration, {error}") from None
    return node

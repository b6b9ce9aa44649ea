"""Schema of a whole checkpoint: it may come from anywhere, and nothing it names is run.

Its tensors, sizes, counts and names are compared with what training writes before anything is made
of them, and before a run touches a file. Of its data, only the sources of this package are made
again, with keys that their schema accepts. A user's own class is named on the command line, never
by a file.
"""

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    create_model,
)
from torch import Tensor, strided
from typing_extensions import TypeAliasType

from handgrad.config.refusals import requirement
from handgrad.config.schema import (
    BY_TARGET,
    Cost,
    Finite,
    Init,
    Node,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Seed,
)
from handgrad.runs.checkpoint_file import Damaged

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false
# pyright: reportIncompatibleVariableOverride=false
# The schemas below are made of tables, as types that hold while the program runs.

ORDINARY = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
)
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
GENERATOR_WORDS = 624  # of the state of NumPy's generator
CUDA_BYTES = 16  # of a GPU's generator: its seed and its place


def _ordinary(tensor: Tensor) -> Tensor:
    """Refuse a tensor whose numbers are not all in the file, each once."""
    if (
        tensor.dtype not in ORDINARY
        or tensor.layout != strided
        or tensor.device.type != "cpu"
        or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()
        or not _is_without_overlap(tensor)
    ):
        raise ValueError("must be an ordinary tensor")
    return tensor


def _is_without_overlap(tensor: Tensor) -> bool:
    """Return whether no two numbers of a tensor lie at the same place."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            return False
        reach += stride * (size - 1)
    return True


def _finite(tensor: Tensor) -> Tensor:
    """Refuse integers, NaN and infinite values."""
    if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
        raise ValueError("must contain finite numbers")
    return tensor


def _single(tensor: Tensor) -> Tensor:
    """Refuse more than one number."""
    if tensor.dim() or not tensor.is_floating_point():
        raise ValueError("must be a single number")
    return tensor


Ordinary = Annotated[Tensor, AfterValidator(_ordinary)]
FiniteTensor = Annotated[Ordinary, AfterValidator(_finite)]
Single = Annotated[Ordinary, AfterValidator(_single)]
FiniteSingle = Annotated[FiniteTensor, AfterValidator(_single)]


class _Closed(Node):
    """A dict that has these keys and no others."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


class _Open(_Closed):
    """A dict that has these keys, and others that are not read."""

    model_config = ConfigDict(extra="allow")


class _Json(_Open):
    """A dict that has these keys, and others of plain values."""

    __pydantic_extra__: dict[str, JsonValue]


Counts = TypeAliasType("Counts", "dict[str, Counts | NotNegative | bool]")


class _Counted(_Open):
    """A dict that has these keys, and others that are counts within dicts."""

    __pydantic_extra__: dict[str, Counts]


def _keys(base: type[Node], keys: dict[str, Any]) -> type[Node]:
    """Return the schema of a dict: the type of each key, or its type and its default."""
    fields: dict[str, Any] = {}
    for name, key in keys.items():
        type_of, *default = key if isinstance(key, tuple) else (key,)
        fields["of_" + re.sub(r"\W", "_", name)] = (type_of, Field(*default or (...,), alias=name))
    return create_model(base.__name__, __base__=base, **fields)


def _in_order(count: Node) -> Node:
    """Refuse more ends than beginnings."""
    known = [each for each in count.model_dump(by_alias=True).values() if each is not None]
    if known != sorted(known, reverse=True):
        raise ValueError("must not end more often than it begins")
    return count


_NAMES = Annotated[tuple[str, ...], Field(min_length=1)]
_SUMS = Annotated[list[NotNegativeFloat], Field(min_length=3, max_length=3)]
_ONE = Field(min_length=1, max_length=1)
_HYPERPARAMETERS = _keys(
    _Closed,
    {
        **dict.fromkeys(("in_features", "hidden_features", "out_features"), Positive),
        **{"init": Init, "init_range": PositiveFloat, "seed": Seed, "cost": Cost},
        "multilabel": bool,
    },
)
_KNOWN = _keys(
    _Closed,
    {
        **{"class_names": _NAMES, "feature_names": _NAMES, "target_names": tuple[str, ...]},
        "multi_label": bool,
    },
)
_DIVISOR = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # as large as the data
_SCALING = _keys(_Closed, {"scale": str, "offset": list[Finite], "divisor": list[_DIVISOR]})
_CONFIG = _keys(
    _Json,
    {
        "optimizer": _keys(_Json, {"_target_": str, "lr": PositiveFloat}),
        "scheduler": _keys(_Json, {"_target_": str | None}),
    },
)
_COUNT = Annotated[
    _keys(
        _Closed,
        {
            **{"ready": NotNegative, "started": (NotNegative | None, None)},
            **{"processed": (NotNegative | None, None), "completed": NotNegative},
        },
    ),
    AfterValidator(_in_order),
]
_PROGRESS = _keys(_Closed, {"total": _COUNT, "current": _COUNT})
_BLOCKS = _keys(_PROGRESS, {"is_last_batch": bool})
_OPTIMIZATION = _keys(
    _Open, {"optimizer": _keys(_Open, dict.fromkeys(("step", "zero_grad"), _PROGRESS))}
)
_FIT_LOOP = _keys(
    _Counted,
    {
        "epoch_progress": _PROGRESS,
        "epoch_loop.state_dict": dict[str, NotNegative],
        "epoch_loop.scheduler_progress": (_PROGRESS | None, None),
        "epoch_loop.automatic_optimization.optim_progress": (_OPTIMIZATION | None, None),
        "epoch_loop.batch_progress": _BLOCKS,
        "epoch_loop.val_loop.batch_progress": _BLOCKS,
        "epoch_loop.manual_optimization.optim_step_progress": _PROGRESS,
    },
)
_OPTIMIZER_STATE = _keys(
    _Open,
    {
        "state": dict[int, dict[str, Any]],
        "param_groups": Annotated[
            list[_keys(_Open, {"lr": NotNegativeFloat, "initial_lr": (NotNegativeFloat, 0.0)})],
            Field(min_length=1),
        ],
    },
)
_SCHEDULE = _keys(
    _Json,
    {
        **{"last_epoch": NotNegative, "_last_lr": list[NotNegativeFloat]},
        **{"_step_count": (NotNegative, 0), "base_lrs": (list[NotNegativeFloat] | None, None)},
        **{"best": (float | None, None), "num_bad_epochs": (NotNegative | None, None)},
        "cooldown_counter": (NotNegative | None, None),
    },
)
_GATHERED = _keys(
    _Closed,
    {
        **{"window": _SUMS, "epoch": _SUMS, "skipped": NotNegative},
        **dict.fromkeys(("figures", "published"), dict[str, float]),
    },
)
_GENERATORS = _keys(
    _Closed,
    {
        **{"torch": Ordinary, "cuda": Ordinary | None},
        **{
            "numpy": list[str | Ordinary | int | float],
            "python": list[int | Ordinary | float | None],
        },
    },
)
_LOSS_SCALE = _keys(
    _Closed,
    {
        **dict.fromkeys(("scale", "growth_factor", "backoff_factor"), PositiveFloat),
        **{"growth_interval": Positive, "_growth_tracker": NotNegative},
    },
)
_CHECKPOINT = _keys(
    _Open,
    {
        "state_dict": dict[str, FiniteTensor],
        "hyper_parameters": _HYPERPARAMETERS,
        "ExampleData": _keys(_Closed, {"known": _KNOWN, "scaling": _SCALING}),
        "config": _CONFIG,
        "fingerprint": _keys(_Json, {"data": str}),
        "pytorch-lightning_version": Annotated[
            str, Field(pattern=r"^[2-9]\.\d{1,4}\.\d{1,4}", max_length=40)
        ],
        **{"global_step": NotNegative, "epoch": NotNegative},
        "loops": _keys(_Open, {"fit_loop": _FIT_LOOP}),
        "callbacks": dict[str, dict[str, Any]],
        "optimizer_states": Annotated[list[_OPTIMIZER_STATE], _ONE],
        "lr_schedulers": Annotated[list[_SCHEDULE], Field(max_length=1)],
        "gathered": _GATHERED,
        "random_states": Annotated[list[_GENERATORS], Field(min_length=1)],
        "feedback": (FiniteTensor | None, None),
        "MixedPrecision": (_LOSS_SCALE | None, None),
    },
)
_CALLBACKS = {  # the states of ours, by class
    "BestCheckpoint": _keys(
        _Open,
        {
            **dict.fromkeys(("best_model_score", "current_score"), Single | None),
            "kth_value": Single,
        },
    ),
    "LearningCurves": _keys(_Open, {"rows": NotNegative | list[dict[str, float]]}),
    "Patience": _keys(
        _Open,
        {
            **{"wait_count": NotNegative, "stopped_epoch": NotNegative, "best_score": Single},
            "stopping_reason": (Annotated[int, Field(ge=0, le=3)], 0),
            "stopping_reason_message": (str | None, None),
        },
    ),
}
_AVERAGES = _keys(
    _Closed, {"step": FiniteSingle, "exp_avg": FiniteTensor, "exp_avg_sq": FiniteTensor}
)
_MOMENTS = {  # what an optimizer keeps of a parameter, by its class
    "handgrad.training.optimizers.GradientDescent": _Closed,
    "torch.optim.SGD": _keys(_Closed, {"momentum_buffer": FiniteTensor}),
    "torch.optim.Adam": _AVERAGES,
    "torch.optim.AdamW": _AVERAGES,
}
_DIRECTIONS = {  # what L-BFGS keeps of all parameters together, from its first iteration on
    **dict.fromkeys(("d", "prev_flat_grad"), FiniteTensor),
    **dict.fromkeys(("old_dirs", "old_stps"), list[FiniteTensor]),
    **{"ro": list[FiniteSingle], "t": FiniteSingle | Finite, "H_diag": FiniteSingle | Finite},
    "prev_loss": Finite,
}
_LBFGS = {"func_evals": NotNegative, "n_iter": NotNegative, "al": (Any, None)}  # al: made anew
_SINGLE = ("step", "t", "ro", "al", "H_diag")  # numbers, whatever the parameter's shape


def check_content(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint that does not contain what training writes.

    Raises:
        Damaged: one line with the file, and what is wrong in it.
    """
    try:
        _CHECKPOINT.model_validate(checkpoint)
        for name, state in checkpoint["callbacks"].items():
            _CALLBACKS.get(name.partition("{")[0], _Open).model_validate(state)
        for state in checkpoint["optimizer_states"][0]["state"].values():
            _moments(checkpoint["config"]["optimizer"]["_target_"], state).model_validate(state)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        wrong = "is missing" if first["type"] == "missing" else requirement(first)
        raise Damaged(path, f"not a checkpoint of handgrad: {place} {wrong}") from None
    made = checkpoint["hyper_parameters"]
    sizes = made["in_features"], made["hidden_features"], made["out_features"]
    if wrong := next(_unlike_the_network(checkpoint, *sizes), None):
        raise Damaged(
            path,
            f"not a checkpoint of handgrad: {wrong} does not match a network with {sizes[0]} "
            f"inputs, {sizes[1]} hidden units and {sizes[2]} outputs",
        )
    if wrong := next(_contradictions(checkpoint), None):
        raise Damaged(path, f"not a checkpoint of handgrad: {wrong}")


def _moments(optimizer: str, state: dict[str, Any]) -> type[Node]:
    """Return the schema of what an optimizer keeps of a parameter; open for a user's own class."""
    if optimizer != "torch.optim.LBFGS":
        return _MOMENTS.get(optimizer, _Open)
    return _keys(_Closed, _LBFGS | (_DIRECTIONS if state.get("n_iter") else {}))


def _unlike_the_network(checkpoint: dict[str, Any], n_x: int, n_h: int, n_y: int) -> Iterator[str]:
    """Yield the names of what has not the sizes of its network."""
    shapes = {"W1": (n_h, n_x), "b1": (n_h,), "W2": (n_y, n_h), "b2": (n_y,)}
    weights, data = checkpoint["state_dict"], checkpoint["ExampleData"]
    for name in dict.fromkeys((*shapes, *weights)):
        if name not in shapes or name not in weights or weights[name].shape != shapes[name]:
            yield name
    known, scaling = data["known"], data["scaling"]
    one_for_two = len(known["class_names"]) == 2 and not known["multi_label"]
    if len(known["feature_names"]) != n_x:
        yield "feature_names"
    if (1 if one_for_two else len(known["class_names"])) != n_y:
        yield "class_names"
    if not {len(scaling["offset"]), len(scaling["divisor"])} <= {1, n_x}:
        yield "scaling"
    if "feedback" in checkpoint and checkpoint["feedback"].shape != shapes["W2"]:
        yield "feedback"
    target, in_order = checkpoint["config"]["optimizer"]["_target_"], ("W1", "W2", "b1", "b2")
    together = (sum(map(math.prod, shapes.values())),)
    for number, state in checkpoint["optimizer_states"][0]["state"].items():
        if not 0 <= number < len(in_order):
            yield f"optimizer_states.{number}"
            return
        shape = together if target == "torch.optim.LBFGS" else shapes[in_order[number]]
        for name, kept in state.items() if target in BY_TARGET["optimizer"] else ():
            for each in kept if isinstance(kept, list) else [kept]:
                if isinstance(each, Tensor) and each.shape != (() if name in _SINGLE else shape):
                    yield f"optimizer_states.{number}.{name}"
        if len({len(state[name]) for name in ("old_dirs", "old_stps", "ro") if name in state}) > 1:
            yield "optimizer_states.0.old_dirs"


def _contradictions(checkpoint: dict[str, Any]) -> Iterator[str]:
    """Yield a line on each part of a checkpoint that contradicts another one."""
    made, config = checkpoint["hyper_parameters"], checkpoint["config"]
    loop, updates, epoch = (
        checkpoint["loops"]["fit_loop"],
        checkpoint["global_step"],
        checkpoint["epoch"],
    )
    counted = loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
    if counted != updates:
        yield f"global_step={updates}, but loops has counted {counted} updates"
    ended = loop["epoch_progress"]["current"].get("processed")
    if ended not in (epoch, epoch + 1):  # one more while an epoch ends
        yield f"epoch={epoch}, but loops has counted {ended} epochs"
    if made["multilabel"] != checkpoint["ExampleData"]["known"]["multi_label"]:
        yield "multi_label is not hyper_parameters.multilabel"
    for name in ("cost", "seed"):
        if config.get(name, made[name]) != made[name]:
            yield f"hyper_parameters.{name} is not config.{name}"
    schedules, scheduled = checkpoint["lr_schedulers"], config["scheduler"]["_target_"] is not None
    if len(schedules) != scheduled or not all(_is_whole(each, checkpoint) for each in schedules):
        yield "lr_schedulers is not that of config.scheduler"
    if not all(map(_are_usable, checkpoint["random_states"])):
        yield "random_states are not those of generators"


def _is_whole(schedule: dict[str, Any], checkpoint: dict[str, Any]) -> bool:
    """Return whether a schedule has its place, and a rate for each group of the optimizer."""
    target = checkpoint["config"]["scheduler"]["_target_"]
    if target not in BY_TARGET["scheduler"]:
        return True  # a user's own
    needed = ("best", "num_bad_epochs", "cooldown_counter") if target == PLATEAU else ("base_lrs",)
    groups = len(checkpoint["optimizer_states"][0]["param_groups"])
    rates = (schedule["_last_lr"], schedule.get("base_lrs"))
    return all(schedule.get(name) is not None for name in needed) and all(
        each is None or len(each) == groups for each in rates
    )


def _are_usable(states: dict[str, Any]) -> bool:
    """Return whether generators take these states, tried on generators of no other use."""
    try:
        set_generators(states, torch.Generator(), np.random.RandomState(), random.Random())
        place, cuda = states["numpy"][2], states["cuda"]
    except Exception:  # each library has errors of its own
        return False
    return (
        type(place) is int
        and 0 <= place <= GENERATOR_WORDS  # which NumPy does not check
        and (cuda is None or (cuda.dtype == torch.uint8 and cuda.shape == (CUDA_BYTES,)))
    )


def set_generators(state: dict[str, Any], of_torch: Any, of_numpy: Any, of_python: Any) -> None:
    """Set generators of the three libraries, or the global ones, to a checkpoint's states."""
    of_torch.set_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    of_numpy.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    of_python.setstate((version, tuple(internal.tolist()), gauss))

"""Output of a backward rule, sorted into usable gradients and problems.

A rule may be anybody's code: it may raise, return too little, the wrong shape, the wrong dtype or
NaN, or write into its inputs. Each fault becomes a sentence about the line that caused it.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from handgrad.audit.reference import float64, working_dtypes
from handgrad.backprop import Activations, Gradients, Parameters
from handgrad.rules.user_function import SHORT

NAMES = Gradients._fields
"""The six lines, in the order in which they are computed and reported."""

LAST_READ_BY = {
    **{"Y": "dz2", "A2": "dz2", "z2": "dz2", "b2": "db2", "W2": "dz1", "z1": "dz1", "A1": "dz1"},
    **{"X": "dW1", "W1": "dW1", "b1": "db1"},
}
"""Line that is blamed for an input which the rule has changed: the last one that reads it."""

ASSIGNMENT = re.compile(rf"\s*({'|'.join(NAMES)})\s*(?::[^=]*)?=[^=]")


class RuleOutput(NamedTuple):
    """Gradients of a rule, as far as they can be judged."""

    values: dict[str, Tensor]  # the usable ones: real, of the right shape, in float64
    problems: dict[str, str]  # what is wrong with a line, whether or not its value is usable
    failure: str  # why other lines have no value; empty if the rule keeps them to itself
    dtypes: set[torch.dtype]  # of the usable values

    def problem_with(self, name: str) -> str:
        """Return why a line cannot be compared. Empty if it can, or need not be returned."""
        return self.problems.get(name, "" if name in self.values else self.failure)


def call_rule(
    rule: Callable[..., Any], params: Parameters, activations: Activations, X: Tensor, Y: Tensor
) -> RuleOutput:
    """Call the rule on copies of the inputs and sort its output. No fault of the rule raises."""
    inputs = {**params._asdict(), **activations._asdict(), "X": X, "Y": Y}
    copies = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    try:
        result = rule(
            Parameters(*(copies[name] for name in Parameters._fields)),
            Activations(*(copies[name] for name in Activations._fields)),
            copies["X"],
            copies["Y"],
        )
    except Exception as error:  # whatever it is, the report shows it
        return _raised(error, params, activations, Y)
    if isinstance(result, Gradients):
        fields = result._asdict()
    elif isinstance(result, (tuple, list)) and len(result) == len(SHORT):
        fields = {"dz2": None, "dz1": None, **dict(zip(SHORT, result, strict=True))}
    else:
        several = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        told = f"the rule returned a {type(result).__name__}{several}, "
        told += f"must be Gradients or the tuple ({', '.join(SHORT)})"
        return RuleOutput({}, dict.fromkeys(NAMES, told), "", set())
    problems = {
        LAST_READ_BY[name]: f"the rule changed its input {name} in place"
        for name, tensor in inputs.items()
        if not _same(tensor, copies[name])
    }
    return _sorted(fields, problems, params, activations, Y)


def _sorted(
    fields: Mapping[str, Any],
    problems: dict[str, str],
    params: Parameters,
    activations: Activations,
    Y: Tensor,
) -> RuleOutput:
    """Separate the usable values from the others, and put every problem into a sentence."""
    z1, _, z2, A2 = activations
    shapes = {"dz2": z2.shape, "dz1": z1.shape}
    shapes |= {f"d{name}": tensor.shape for name, tensor in params._asdict().items()}
    dtypes = working_dtypes((*params, *activations), Y.device.type)
    dtypes.add(torch.promote_types(A2.dtype, Y.dtype))
    values: dict[str, Tensor] = {}
    for name in NAMES:
        gradient = fields[name]
        unusable = _unusable(name, gradient, shapes[name])
        if unusable:
            problems[name] = unusable
        elif gradient is not None:
            values[name] = float64(gradient)
            if gradient.dtype not in dtypes:
                accepted = " or ".join(sorted(map(str, dtypes)))
                problems[name] = f"{name} has dtype {gradient.dtype}, must be {accepted}"
    returned = {fields[name].dtype for name in values}
    return RuleOutput(values, problems, "", returned & dtypes)


def _unusable(name: str, gradient: Any, shape: torch.Size) -> str:
    """Return why a value cannot be judged as numbers. Empty if it can, or need not be returned."""
    if gradient is None:
        return "" if name in ("dz2", "dz1") else f"{name} is missing: the rule returned None for it"
    if not isinstance(gradient, Tensor):
        return f"{name} is of type {type(gradient).__name__}, must be a tensor"
    if gradient.shape != shape:
        return _wrong_shape(name, tuple(gradient.shape), tuple(shape))
    if gradient.is_complex() or gradient.dtype is torch.bool:
        return f"{name} has dtype {gradient.dtype}, must be a real floating one"
    return ""


def _wrong_shape(name: str, shape: tuple[int, ...], right: tuple[int, ...]) -> str:
    """Describe a wrong shape, and name the mistake if the shape gives it away."""
    told = f"{name} has shape {shape}, must be {right}"
    if len(right) == 2 and shape == right[::-1]:
        return f"{told}: a transposed product"
    if name.startswith("db") and shape in ((1, *right), (*right, 1)):
        return f"{told}: the sum kept its axis (keepdim)"
    if name.startswith("db") and shape in ((), (1,)):
        return f"{told}: summed over the units too, must be summed over the examples alone"
    if name.startswith("db") and len(shape) <= 2:
        return f"{told}: summed over the wrong axis, must be summed over the examples (dim=0)"
    return told


def _raised(
    error: Exception, params: Parameters, activations: Activations, Y: Tensor
) -> RuleOutput:
    """Report an exception as a problem of the line that raised it, or else of all lines.

    The lines before it are read from the frame that raised. If the value that feeds the line has
    the wrong shape or dtype, the line that computed this value is blamed.
    """
    message = f"the rule raised {type(error).__name__}: {' '.join(str(error).split())}"
    name, code, found = _failed_line(error)
    if name is None:
        return RuleOutput({}, dict.fromkeys(NAMES, message), "", set())
    output = _sorted(dict.fromkeys(NAMES) | found, {}, params, activations, Y)
    for missing in set(NAMES) - set(found):
        output.problems.pop(missing, None)
    feeds = {"dz2": None, "dW2": "dz2", "db2": "dz2", "dz1": "dz2", "dW1": "dz1", "db1": "dz1"}
    if feeds[name] not in output.problems:
        output.problems[name] = f"{message} in `{code}`"
    return output._replace(failure=f"{message} in the line of {name}")


def _failed_line(error: Exception) -> tuple[str | None, str, dict[str, Tensor]]:
    """Return the name and code of the line that failed, and the gradients computed before it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    lines = traceback.extract_tb(error.__traceback__)
    for (frame, _), line in zip(reversed(frames), reversed(lines), strict=True):
        code = (line.line or "").split("#")[0].strip()
        assignment = ASSIGNMENT.match(code)
        unbound = re.search(r"'(\w+)'", str(error)) if isinstance(error, NameError) else None
        name = assignment[1] if assignment else None
        if unbound and unbound[1] in NAMES:
            name = unbound[1]
        if name:
            local = {key: frame.f_locals.get(key) for key in NAMES if key != name}
            found = {key: value for key, value in local.items() if isinstance(value, Tensor)}
            return name, code, found
    return None, "", {}


def _same(before: Tensor, after: Tensor) -> bool:
    """Return whether two tensors are the same. NaN counts as equal to itself."""
    if before.shape != after.shape:
        return False
    return bool(((before == after) | ((before != before) & (after != after))).all())

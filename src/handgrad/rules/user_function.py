"""User-written backward passes, imported by name from the working directory."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor

from handgrad.backprop import Activations, Cost, Gradients, Parameters

SHORT = ("dW1", "db1", "dW2", "db2")
"""Gradients that a function may return alone, if it keeps dz2 and dz1 to itself."""


@dataclass(frozen=True)
class Custom:
    """Rule that calls the user's function in place of `backprop.backward`.

    Attributes:
        name: the function as the configuration names it, file.function.
        function: (params, activations, X, Y) -> Gradients, or (dW1, db1, dW2, db2).
        deviates: the lines that deviate from the equations on purpose.
    """

    name: str
    function: Callable[..., Any]
    deviates: frozenset[str] = frozenset()

    def __call__(
        self, params: Parameters, activations: Activations, X: Tensor, Y: Tensor
    ) -> Gradients:
        """Return the function's gradients, with None for dz2 and dz1 if it returns only four.

        Raises:
            ValueError: if it returns anything else.
        """
        result = self.function(params, activations, X, Y)
        if isinstance(result, Gradients):
            return result
        if isinstance(result, (tuple, list)) and len(result) == len(SHORT):
            return Gradients(**{"dz2": None, "dz1": None, **dict(zip(SHORT, result, strict=True))})
        returned = type(result).__name__
        if isinstance(result, (tuple, list)):
            returned = f"a {returned} of {len(result)}"
        raise ValueError(
            f"{self.name} returned {returned}, must return handgrad.backprop.Gradients "
            f"or the tuple ({', '.join(SHORT)})"
        )


def custom(cost: Cost, *, function: str) -> Custom:
    """Import the user's function as a rule, and pass it the cost's dz2 if it has that keyword.

    Args:
        cost: the training cost.
        function: file.function without .py, in the working directory or else on the import path.

    Raises:
        ValueError: if there is no such file or function, or it cannot be called with
            (params, activations, X, Y).
    """
    path, _, name = function.rpartition(".")
    if not all(part.isidentifier() for part in function.split(".")) or not path:
        raise _wrong(function, "must be file.function, for example my_backward.backward")
    found = _look_up(_load(path, function), name, function)
    deviates = _declared(found, function)
    try:
        accepted = inspect.signature(found)
    except ValueError:  # built-in functions may not have one
        return Custom(function, found, deviates)
    bound = {"dz2": cost.dz2} if "dz2" in accepted.parameters else {}
    try:
        accepted.bind("params", "activations", "X", "Y", **bound)
    except TypeError as error:
        raise _wrong(
            function, f"takes {accepted}, must take (params, activations, X, Y): {error}"
        ) from None
    return Custom(function, partial(found, **bound) if bound else found, deviates)


def _load(path: str, function: str) -> ModuleType:
    """Import the user's module, from the working directory first.

    Raises:
        ValueError: if there is no such module, or if its code fails. The message has the line.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        return importlib.import_module(path)
    except SyntaxError as error:
        raise _wrong(function, f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}."):
            raise _wrong(
                function, f"there is no {path.replace('.', '/')}.py in {here} or on the import path"
            ) from None
        failed = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split())
        raise _wrong(
            function,
            f"{path} cannot be imported: {type(error).__name__}: {message} "
            f"({failed.filename}, line {failed.lineno})",
        ) from error
    finally:
        sys.path.remove(here)


def _look_up(module: ModuleType, name: str, function: str) -> Callable[..., Any]:
    """Return the module's function of this name.

    Raises:
        ValueError: if the module has none. The message suggests the nearest name that it has.
    """
    where = getattr(module, "__file__", None) or module.__name__
    if not hasattr(module, name):
        callables = [key for key, value in vars(module).items() if callable(value)]
        nearest = get_close_matches(name, callables, n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        raise _wrong(function, f"{where} has no function {name}{meant}")
    found = getattr(module, name)
    if not callable(found):
        raise _wrong(function, f"{name} in {where} is {type(found).__name__}, not a function")
    return found


def _declared(found: Callable[..., Any], function: str) -> frozenset[str]:
    """Return the lines in which the function declares that it deviates.

    Raises:
        ValueError: if one of them is not a line of the equations.
    """
    deviates = getattr(found, "deviates", ())
    if not isinstance(deviates, Iterable) or not set(deviates) <= set(Gradients._fields):
        raise _wrong(
            function, f"deviates={deviates!r}, must be a set of {', '.join(Gradients._fields)}"
        )
    return frozenset(deviates)


def _wrong(function: str, why: str) -> ValueError:
    """Return the one-line error for a wrong backward.function."""
    return ValueError(f"backward.function={function}: {why}")

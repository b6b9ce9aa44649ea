"""Captures the operations of an update's equations once, and replays them into the same storage.

On a small network, what leads to an operation costs more than its arithmetic: storage for the
result, a tensor from each Python number, the checks of shapes. So the operations are captured while
the functions run, and then replayed in their order. There is no second formula: a capture is used
only if its bits are those of the functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from handgrad.backprop import Activations, Gradients, Parameters

Equations = Callable[[Tensor, Tensor], tuple[Activations, Gradients]]
LARGEST = 2**23  # bytes of a capture's results: beyond that, arithmetic is what costs
SHAPES = 4  # captured at most: whole batches, the short last one, their microbatches


class CannotCapture(Exception):
    """Raised where a function makes an operation that cannot be replayed into the same storage."""


class _Operation(NamedTuple):
    """An operation with its arguments and its result."""

    operation: Any  # torch.ops.aten....
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any


class _Listener(TorchDispatchMode):
    """Notes all operations made while it is entered, and keeps their results.

    Raises:
        CannotCapture: as soon as the results take more storage than pays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[_Operation] = []
        self.bytes = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.heard.append(_Operation(func, args, kwargs or {}, result))
        if isinstance(result, Tensor) and not func.is_view:
            self.bytes += result.nbytes
        if self.bytes > LARGEST:
            raise CannotCapture("its results are large")
        return result


class Capture:
    """Replays the operations of a function of X and Y, for one number of rows.

    The next call overwrites what this one returned.

    Args:
        function: that makes the same operations at each call, and no random numbers.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).

    Raises:
        CannotCapture: if an operation does not turn tensors into a new tensor, if the results take
            more storage than pays, or if a replay gives other bits.
    """

    def __init__(self, function: Equations, X: Tensor, Y: Tensor) -> None:
        function(X, Y)  # so that what it keeps for later calls is there
        with _Listener() as listener:
            self.results = function(X, Y)
        self.steps: list[tuple[Callable[..., Tensor], list[Any], dict[str, Any]]] = []
        self.takes_X: list[tuple[list[Any], int]] = []  # where an operation's arguments have X
        self.takes_Y: list[tuple[list[Any], int]] = []
        _share_storage(listener.heard, [*self.results[0], *self.results[1]])
        for made in listener.heard:
            self.note(made, X, Y)
        self.verify(function, X, Y)

    def verify(self, function: Equations, X: Tensor, Y: Tensor) -> None:
        """Compare a replay with the function, bit for bit.

        Raises:
            CannotCapture: if they differ.
        """
        expected = function(X, Y)
        for _, _, keywords in self.steps:
            keywords["out"].fill_(torch.nan)  # so that what is not replayed is seen
        if differences(expected, self(X, Y)):
            raise CannotCapture("a replay gives other bits")

    def note(self, made: _Operation, X: Tensor, Y: Tensor) -> None:
        """Turn an operation into a step, unless it is a view of kept storage."""
        given = [*made.arguments]
        late = [each for each in given if each is X or each is Y]
        if made.operation.is_view and not late:
            return
        if made.operation.is_view or made.operation._schema.is_mutable:
            raise CannotCapture(f"{made.operation} writes into its arguments, or looks at them")
        function, arguments = _into_storage(made, given)
        self.steps.append((function, arguments, {**made.keywords, "out": made.result}))
        for place, argument in enumerate(arguments):
            if argument is X:
                self.takes_X.append((arguments, place))
            elif argument is Y:
                self.takes_Y.append((arguments, place))

    def __call__(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """Replay the operations on other examples, as many as before."""
        for arguments, place in self.takes_X:
            arguments[place] = X
        for arguments, place in self.takes_Y:
            arguments[place] = Y
        for function, arguments, keywords in self.steps:
            function(*arguments, **keywords)
        return self.results


def _share_storage(heard: list[_Operation], needed: list[Tensor]) -> None:
    """Write the results of elementwise operations over operands that are not read again.

    Half of the storage is enough then, and the memory written is already in the cache.

    Args:
        heard: operations in their order; their results move.
        needed: results that are read after all of them.

    Raises:
        CannotCapture: if one of them does not return a tensor.
    """
    for made in heard:
        if not isinstance(made.result, Tensor):
            raise CannotCapture(f"{made.operation} does not return a tensor")
    last_read = {
        _storage(each): number for number, made in enumerate(heard) for each in _operands(made)
    }
    last_read |= {_storage(each): len(heard) for each in needed}
    ours: set[int] = set()
    for number, made in enumerate(heard):
        here = _storage(made.result)
        free = {
            _storage(each): each
            for each in _operands(made)
            if _storage(each) in ours and last_read[_storage(each)] == number
        }
        for each in _operands(made):  # a transpose would be overwritten before it is read
            places = [
                (t.dtype, t.shape, t.stride(), t.storage_offset()) for t in (each, made.result)
            ]
            if places[0] != places[1]:
                free.pop(_storage(each), None)
        if free and torch.Tag.pointwise in made.operation.tags:
            there, operand = free.popitem()
            for each in (later.result for later in heard[number:]):
                if _storage(each) == here:
                    place = (each.storage_offset(), each.shape, each.stride())
                    each.set_(operand.untyped_storage(), *place)
            last_read[there] = last_read.get(here, number)
        elif not made.operation.is_view:
            ours.add(here)


def _operands(made: _Operation) -> list[Tensor]:
    """Return the tensors among an operation's arguments."""
    return [each for each in made.arguments if isinstance(each, Tensor)]


def _storage(tensor: Tensor) -> int:
    """Return the address of a tensor's storage."""
    return tensor.untyped_storage().data_ptr()


def _into_storage(made: _Operation, given: list[Any]) -> tuple[Callable[..., Tensor], list[Any]]:
    """Return the function that writes an operation's result into given storage, and its arguments.

    Raises:
        CannotCapture: if PyTorch has none.
    """
    name = made.operation._schema.name.removeprefix("aten::")
    if name == "rsub" and len(given) == 2:  # 1 - A1, which has no such form of its own
        name, given = "sub", given[::-1]
    if name in ("add", "sub", "mul", "div"):  # a number would become a tensor at each call
        kind = {"dtype": made.result.dtype, "device": made.result.device}
        given = [e if isinstance(e, Tensor) else torch.tensor(e, **kind) for e in given]
    function = getattr(torch, name, None)
    if function is None:
        raise CannotCapture(f"{made.operation} cannot write into given storage")
    try:
        function(*given, **made.keywords, out=torch.empty_like(made.result))
    except (TypeError, RuntimeError) as error:
        raise CannotCapture(f"{made.operation} cannot write into given storage") from error
    return function, given


def differences(
    one: tuple[Activations, Gradients], other: tuple[Activations, Gradients]
) -> tuple[str, ...]:
    """Return the names of the quantities of two passes that are not the same to the last bit."""
    names = (*Activations._fields, *Gradients._fields)
    pairs = zip(names, (*one[0], *one[1]), (*other[0], *other[1]), strict=True)
    return tuple(name for name, mine, its in pairs if not torch.equal(mine, its))


class Captured:
    """Captures a function of X and Y for each number of rows, where that is possible.

    The function reads parameters too, whose addresses a capture holds. Where a parameter is given
    other storage or strides (`p.data = ...`, `p.set_(...)`), the captures are made anew.

    Args:
        function: as for `Capture`.
        params: the parameters that it reads.
    """

    def __init__(self, function: Equations, params: Parameters) -> None:
        self.function, self.params = function, params
        self.forget()

    def forget(self) -> None:
        """Drop all captures, which the next calls make anew."""
        self.known: dict[int, Equations] = {}
        self.places = (
            *(each.data_ptr() for each in self.params),
            *(each.stride() for each in self.params),
        )
        self.layouts = self.present_layouts()

    def present_layouts(self) -> list[tuple[object, ...]]:
        """Return the dtype, shape and strides of each parameter."""
        return [(each.dtype, each.shape, each.stride()) for each in self.params]

    def __call__(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """Return the function's results, which the next call may overwrite."""
        W1, b1, W2, b2 = self.params
        addresses = (W1.data_ptr(), b1.data_ptr(), W2.data_ptr(), b2.data_ptr())
        if self.places != (*addresses, W1.stride(), b1.stride(), W2.stride(), b2.stride()):
            self.forget()
        known = self.known.get(X.shape[0])
        return (known or self.learnt(X, Y))(X, Y)

    def learnt(self, X: Tensor, Y: Tensor) -> Equations:
        """Return what to call for this number of rows."""
        known = self.function
        if len(self.known) < SHAPES:
            try:
                known = self.capture(X, Y)
            except CannotCapture:
                known = self.function
            self.known[X.shape[0]] = known
        return known

    def capture(self, X: Tensor, Y: Tensor) -> Capture:
        """Capture the function, and compare it with a replay at other numbers in every tensor.

        Raises:
            CannotCapture: if that cannot be done, or the replay gives other bits.
        """
        captured = Capture(self.function, X, Y)
        kept = [each.detach().clone() for each in self.params]
        try:
            for number, each in enumerate(self.params, 1):
                each.data.copy_(_ramp(each, -0.5 / number, 0.5))
            captured.verify(self.function, _ramp(X, -1.0, 2.0), _ramp(Y, 0.1, 0.9))
        finally:
            for each, values in zip(self.params, kept, strict=True):
                each.data.copy_(values)
        return captured

    def compare(self, X: Tensor, Y: Tensor) -> tuple[str, ...]:
        """Return the quantities in which a replay differs; the results at hand stay."""
        known = self.known.get(X.shape[0])
        if not isinstance(known, Capture):
            return ()
        results = [each for part in known.results for each in part]
        kept = [each.clone() for each in results]
        found = differences(self.function(X, Y), self(X, Y))
        for each, values in zip(results, kept, strict=True):
            each.copy_(values)
        return found


def _ramp(like: Tensor, low: float, high: float) -> Tensor:
    """Return evenly spaced numbers in a tensor's shape: no generator of the training is asked."""
    numbers = torch.linspace(low, high, like.numel(), dtype=like.dtype, device=like.device)
    return numbers.view(like.shape)

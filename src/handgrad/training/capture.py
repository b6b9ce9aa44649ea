"""The equations of an update as the operations that they make, recorded once and made again.

On a small network, what leads to an operation costs more than its arithmetic: storage for the
result, a tensor from each Python number, the checks of shapes. So the operations are taken from the
functions while these run, and then made again in their order, into the same storage. There is no
second formula: a recording is used only if it gives the bits that the functions give.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from handgrad.backprop import Activations, Gradients

Equations = Callable[[Tensor, Tensor], tuple[Activations, Gradients]]
LARGEST = 2**23  # bytes of a recording's results: beyond that, arithmetic is what costs
SHAPES = 4  # recorded at most: whole batches, the short last one, their pieces


class CannotCapture(Exception):
    """A function makes an operation that cannot be made again into the same storage."""


class Made(NamedTuple):
    """An operation as it was made."""

    operation: Any  # torch.ops.aten....
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any


class Listener(TorchDispatchMode):
    """Notes all operations that are made while it is entered, and keeps their results.

    Raises:
        CannotCapture: as soon as the results take more storage than pays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Made] = []
        self.bytes = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.heard.append(Made(func, args, kwargs or {}, result))
        if isinstance(result, Tensor) and not func.is_view:
            self.bytes += result.nbytes
        if self.bytes > LARGEST:
            raise CannotCapture("its results are large")
        return result


class Capture:
    """A function of X and Y for one number of rows, by its operations.

    What it returns is overwritten when it is called again.

    Args:
        function: that makes the same operations at each call, and no random numbers.
        X: inputs, (m, n_x).
        Y: targets, (m, n_y).

    Raises:
        CannotCapture: if it makes others than of tensors into new tensors, if they take more
            storage than pays, or if making them again gives other bits.
    """

    def __init__(self, function: Equations, X: Tensor, Y: Tensor) -> None:
        function(X, Y)  # so that what it keeps for later calls is there
        with Listener() as listener:
            self.results = function(X, Y)
        self.steps: list[tuple[Callable[..., Tensor], list[Any], dict[str, Any]]] = []
        self.takes_X: list[tuple[list[Any], int]] = []  # where an operation's arguments have X
        self.takes_Y: list[tuple[list[Any], int]] = []
        share_storage(listener.heard, [*self.results[0], *self.results[1]])
        for made in listener.heard:
            self.note(made, X, Y)
        expected = function(X, Y)
        for _, _, keywords in self.steps:
            keywords["out"].fill_(torch.nan)  # so that what is not made again is seen
        again = self(X, Y)
        pairs = zip((*expected[0], *expected[1]), (*again[0], *again[1]), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise CannotCapture("made again, it gives other bits")

    def note(self, made: Made, X: Tensor, Y: Tensor) -> None:
        """Turn an operation into a step; a view of kept storage needs none."""
        given = [*made.arguments]
        late = [each for each in given if each is X or each is Y]
        if made.operation.is_view and not late:
            return
        if made.operation.is_view or made.operation._schema.is_mutable:
            raise CannotCapture(f"{made.operation} writes into its arguments, or looks at them")
        function, arguments = into_storage(made, given)
        self.steps.append((function, arguments, {**made.keywords, "out": made.result}))
        for place, argument in enumerate(arguments):
            if argument is X:
                self.takes_X.append((arguments, place))
            elif argument is Y:
                self.takes_Y.append((arguments, place))

    def __call__(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """Make the operations on other examples, as many as before."""
        for arguments, place in self.takes_X:
            arguments[place] = X
        for arguments, place in self.takes_Y:
            arguments[place] = Y
        for function, arguments, keywords in self.steps:
            function(*arguments, **keywords)
        return self.results


def share_storage(heard: list[Made], needed: list[Tensor]) -> None:
    """Put what elementwise arithmetic gives where an operand was that nobody reads any more.

    Half of the storage is enough then, and what is written is in the cache already.

    Args:
        heard: operations in their order; their results move.
        needed: what is read after all of them.

    Raises:
        CannotCapture: if one of them gives something else than a tensor.
    """
    for made in heard:
        if not isinstance(made.result, Tensor):
            raise CannotCapture(f"{made.operation} gives no tensor")
    last_read = {where(each): number for number, made in enumerate(heard) for each in read_by(made)}
    last_read |= {where(each): len(heard) for each in needed}
    ours: set[int] = set()
    for number, made in enumerate(heard):
        here = where(made.result)
        free = {
            where(each): each
            for each in read_by(made)
            if where(each) in ours and last_read[where(each)] == number
        }
        for each in read_by(made):  # a transpose would be overwritten before it is read
            if not alike(each, made.result):
                free.pop(where(each), None)
        if free and torch.Tag.pointwise in made.operation.tags:
            there, operand = free.popitem()
            for each in (later.result for later in heard[number:]):
                if where(each) == here:
                    place = (each.storage_offset(), each.shape, each.stride())
                    each.set_(operand.untyped_storage(), *place)
            last_read[there] = last_read.get(here, number)
        elif not made.operation.is_view:
            ours.add(here)


def read_by(made: Made) -> list[Tensor]:
    """The tensors among an operation's arguments."""
    return [each for each in made.arguments if isinstance(each, Tensor)]


def where(tensor: Tensor) -> int:
    """Which storage a tensor lies in."""
    return tensor.untyped_storage().data_ptr()


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have their numbers in the same places."""
    places = [(t.dtype, t.shape, t.stride(), t.storage_offset()) for t in (one, other)]
    return places[0] == places[1]


def into_storage(made: Made, given: list[Any]) -> tuple[Callable[..., Tensor], list[Any]]:
    """The function that makes an operation into given storage, and its arguments.

    Raises:
        CannotCapture: if PyTorch has none.
    """
    name = made.operation._schema.name.removeprefix("aten::")
    if name == "rsub" and len(given) == 2:  # 1 - A1, which has no such form of its own
        name, given = "sub", given[::-1]
    if name in ("add", "sub", "mul", "div"):  # a number would become a tensor at each call
        given = [each if isinstance(each, Tensor) else scalar(each, made.result) for each in given]
    function = getattr(torch, name, None)
    if function is None:
        raise CannotCapture(f"{made.operation} has no form for given storage")
    try:
        function(*given, **made.keywords, out=torch.empty_like(made.result))
    except (TypeError, RuntimeError) as error:
        raise CannotCapture(f"{made.operation} has no form for given storage") from error
    return function, given


def scalar(number: float, result: Tensor) -> Tensor:
    """A Python number as a tensor without dimensions."""
    return torch.tensor(number, dtype=result.dtype, device=result.device)


class Captured:
    """A function of X and Y that is recorded for each number of rows, where that can be.

    Args:
        function: as for `Capture`.
    """

    def __init__(self, function: Equations) -> None:
        self.function = function
        self.known: dict[int, Equations] = {}

    def __call__(self, X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
        """The function's results; they may be overwritten at the next call."""
        known = self.known.get(X.shape[0])
        return (known or self.learnt(X, Y))(X, Y)

    def learnt(self, X: Tensor, Y: Tensor) -> Equations:
        """What to call for so many rows."""
        known = self.function
        if len(self.known) < SHAPES:
            try:
                known = Capture(self.function, X, Y)
            except CannotCapture:
                known = self.function
            self.known[X.shape[0]] = known
        return known

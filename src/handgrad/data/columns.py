"""Which columns of a table are the features, and which the target."""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple, TypeGuard

from handgrad.data.examples import Known, listed

Target = str | int | Sequence[str | int] | None  # of data.target


class Columns(NamedTuple):
    """The names of the columns to read, in the network's order."""

    features: tuple[str, ...]
    target: tuple[str, ...]  # one column of classes, or several labels; empty: not in the file
    multi_label: bool


def choose_columns(
    names: Sequence[str],
    target: Target,
    title: str,
    known: Known | None = None,
    target_required: bool = True,
) -> Columns:
    """Return the target that the user chose, and the features that training knew, or all others.

    Args:
        names: of all columns of the file.
        target: a name, an index (negative: from the end), or a list of them (multi-label).
        title: the file's name, for the errors.
        known: what training knew.
        target_required: whether a file without the target is refused.

    Raises:
        ValueError: on nameless or twice-named columns, an unknown target, missing features.
    """
    _check_names(names, title)
    multi_label = known.multi_label if known else _several(target)
    chosen = _target(names, target, title, known, target_required)
    if known is None:
        features = tuple(name for name in names if name not in chosen)
        if not features:
            raise ValueError(f"{title} has no column besides the target: there are no features")
        return Columns(features, chosen, multi_label)
    missing = [name for name in known.feature_names if name not in names]
    if missing:
        n_features = len(names) - len(chosen)
        raise ValueError(
            f"{title} has {n_features} features, the model {len(known.feature_names)}; "
            f"the file lacks: {listed(missing)}"
        )
    return Columns(known.feature_names, chosen, multi_label)


def _check_names(names: Sequence[str], title: str) -> None:
    for position, name in enumerate(names):
        if not name.strip():
            raise ValueError(
                f"{title}: column {position + 1} has no name in the header; name it, or remove it "
                "if it only numbers the rows"
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{title}: the header has the same name twice: {listed(twice)}")


def _target(
    names: Sequence[str], target: Target, title: str, known: Known | None, required: bool
) -> tuple[str, ...]:
    """Return the names of the target's columns; empty where the file has none and need not."""
    if target is None and (known is None or not known.target_names):
        if required:
            raise ValueError(
                f"data.target is not set: the name or the index of a column of {title} "
                f"({listed(list(names))})"
            )
        return ()
    wanted: list = list(target) if _several(target) else [target]
    if known and known.target_names and not all(isinstance(one, str) for one in wanted):
        wanted = list(known.target_names)  # an index may mean another column in another file
    absent = [one for one in wanted if isinstance(one, str) and one not in names]
    if absent and not required:
        return ()
    if absent:
        close = get_close_matches(absent[0], names, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(
            f"data.target={absent[0]}: {title} has no such column; {hint}"
            f"it has {listed(list(names))}"
        )
    chosen = tuple(one if isinstance(one, str) else _by_index(names, one, title) for one in wanted)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"data.target={target}: one column or more, each once")
    taken = [one for one in chosen if known and one in known.feature_names]
    if taken and required:
        raise ValueError(f"data.target={target}: '{taken[0]}' of {title} is a feature of the model")
    return () if taken else chosen


def _several(target: Target) -> TypeGuard[Sequence[str | int]]:
    """Return whether the target is a list of columns, of any kind the configuration makes."""
    return isinstance(target, Sequence) and not isinstance(target, str)


def _by_index(names: Sequence[str], index: object, title: str) -> str:
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"data.target={index}: a column's name, its index, or a list of them")
    if not -len(names) <= index < len(names):
        raise ValueError(
            f"data.target={index}: {title} has {len(names)} columns, "
            f"0 to {len(names) - 1} or -{len(names)} to -1"
        )
    return names[index]

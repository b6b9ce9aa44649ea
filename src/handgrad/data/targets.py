"""Labels as the user wrote them to class indices, or to rows of outputs in [0, 1]."""

import math
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from handgrad.data.examples import Known, listed

Place = Callable[[int], str]  # how a row's index is called in the file

MOST_LEVELS = 20  # of numbers with decimals; more look like a measured quantity


class Labels(NamedTuple):
    """Target in the form of Examples."""

    target: np.ndarray  # (N,) int64, or (N, n_y) float64
    class_names: tuple[str, ...]


def class_labels(
    values: np.ndarray | pd.Series, title: str, place: Place, known: Known | None = None
) -> Labels:
    """Return the classes of one column of texts, whole numbers or booleans, in natural order.

    Natural order: numbers by size, texts with the numbers in them by size (class2 < class10).
    Texts that are all numbers count as numbers, so 1, 1.0 and 01 are one class.

    Args:
        values: (N,), one label for each row.
        title: the file's name, for the errors.
        place: how a row's index is called in the file.
        known: what training knew; its classes are then the only ones.

    Raises:
        ValueError: on a missing label, one class only, a quantity instead of classes, or a label
            that training did not know; with the place.
    """
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    codes = np.asarray(codes)
    texts = [_text(value) for value in distinct]
    for code, text in enumerate(texts):
        if text is None:
            row = int(np.argmax(codes == code))
            raise ValueError(f"{title}, {place(row)}: the target has no value")
    spelt = [text for text in texts if text is not None]
    numbers = [_number(text) for text in spelt]
    names = spelt if None in numbers else [number for number in numbers if number is not None]
    if known is None:
        _check_classes(names, len(codes), title)
        class_names = tuple(sorted(set(names), key=_natural))
    else:
        class_names = known.class_names
        names = [
            one if one in class_names else text for one, text in zip(names, spelt, strict=True)
        ]
    index = {name: position for position, name in enumerate(class_names)}
    for code, name in enumerate(names):
        if name not in index:
            row = int(np.argmax(codes == code))
            raise ValueError(
                f"{title}, {place(row)}: the target '{name}' is not a class of the model "
                f"({listed(class_names)})"
            )
    return Labels(np.array([index[name] for name in names], dtype=np.int64)[codes], class_names)


def output_labels(
    values: np.ndarray, names: tuple[str, ...], title: str, place: Place, warn: bool = True
) -> Labels:
    """Return rows of independent outputs, each 0, 1 or between them.

    Args:
        values: (N, n_y) numbers.
        names: of the outputs, (n_y,).
        title: the file's name, for the messages.
        place: how a row's index is called in the file.
        warn: whether to warn of outputs that never change.

    Raises:
        ValueError: if a value is missing or outside [0, 1]; with the place and the value.
    """
    values = np.asarray(values, dtype=np.float64)
    wrong = np.argwhere(~((values >= 0) & (values <= 1)))  # NaN is neither
    if len(wrong):
        row, column = (int(i) for i in wrong[0])
        cells = "value" if len(wrong) == 1 else "values"
        raise ValueError(
            f"{title}, {place(row)}: target '{names[column]}' is {values[row, column]:g}, outside "
            f"[0, 1] ({len(wrong):,} such {cells}); class numbers belong in one column"
        )
    same = values.min(axis=0) == values.max(axis=0)
    if warn and same.any():
        constant = [name for name, is_same in zip(names, same, strict=True) if is_same]
        warnings.warn(
            f"{title}: the same target in every row: {listed(constant)}", UserWarning, stacklevel=3
        )
    return Labels(values, names)


def _text(value: object) -> str | None:
    """Return a label as text, or None where it is missing."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="backslashreplace")  # other bytes, another class
    text = "" if pd.isna(value) else str(value).strip()  # pyright: ignore - one value
    return None if text in ("", "nan", "NaN") else text


def _number(text: str) -> str | None:
    """Return the number that a text spells, in one spelling for each number, or None."""
    if "_" in text:  # 1_0 is a number in Python alone
        return None
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return str(int(number)) if number.is_integer() else repr(number)


def _natural(name: str) -> tuple:
    """Return a sort key: numbers by size before texts, and the digits in texts by size.

    No two names have the same, or their order would be another one in each process.
    """
    if _number(name) is not None:
        return (0, float(name), (), name)
    pieces = re.split(r"(\d+)", name)  # text, digits, text, digits, ...
    return (1, 0.0, tuple((int(p), "") if i % 2 else (0, p) for i, p in enumerate(pieces)), name)


def _check_classes(names: list[str], n_rows: int, title: str) -> None:
    distinct = sorted(set(names), key=_natural)
    if len(distinct) < 2:
        raise ValueError(
            f"{title}: the target is '{distinct[0]}' in every row; at least two are required"
        )
    with_decimals = any("." in name or "e-" in name for name in distinct if _number(name) == name)
    if len(distinct) > (MOST_LEVELS if with_decimals else max(MOST_LEVELS, n_rows // 2)):
        raise ValueError(
            f"{title}: the target has {len(distinct)} different values in {n_rows} rows "
            f"({listed(distinct, most=3)}): a quantity or a name, not classes; choose data.target"
        )

"""Tables of the user: CSV and Parquet files with a name for every column."""

import csv
import gzip
import re
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TextIO, TypeGuard

import numpy as np
import pandas as pd

from handgrad.data import checks
from handgrad.data.examples import Examples, Known, Source, listed, numbered
from handgrad.data.targets import Labels, Place, class_labels, output_labels

LONGEST_LINE = 2**24  # characters; a file that is not a table may be a single line
BYTES_PER_CELL = 40  # of a table that is read: the cell of the frame, its copy, a short text
MISSING = ["", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "?"]  # not a number

_NUMERIC = r"u?int\d+|halffloat|float|double|decimal\d+|bool|null|(large_)?string"
NUMBERS = (_NUMERIC, "numbers, booleans or texts that spell numbers")  # types of Arrow, and words
CLASSES = (
    _NUMERIC + r"|date\d+|time\d+|timestamp|duration|((large|fixed_size)_)?binary",
    "texts, whole numbers, booleans or dates",
)

Target = str | int | Sequence[str | int] | None  # of data.target


class _Columns(NamedTuple):
    """Names of the columns to read, in the network's order."""

    features: tuple[str, ...]
    target: tuple[str, ...]  # one column of classes, or several labels; empty: not in the file
    multi_label: bool


class Table(Source):
    """A file with named columns, of which one gives the class or several give labels in [0, 1].

    Args:
        path: of the file.
        target: the name or index of the class's column, or a list of columns (multi-label).
    """

    def __init__(self, *, path: str | Path | None, target: Target = None) -> None:
        self.path, self.target = path, target

    @abstractmethod
    def names(self, file: Path) -> list[str]:
        """Return the names of all columns of the file."""

    @abstractmethod
    def frame(self, file: Path, names: list[str], columns: _Columns) -> pd.DataFrame:
        """Return the chosen columns of the file."""

    def place(self, file: Path, row: int) -> str:
        """Return how a row of the frame is found in the file."""
        return numbered(row)

    def read(self, known: Known | None = None, *, target_required: bool = True) -> Examples:
        """See Source.read."""
        file = checks.existing_file(self.path)
        checks.refuse_larger_than_memory(file)
        names = self.names(file)
        columns = _choose_columns(names, self.target, str(file), known, target_required)
        frame = self.frame(file, names, columns)
        if not len(frame):
            raise ValueError(f"{file} has a header but no rows")
        place = partial(self.place, file)
        features = _numbers(frame, columns.features, str(file), place)
        checks.check_features(features, columns.features, str(file), place, warn=known is None)
        labels = _labels(frame, columns, str(file), place, known)
        return Examples(
            X=features,
            target=labels.target if labels else None,
            class_names=known.class_names if known else labels.class_names if labels else (),
            feature_names=columns.features,
            multi_label=columns.multi_label,
            target_names=columns.target,
        )


class Csv(Table):
    """A CSV file in UTF-8, plain or gzipped, with a header.

    The separator of cells is `,` `;` tab or `|`.
    """

    def names(self, file: Path) -> list[str]:
        """Return the header, and refuse every row that has more or fewer cells."""
        names: list[str] = []
        for number, (line, cells) in enumerate(_rows(file)):
            if number % 2**16 == 0:  # a small file may unpack to a large one
                checks.refuse_larger_than_memory(file, number * len(names) * BYTES_PER_CELL)
            if not names:
                names = [cell.strip() for cell in cells]
                _check_header(names, file)
            elif len(cells) != len(names):
                raise ValueError(
                    f"{file}, line {line}: {len(cells)} cells, the header has {len(names)}"
                )
        if not names:
            raise ValueError(f"{file} contains only blank lines; a header and rows are required")
        return names

    def frame(self, file: Path, names: list[str], columns: _Columns) -> pd.DataFrame:
        """See Table.frame."""
        numbers = columns.features + (columns.target if columns.multi_label else ())
        texts = () if columns.multi_label else columns.target
        separator = _separator(file)
        with _text(file) as text:
            return pd.read_csv(
                text,
                sep=separator,
                header=0,
                names=names,
                usecols=[*columns.features, *columns.target],
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                keep_default_na=False,  # a class may be called NA or None
                na_values=dict.fromkeys(numbers, MISSING),
                dtype=dict.fromkeys(texts, str),
            )

    def place(self, file: Path, row: int) -> str:
        """Return the line as editors count it.

        Blank lines are not rows, and a quoted cell may span lines.
        """
        lines = (line for line, _ in _rows(file))
        return next((f"line {line}" for index, line in enumerate(lines) if index == row + 1), "?")


class Parquet(Table):
    """A Parquet file, read by the extra `parquet` (pyarrow).

    A feature has numbers, booleans or texts that spell numbers, and so have several labels. A class
    may also be any other text, or a date. A column of lists, structs, maps or anything else is
    refused by its type.
    """

    def names(self, file: Path) -> list[str]:
        """Return all columns but those that pandas wrote as the index of the rows."""
        with _parquet(file) as parquet:
            metadata = parquet.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
        checks.refuse_larger_than_memory(file, 8 * metadata.num_rows * metadata.num_columns)
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        return [name for name in schema.names if name not in index]

    def frame(self, file: Path, names: list[str], columns: _Columns) -> pd.DataFrame:
        """See Table.frame."""
        chosen = [*columns.features, *columns.target]
        with _parquet(file) as parquet:
            schema = parquet.read_schema(file)
        for name in chosen:
            role = "target" if name in columns.target else "feature"
            one_class = role == "target" and not columns.multi_label
            accepted, words = CLASSES if one_class else NUMBERS
            kind = schema.field(name).type
            if not re.match(rf"(dictionary<values=)?({accepted})\b", str(kind)):
                raise ValueError(
                    f"{file}: column '{name}' has the type {kind}; a {role} must have {words}"
                )
        with _parquet(file) as parquet:
            return parquet.read_table(file, columns=chosen).to_pandas(ignore_metadata=True)


def _choose_columns(
    names: Sequence[str],
    target: Target,
    title: str,
    known: Known | None = None,
    target_required: bool = True,
) -> _Columns:
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
        return _Columns(features, chosen, multi_label)
    missing = [name for name in known.feature_names if name not in names]
    if missing:
        n_features = len(names) - len(chosen)
        raise ValueError(
            f"{title} has {n_features} features, the model {len(known.feature_names)}; "
            f"the file lacks: {listed(missing)}"
        )
    return _Columns(known.feature_names, chosen, multi_label)


def _check_names(names: Sequence[str], title: str) -> None:
    if not names:
        raise ValueError(f"{title} has no columns")
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
    """Return the names of the target's columns, none where the file lacks them and may."""
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
        raise ValueError(f"data.target={target}: must be one or more columns, each named once")
    taken = [one for one in chosen if known and one in known.feature_names]
    if taken and required:
        raise ValueError(f"data.target={target}: '{taken[0]}' of {title} is a feature of the model")
    return () if taken else chosen


def _several(target: Target) -> TypeGuard[Sequence[str | int]]:
    """Return whether the target is a list of columns, of any kind the configuration makes."""
    return isinstance(target, Sequence) and not isinstance(target, str)


def _by_index(names: Sequence[str], index: object, title: str) -> str:
    if not isinstance(index, int) or isinstance(index, bool):
        raise ValueError(f"data.target={index}: must be a column's name, its index, or a list")
    if not -len(names) <= index < len(names):
        raise ValueError(
            f"data.target={index}: {title} has {len(names)} columns, "
            f"0 to {len(names) - 1} or -{len(names)} to -1"
        )
    return names[index]


@contextmanager
def _parquet(file: Path) -> Iterator[ModuleType]:
    """Yield the module that reads Parquet, and shorten its errors to one line."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError('data=parquet requires the extra: pip install -e ".[parquet]"') from error
    try:
        yield parquet
    except (ValueError, OSError) as error:  # pyarrow's own errors are kinds of these
        raise ValueError(
            f"{file} is not a readable Parquet file: {checks.first_line(error)}"
        ) from error


@contextmanager
def _text(file: Path) -> Iterator[TextIO]:
    """Yield a CSV file's text, unpacked where gzipped, and say in one line what is wrong."""
    try:
        with TextIOWrapper(checks.unpacked(file), encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not valid UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged gzip: {checks.first_line(error)}") from error
    except (csv.Error, pd.errors.ParserError) as error:
        raise ValueError(
            f"{file} is not a readable CSV file: {checks.first_line(error)}"
        ) from error


def _separator(file: Path) -> str:
    """Return the separator of cells: the most frequent candidate outside quotes in line 1."""
    with _text(file) as text:
        header = re.sub(r'"[^"]*"', "", next((line for line in _lines(text) if line.strip()), ""))
    return max(",;\t|", key=header.count)


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of every row, without the blank lines."""
    separator = _separator(file)
    with _text(file) as text:
        reader = csv.reader(_lines(text), delimiter=separator, skipinitialspace=True)
        try:
            for cells in reader:
                if len(cells) > 1 or any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise csv.Error(f"line {reader.line_num}: {error}") from error


def _lines(text: TextIO) -> Iterator[str]:
    """Return the lines of a text, none of them so long that it fills the memory."""
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has {LONGEST_LINE} characters or more")
        yield line


def _check_header(names: list[str], file: Path) -> None:
    """Refuse a first row of numbers, unless they count the columns as pandas does."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return
    if names != [str(i) for i in range(len(numbers))]:
        raise ValueError(f"{file}, line 1: numbers where the header should name the columns")


def _numbers(frame: pd.DataFrame, names: Sequence[str], title: str, place: Place) -> np.ndarray:
    """Return some columns as numbers, (N, n) float64, with NaN where a cell is missing."""
    numbers = np.empty((len(frame), len(names)))
    for position, name in enumerate(names):
        cells = pd.Series(frame[name])
        if not pd.api.types.is_numeric_dtype(cells):
            cells = _spelt_numbers(cells, name, title, place)
        numbers[:, position] = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers


def _spelt_numbers(cells: pd.Series, name: str, title: str, place: Place) -> pd.Series:
    """Return the numbers that texts spell, NaN where empty, and refuse any other text."""
    spelt = cells.map(lambda cell: cell + 0 if isinstance(cell, bool) else str(cell))
    numbers = pd.Series(pd.to_numeric(spelt, errors="coerce"))
    wrong = np.flatnonzero(numbers.isna() & ~cells.isna())
    if len(wrong):
        row, cells_word = int(wrong[0]), "cell" if len(wrong) == 1 else "cells"
        raise ValueError(
            f"{title}, {place(row)}: column '{name}' contains {str(cells.iloc[row])[:40]!r}, "
            f"which is not a number ({len(wrong):,} such {cells_word})"
        )
    return numbers


def _labels(
    frame: pd.DataFrame, columns: _Columns, title: str, place: Place, known: Known | None
) -> Labels | None:
    """Return the target in the form of Examples, or None where the file has none."""
    if not columns.target:
        return None
    if not columns.multi_label:
        return class_labels(pd.Series(frame[columns.target[0]]), title, place, known)
    values = _numbers(frame, columns.target, title, place)
    return output_labels(values, columns.target, title, place, warn=known is None)

"""Whatever lies in a file or stands on the command line: data, or one clear line; never a trace.

The short form runs by default. The long one, `-m slow -s`, differs in the number of examples alone
and draws others each time.
"""

import csv
import gzip
import io
import json
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from conftest import CONF, Train, composed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handgrad.config.errors import LONGEST, BadInput, Failed
from handgrad.config.validate import validate
from handgrad.data.idx import FILES
from handgrad.data.module import ExampleData
from handgrad.devices import launch
from handgrad.devices.lightning import hide_hints
from handgrad.tasks import build
from handgrad.tasks import train as train_task

HANG = timedelta(seconds=30)  # on a machine that is busy with much else
EXPECTED = (  # what a file that is accepted may be warned of
    "the same value in every row",
    "the same target in every row",
    "values up to",
    "the split is a plain shuffle",
    "created on Python 2",  # NumPy's advice, to save such a file again
)


def amounts(short: int, long: int) -> pytest.MarkDecorator:
    """A test's two forms."""
    slow = (pytest.mark.slow, pytest.mark.timeout(1200))
    return pytest.mark.parametrize("amount", [short, pytest.param(long, marks=slow)])


def fuzz(amount: int, drawn: st.SearchStrategy[Any], act: Callable[[Any], str]) -> Counter[str]:
    """Act on so many drawn values, and count how that ends."""
    ends: Counter[str] = Counter()

    @settings(
        max_examples=amount,
        deadline=HANG,
        derandomize=amount < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def once(value: Any) -> None:
        ends[act(value)] += 1

    once()
    print(dict(ends))
    assert ends.total() >= amount
    return ends


def tried(act: Callable[[], Any]) -> tuple[Any, str]:
    """What an act gives, or the one line in which it refuses its input."""
    try:
        return act(), ""
    except BadInput as error:
        refused = str(error)
    assert 10 < len(refused) < 9 * LONGEST
    assert refused.isprintable(), refused
    return None, refused


# Files.


def read_as_training_does(config: dict[str, Any]) -> ExampleData:
    with build.bad_input():
        return build.data(config).read()


@cache
def reading(choice: str) -> dict[str, Any]:
    return composed(f"data={choice}")


def read(choice: str, **keys: Any) -> str:
    """Read a file as training does: "data" that a network can be trained on, or "refused"."""
    config = reading(choice)
    config = {**config, "data": {**config["data"], **keys}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data, refused = tried(lambda: read_as_training_does(config))
    if data is None:
        assert refused
        return "refused"
    for each in caught:
        assert any(text in str(each.message) for text in EXPECTED), str(each)
    assert data.scaling is not None
    inputs = data.scaling.apply(data.examples.X)
    targets = data.examples.encode(np.arange(len(inputs)))
    assert np.isfinite(inputs).all()
    assert ((targets >= 0) & (targets <= 1)).all()
    assert sum(map(len, data.indices.values())) == len(inputs) == len(targets)
    return "data"


places = st.floats(0, 1, exclude_max=True)  # of what there is


def edit_bytes(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Bytes replaced, put in, left out or cut off, each at a place."""
    for place, kind, given_bytes in edits:
        at = int(place * len(content))
        if kind == "replace":
            content = content[:at] + given_bytes + content[at + len(given_bytes) :]
        elif kind == "insert":
            content = content[:at] + given_bytes + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + len(given_bytes) :]
        else:
            content = content[:at]
    return content


byte_edits = st.lists(
    st.tuples(
        places,
        st.sampled_from(["replace", "insert", "remove", "cut"]),
        st.binary(min_size=1, max_size=9) | st.sampled_from([b"\0", b'"', b"\n", b"\xff" * 4]),
    ),
    max_size=3,
)
edits = st.sampled_from([0, 0, 1]).flatmap(lambda some: byte_edits if some else st.just([]))

ODD_CELLS = [
    *("", " ", "nan", "NaN", "NA", "inf", "-inf", "1e308", "-1e308", "1e999", "1e-999", "1e30"),
    *("9" * 400, "9" * 5000, "0x1f", "1_000", "1,5", "\uff11\uff12", "\u22121", "True", "None"),
    *('"', '""', '"a', 'a"b', "'", ",", ";", "\t", "|", "\0", "\r", "\n", "\r\n", "\ufeff"),
    *("\u2028", "é", "猫", "\x1b[31m", "\x7f", "=1+1", "1" * 200_000, "c" + "1" * 5000),
]
cells = (
    st.sampled_from(ODD_CELLS)
    | st.text(max_size=6)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from(["0", "1", "cat", "dog"])
)
TABLE = [
    ["u", "v", "kind"],
    *([str(i), f"{i % 5}.5", "cat" if i % 2 else "dog"] for i in range(12)),
]


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """A good table with a few things changed: cells, rows, quoting, encoding, bytes."""
    rows = [list(row) for row in TABLE]
    for _ in range(draw(st.integers(0, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        column = draw(st.integers(0, 3))
        change = draw(st.sampled_from([*["cell"] * 4, "column", "more", "less", "again", "out"]))
        if change == "cell" and column < len(row):
            row[column] = draw(cells)
        elif change == "column":
            text = draw(cells)
            for each in rows[1:]:
                each[min(column, 2) : min(column, 2) + 1] = [text]
        elif change == "more":
            row.insert(column, draw(cells))
        elif change == "less":
            row[column : column + 1] = []
        elif change == "again":
            rows.append(list(row))
        elif len(rows) > 1:
            rows.remove(row)
    separator, end = draw(st.sampled_from(",,,;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    if draw(st.booleans()):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
        content = text.getvalue()
    else:
        content = end.join(separator.join(row) for row in rows)
    encoding = draw(st.sampled_from([*["utf-8"] * 9, "utf-8-sig", "utf-16", "latin-1"]))
    written = edit_bytes(content.encode(encoding, errors="replace"), draw(edits))
    if draw(st.integers(0, 4)) == 0:
        written = edit_bytes(gzip.compress(written), draw(edits))
    return written


targets = st.sampled_from(
    [*["kind"] * 9, *[-1] * 9, 0, "u", ["kind"], ["u", "v"], [], 7, "kidn", None]
)


@amounts(150, 20_000)
def test_any_csv_is_data_or_one_line(tmp_path: Path, amount: int) -> None:
    path = tmp_path / "a.csv"

    def act(drawn: tuple[bytes, Any]) -> str:
        content, target = drawn
        path.write_bytes(content)
        return read("csv", path=str(path), target=target)

    ends = fuzz(amount, st.tuples(csv_files(), targets), act)
    assert min(ends["data"], ends["refused"]) > amount / 100, ends


X = np.arange(36.0).reshape(12, 3) % 7
Y = np.arange(12) % 2
SHAPES: list[Callable[[np.ndarray], Any]] = [
    *(lambda a: a, lambda a: a[:0], lambda a: a[:5], lambda a: a.T, lambda a: a[..., None]),
    *(lambda a: a.ravel(), lambda a: a[0], lambda a: a.ravel()[0], lambda a: a[::-1]),
    *(lambda a: np.broadcast_to(a, (2, *a.shape)), lambda a: np.eye(12), lambda a: a[:, None]),
    *(lambda a: a[..., :0], np.asfortranarray, lambda _: np.zeros((12, 0, 2))),
]
DTYPES = [
    *("f8", ">f8", "f4", "f2", "i8", ">i2", "u1", "u8", "?", "c16", "U5", "S5", "O", "g"),
    *("M8[s]", "m8[ns]", "V8", "f4,f4"),
]


@st.composite
def arrays(draw: st.DrawFn, plain: np.ndarray) -> np.ndarray:
    """An array with some values, its dtype or its shape changed."""
    changed = np.array(plain, dtype=np.float64)
    for _ in range(draw(st.integers(0, 2))):
        value = draw(st.floats() | st.sampled_from([np.nan, np.inf, 1e300, 1e30, 2, -1, 0.5, 0]))
        changed.flat[draw(st.integers(0, changed.size - 1))] = value
    if draw(st.booleans()):
        changed = draw(st.sampled_from(SHAPES))(changed)
    if draw(st.booleans()):
        with suppress(TypeError, ValueError), np.errstate(all="ignore"):
            changed = np.asarray(changed).astype(draw(st.sampled_from(DTYPES)))
    return np.asarray(changed)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@st.composite
def members(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The .npy files of features and target, of which the bytes may be changed too."""
    return tuple(edit_bytes(npy(draw(arrays(each))), draw(edits)) for each in (X, Y))  # pyright: ignore


@amounts(150, 20_000)
def test_any_npz_is_data_or_one_line(tmp_path: Path, amount: int) -> None:
    path = tmp_path / "a.npz"

    def act(drawn: tuple[tuple[bytes, bytes], str, list[Any]]) -> str:
        (inputs, labels), name, of_archive = drawn
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # its checksums are right
            archive.writestr("X.npy", inputs)
            archive.writestr(f"{name}.npy", labels)
        path.write_bytes(edit_bytes(buffer.getvalue(), of_archive))
        return read("npz", path=str(path))

    drawn = st.tuples(members(), st.sampled_from(["y", "y", "y", "", "Y", "a/b", "é"]), edits)
    ends = fuzz(amount, drawn, act)
    assert min(ends["data"], ends["refused"]) > amount / 100, ends


@amounts(100, 8_000)
def test_any_pair_of_npy_is_data_or_one_line(tmp_path: Path, amount: int) -> None:
    features, target = tmp_path / "X.npy", tmp_path / "y.npy"

    def act(drawn: tuple[bytes, bytes]) -> str:
        for path, content in zip((features, target), drawn, strict=True):
            path.unlink(missing_ok=True)  # the one before may be mapped
            path.write_bytes(content)
        return read("npz", path=str(features), target=str(target))

    ends = fuzz(amount, members(), act)
    assert min(ends["data"], ends["refused"]) > amount / 100, ends


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


PICTURES = {
    name: idx((np.arange(np.prod(shape)) % 10).astype(np.uint8).reshape(shape))
    for name, shape in zip(FILES, ((12, 3, 2), (12,), (5, 3, 2), (5,)), strict=True)
}


@amounts(100, 8_000)
def test_any_idx_files_are_data_or_one_line(tmp_path: Path, amount: int) -> None:
    def act(drawn: tuple[str, list[Any], bool, list[Any]]) -> str:
        name, before, zipped, after = drawn
        for each, good in PICTURES.items():
            (tmp_path / each).write_bytes(good)
        changed = edit_bytes(PICTURES[name], before)
        changed = edit_bytes(gzip.compress(changed) if zipped else changed, after)
        (tmp_path / name).write_bytes(changed)
        return read("mnist", root=str(tmp_path), download=False)

    drawn = st.tuples(st.sampled_from(FILES), edits, st.booleans(), edits)
    ends = fuzz(amount, drawn, act)
    assert min(ends["data"], ends["refused"]) > amount / 100, ends


# The command line.


def leaves(node: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of all nodes and values."""
    found = []
    for name, value in node.items():
        found.append(f"{prefix}{name}")
        if isinstance(value, dict):
            found += leaves(value, f"{prefix}{name}.")
    return found


CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if "debug" not in str(path)
)
KEYS = sorted(
    {
        key
        for choices in ("", "data=csv optimizer=adam scheduler=plateau backward=feedback_alignment")
        for key in leaves(composed(*choices.split()))
    }
)
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, 10**400, -1, 0, 1, 1e-320, 1e308]),
)
ODD_STRINGS = [
    *(
        "",
        "null",
        "nan",
        "inf",
        "-inf",
        "true",
        "???",
        "auto",
        "full",
        "cpu",
        "last",
        "best",
        "a/b",
    ),
    *("/0", "/1e999", "/-1", "/.", "/e", "/1_0", "~", "\0", "\n", "\x1b[2J", "\udcff", "猫" * 99),
    *("${seed}", "${nope}", "${model}", "${oc.env:NOPE}", "${oc.env:HOME}", "${", "}", "${seed"),
    *("${data.${seed}}", "${oc.decode:[}", "${now:}", "${hydra:nope}", "${process:}", "${.}"),
    *(
        "[",
        "]",
        "{",
        "}",
        "{a:",
        "[[]]",
        "a:b",
        "a=b",
        "a,b",
        "'",
        '"',
        "\\",
        "#",
        "!!python/name:x",
    ),
    *(
        "range(3)",
        "choice(1,2)",
        "interval(0,1)",
        "glob(*)",
        "sort(1)",
        "int(x)",
        "int(3)",
        "str(3)",
    ),
    *("00:00:01:00", "99999:99:99:99", "1" * 5000, "0x10", "1_000", "1e5", "+1", ".5", "\uff11"),
]
strings = st.text(max_size=8) | st.sampled_from(ODD_STRINGS)
scalars = st.none() | st.booleans() | numbers | strings
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(strings | numbers | st.booleans(), inner, max_size=3),
    max_leaves=5,
)


def nodes(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The node that holds a key, and the key's name there."""
    *path, name = key.split(".")
    for each in path:
        config = config[each]
    return config, name


@amounts(500, 20_000)
def test_any_values_of_keys_are_valid_or_one_line(amount: int) -> None:
    base = composed("data=csv", "data.path=a")
    keys = [key for key in KEYS if key in leaves(base)]

    def act(changes: list[tuple[str, Any]]) -> str:
        config = deepcopy(base)
        for key, value in changes:
            with suppress(KeyError, TypeError):  # a change before has removed it
                node, name = nodes(config, key)
                node[name] = value
        _, refused = tried(lambda: validate(config))
        return "refused" if refused else "valid"

    drawn = st.lists(st.tuples(st.sampled_from(keys), values), min_size=1, max_size=2)
    ends = fuzz(amount, drawn, act)
    assert min(ends["valid"], ends["refused"]) > amount / 100, ends


KINDS = [
    "data=iris",
    "data=iris optimizer=adam scheduler=step",
    "data=wine optimizer=momentum scheduler=cosine callbacks.early_stopping.patience=1",
    "data=moons optimizer=lbfgs scheduler=plateau backward=feedback_alignment",
    "data=parity optimizer=adamw scheduler=exponential backward=flat_spot logger=csv",
]
SMALL = (
    *("dashboard=off", "trainer.enable_progress_bar=false", "trainer.max_steps=2"),
    *("model.hidden=3", "data.batch_size=20"),
)
ELSEWHERE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "data._target_")
likely = st.sampled_from(
    [
        *(0, 1, 2, 3, 7, 0.5, 0.999, 1e-9, 1e-300, 1e-320, 1e9, 2**31, 10**18, 1e18, True, False),
        *(None, [1, 1], [0.1, 0.2], ["val"], "auto", "full", "last", "best", "/1e300", "/1e-300"),
        *("minmax", "standard", "none", "accept", "skip", "bitwise", "step", "epoch", "validation"),
        *("cost/val", "cost/train", "accuracy/train", "min", "max", "zeros", "quadratic", "warn"),
        *("simple", "16-mixed", "bf16-true", "64-true", "bf16-mixed", "00:00:00:01"),
    ]
)


@cache
def small(kind: str) -> tuple[dict[str, Any], list[str]]:
    """A configuration for two updates, and those of its keys that tell how to train."""
    config = composed(*(["logger=none"] if "logger" not in kind else []), *kind.split(), *SMALL)
    keys = [
        key
        for key in leaves(config)
        if not isinstance(nodes(config, key)[0][key.rpartition(".")[2]], dict)
        and key.partition(".")[0] not in ("task", "benchmark", "replay", "tune", "compare")
        and key not in ELSEWHERE
    ]
    return config, keys


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A small training with one or two other values."""
    config, keys = small(draw(st.sampled_from(KINDS)))
    config = deepcopy(config)
    for _ in range(draw(st.integers(1, 2))):
        node, name = nodes(config, draw(st.sampled_from(keys)))
        node[name] = draw(likely)
    return config


@amounts(80, 15_000)
def test_any_values_that_are_valid_train(tmp_path: Path, amount: int) -> None:
    def act(config: dict[str, Any]) -> str:
        if tried(lambda: validate(config))[1]:
            return "refused"
        with warnings.catch_warnings(record=True) as caught, TemporaryDirectory() as folder:
            warnings.simplefilter("always")
            hide_hints()
            try:
                _, refused = tried(lambda: train_task.run(config, [], Path(folder)))
            except Failed as failed:
                refused = str(failed)
            assert "\n" not in refused
        ours = [each for each in caught if "handgrad" in each.filename]
        assert all(any(text in str(each.message) for text in EXPECTED) for each in ours)
        return "stopped" if refused else "trained"

    ends = fuzz(amount, changed(), act)
    assert min(ends["trained"], ends["refused"]) > amount / 100, ends


def spelt(value: Any, key: str, plus: str) -> str:
    """An override as one might type it, quoted or not."""
    if isinstance(value, bool) or value is None:
        return f"{plus}{key}={json.dumps(value)}"
    return f"{plus}{key}={value}"


overrides = st.builds(
    spelt,
    values | st.just(1),
    st.sampled_from(KEYS),
    st.sampled_from(["", "", "", "", "+", "++", "~"]),
)
ordinary = st.sampled_from([*CHOICES, "seed=3", "model.hidden=7", "data.batch_size=full"])
commands = st.lists(
    st.one_of(ordinary, ordinary, overrides, overrides, strings), min_size=1, max_size=3
)


@amounts(25, 1500)
def test_any_command_line_is_a_run_or_one_line(
    train: Train, monkeypatch: pytest.MonkeyPatch, amount: int
) -> None:
    monkeypatch.setattr(launch, "run", lambda job, parallel_launcher: None)

    def act(drawn: list[str]) -> str:
        answer = train(*drawn)
        assert answer.code in (0, 2), answer
        assert answer.code == 0 or 0 < answer.err.count("\n") <= 2, answer
        assert answer.err.replace("\n", "").isprintable()
        return "run" if answer.code == 0 else "refused"

    ends = fuzz(amount, commands, act)
    assert min(ends["run"], ends["refused"]) > amount / 100, ends

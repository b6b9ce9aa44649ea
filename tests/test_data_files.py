"""The user's own files: CSV, Parquet, .npz and .npy; each wrong one beside a right one."""

import datetime
import decimal
import gzip
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from handgrad.config.errors import Failed
from handgrad.data import checks, on_disk
from handgrad.data.arrays import Arrays
from handgrad.data.examples import Known
from handgrad.data.on_disk import OnDisk
from handgrad.data.tables import Csv, Parquet
from handgrad.data.targets import class_labels

pytestmark = pytest.mark.filterwarnings("error")

GOOD = "age,size,kind\n30,1.5,cat\n41,2.5,dog\n52,-3,cat\n"


def write(folder, text, name="table.csv", encoding="utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def refusal(source, *args, **kwargs) -> str:
    """The one line in which a source refuses its file."""
    with pytest.raises((ValueError, OSError)) as caught:
        source.read(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("target", ["kind", 2, -1])
def test_a_csv_gives_its_numbers_and_its_classes_in_order(tmp_path, target):
    examples = Csv(path=write(tmp_path, GOOD), target=target).read()
    np.testing.assert_array_equal(examples.X, [[30, 1.5], [41, 2.5], [52, -3]])
    np.testing.assert_array_equal(examples.target, [0, 1, 0])
    assert examples.known == Known(("cat", "dog"), ("age", "size"), ("kind",))


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        GOOD.replace(",", "|"),
        GOOD.replace(",", ", "),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.rstrip(),
        "\n" + GOOD.replace("41", "\n  \n41") + "\n\n",
        GOOD.replace("cat", '"cat"').replace("age", '"age"'),
        GOOD.replace("size", '"size; mm; kg"').replace("cat", '"ca,t"'),
        GOOD.replace(",", ", ").replace("cat", '"cat"'),
        GOOD.replace("30", "3e1").replace("52", " 52 "),
    ],
)
def test_a_csv_of_another_spelling_holds_the_same_numbers(tmp_path, text):
    examples = Csv(path=write(tmp_path, text), target="kind").read()
    np.testing.assert_array_equal(examples.X, [[30, 1.5], [41, 2.5], [52, -3]])
    np.testing.assert_array_equal(examples.target, [0, 1, 0])
    assert examples.feature_names[0] == "age"
    assert examples.class_names in (("cat", "dog"), ("ca,t", "dog"))


def test_a_class_may_be_called_na_or_none(tmp_path):
    text = GOOD.replace("cat", "None").replace("dog", "NA")
    assert Csv(path=write(tmp_path, text), target="kind").read().class_names == ("NA", "None")


@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv"])
def test_a_gzipped_csv_is_unpacked_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(GOOD.encode()))
    assert Csv(path=tmp_path / name, target="kind").read().X.sum() == 30 + 1.5 + 41 + 2.5 + 52 - 3


def test_a_csv_agrees_with_a_reader_that_knows_only_floats(tmp_path):
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(57, 5)), rng.integers(3, size=57)
    rows = [
        ",".join(map(repr, [*map(float, x), int(y)])) for x, y in zip(values, labels, strict=True)
    ]
    text = "a,b,c,d,e,y\n" + "\n".join(rows) + "\n"
    examples = Csv(path=write(tmp_path, text), target="y").read()
    np.testing.assert_allclose(examples.X, values, rtol=1e-15)
    np.testing.assert_array_equal(examples.target, labels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["is empty"]),
        ("\n\n \n", ["only blank lines"]),
        ("age,size,kind\n", ["a header but no rows"]),
        (GOOD.replace("41,2.5,dog", "41,dog"), ["line 3", "2 cells", "header has 3"]),
        (GOOD.replace("41,2.5", "\n41,2.5,9"), ["line 4", "4 cells"]),
        (GOOD.replace("cat", "cat,"), ["line 2", "4 cells"]),
        (GOOD.replace("30", "30,30"), ["line 2", "4 cells"]),
        (
            GOOD.replace("52", "old"),
            ["line 4", "column 'age'", "'old'", "not a number (1 such cell)"],
        ),
        (GOOD.replace("2.5", "2,5").replace("1.5", "1,5").replace("-3", '"-3",'), ["4 cells"]),
        (
            GOOD.replace("2.5", ""),
            ["line 3", "'size' is missing", "(1 empty, NaN or infinite cell"],
        ),
        (
            GOOD.replace("2.5", "NA").replace("1.5", "nan"),
            ["line 2", "is missing", "(2 empty, NaN or infinite cell"],
        ),
        (GOOD.replace("30", "inf"), ["line 2", "'age' is inf", "(1 empty, NaN or infinite cell"]),
        (GOOD.replace("30", "-1e999"), ["line 2", "'age' is -inf"]),
        (GOOD.replace("size", "age"), ["same name twice: age"]),
        (GOOD.replace("size", " "), ["column 2 has no name"]),
        (GOOD.replace("dog", ""), ["line 3", "target has no value"]),
        (GOOD.replace("dog", "cat"), ["'cat' in every row"]),
        (GOOD.replace("kind", "knd"), ["data.target=kind", "did you mean 'knd'?"]),
        (GOOD.split("\n", 1)[1].replace("cat", "1").replace("dog", "0"), ["line 1", "header"]),
        ("kind\ncat\ndog\n", ["no features"]),
        (GOOD.replace("52", '"52'), ["line 4", "cells"]),
    ],
)
def test_a_wrong_csv_is_refused_with_the_place(tmp_path, text, expected):
    path = write(tmp_path, text)
    message = refusal(Csv(path=path, target="kind"))
    for part in (*expected, *([] if "data.target=" in message else [str(path)])):
        assert part in message


@pytest.mark.parametrize(
    "target", [None, 3, -4, "", True, 1.5, [], ["age", "age"], ["age", 9], ["kind", -1], {}]
)
def test_a_wrong_target_is_refused(tmp_path, target):
    assert "data.target" in refusal(Csv(path=write(tmp_path, GOOD), target=target))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 25), "25 different values"),
        (np.arange(60), "60 different values"),
        ([f"name{i}" for i in range(60)], "60 different values"),
    ],
)
def test_a_quantity_or_a_name_is_no_class(values, expected):
    with pytest.raises(ValueError, match=expected):
        class_labels(np.array(values), "file", str)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "9", "10"], ("9", "10")),
        (["1.0", "01", "2", "1"], ("1", "2")),
        ([1.5, -0.5, 1.5], ("-0.5", "1.5")),
        ([True, False, True], ("False", "True")),
        ([b"no", b"yes"], ("no", "yes")),
        (["class10", "class9", "3"], ("3", "class9", "class10")),
        (["NA", "None", "x"], ("NA", "None", "x")),
        ([3, 1, 2, 1], ("1", "2", "3")),
        (list(range(20)), tuple(map(str, range(20)))),
    ],
)
def test_classes_come_in_natural_order(values, names):
    labels = class_labels(np.array(values), "file", str)
    assert labels.class_names == names
    for value, index in zip(values, labels.target, strict=True):
        spelt = value.decode() if isinstance(value, bytes) else str(value)
        assert names[index] == spelt or float(names[index]) == float(spelt)


def test_a_file_that_is_no_text_in_utf8_is_refused(tmp_path):
    path = write(tmp_path, GOOD.replace("cat", "K\u00e4se"), encoding="latin-1")
    assert "not valid UTF-8 (byte 0xe4); save it as UTF-8" in refusal(Csv(path=path, target="kind"))
    path = write(tmp_path, GOOD.replace("cat", "K\u00e4se"))
    assert Csv(path=path, target="kind").read().class_names == ("K\u00e4se", "dog")
    path = write(tmp_path, GOOD, encoding="utf-16")
    assert "not valid UTF-8" in refusal(Csv(path=path, target="kind"))


def test_a_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-9])
    assert "damaged gzip" in refusal(Csv(path=path, target="kind"))


@pytest.mark.parametrize("source", [Csv, Parquet, Arrays])
def test_a_missing_file_a_folder_and_no_path_are_told_apart(tmp_path, source):
    assert "no such file" in refusal(source(path=tmp_path / "nothing.csv", target="y"))
    assert "is a folder" in refusal(source(path=tmp_path, target="y"))
    assert "data.path is not set" in refusal(source(path=None, target="y"))
    assert "is empty" in refusal(source(path=write(tmp_path, ""), target="y"))


def test_an_unreadable_file_is_refused_with_the_reason(tmp_path, monkeypatch):
    path = write(tmp_path, GOOD)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    assert "cannot be read: Permission denied" in refusal(Csv(path=path, target="kind"))


def test_a_file_that_unpacks_to_more_than_half_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(
        tmp_path / "a.npz", X=np.arange(1500).reshape(500, 3) % 7, y=np.arange(500) % 2
    )
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    csv, npz = Csv(path=write(tmp_path, GOOD), target="kind"), Arrays(path=tmp_path / "a.npz")
    monkeypatch.setattr(checks, "available_memory", lambda: 2 * len(GOOD) - 1)
    assert "stays on the disk" in refusal(csv)
    monkeypatch.setattr(checks, "available_memory", lambda: 20_000)  # the arrays have 16,000 bytes
    csv.read()
    assert "stays on the disk" in refusal(npz)
    monkeypatch.setattr(checks, "available_memory", lambda: 40_000)
    npz.read()


def test_constant_and_huge_features_are_warned_of_but_kept(tmp_path):
    text = "a,b,c,y\n1,5,1e30,no\n2,5,3,yes\n"
    with pytest.warns(UserWarning, match="same value|values up to") as caught:
        examples = Csv(path=write(tmp_path, text), target="y").read()
    assert examples.X.shape == (2, 3)
    messages = sorted(str(warning.message).split(": ", 1)[1] for warning in caught)
    assert messages[0] == "the same value in every row, so nothing to learn from: b"
    assert messages[1].startswith("values up to 1e+30 in c;")
    assert not any("\n" in message for message in messages)


def test_several_target_columns_are_independent_labels(tmp_path):
    path = write(tmp_path, "wet,a,cold\n1,7,0.25\n0,8,1\n0,9,0\n")
    examples = Csv(path=path, target=["cold", 0]).read()
    np.testing.assert_array_equal(examples.target, [[0.25, 1], [1, 0], [0, 0]])
    assert examples.known == Known(("cold", "wet"), ("a",), ("cold", "wet"), multi_label=True)
    assert examples.n_outputs == 2


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("7", "is 7, outside [0, 1]"), ("-0.1", "is -0.1"), ("", "is nan"), ("x", "'x'")],
)
def test_labels_outside_0_to_1_are_refused_with_the_place(tmp_path, cell, expected):
    path = write(tmp_path, f"a,u,v\n7,0,1\n8,1,{cell}\n9,0,0\n")
    message = refusal(Csv(path=path, target=["u", "v"]))
    assert "line 3" in message
    assert "'v'" in message
    assert expected in message


def test_a_label_that_never_changes_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="same target in every row: v"):
        Csv(path=write(tmp_path, "a,u,v\n7,0,1\n8,1,1\n"), target=["u", "v"]).read()


def test_another_file_is_read_as_training_knew_it(tmp_path):
    known = Csv(path=write(tmp_path, GOOD), target=-1).read().known
    other = write(tmp_path, "kind,note,size,age\ndog,hello,7,8\ndog,you,7,9\n", "other.csv")
    examples = Csv(path=other, target=-1).read(known)
    np.testing.assert_array_equal(examples.X, [[8, 7], [9, 7]])
    np.testing.assert_array_equal(examples.target, [1, 1])
    assert examples.known == known


@pytest.mark.parametrize("target", ["kind", -1, None])
def test_a_file_to_predict_needs_no_target(tmp_path, target):
    known = Csv(path=write(tmp_path, GOOD), target="kind").read().known
    source = Csv(path=write(tmp_path, "size,age\n7,8\n", "new.csv"), target=target)
    examples = source.read(known, target_required=False)
    np.testing.assert_array_equal(examples.X, [[8, 7]])
    assert examples.target is None
    assert examples.class_names == ("cat", "dog")
    assert "data.target" in refusal(source, known)


def test_a_feature_of_the_model_is_never_taken_for_the_target(tmp_path):
    known = Known(("cat", "dog"), ("age", "size"))
    source = Csv(path=write(tmp_path, "age,size\n7,8\n"), target=-1)
    np.testing.assert_array_equal(source.read(known, target_required=False).X, [[7, 8]])
    assert "'size'" in refusal(source, known)


def test_a_file_that_does_not_fit_the_model_is_refused(tmp_path):
    known = Csv(path=write(tmp_path, GOOD), target="kind").read().known
    source = Csv(path=write(tmp_path, "age,height,kind\n1,2,cat\n", "other.csv"), target="kind")
    assert "2 features, the model 2; the file lacks: size" in refusal(source, known)
    source = Csv(path=write(tmp_path, GOOD.replace("dog", "cow"), "cows.csv"), target="kind")
    assert "line 3: the target 'cow' is not a class of the model (cat, dog)" in refusal(
        source, known
    )


def test_number_labels_match_the_models_in_any_spelling():
    known = Known(("1", "2", "10"), ("x",))
    labels = class_labels(np.array([10.0, 1.0]), "file", str, known)
    np.testing.assert_array_equal(labels.target, [2, 0])
    labels = class_labels(np.array(["01", "2"]), "file", str, Known(("01", "2", "x"), ("x",)))
    np.testing.assert_array_equal(labels.target, [0, 1])


def test_a_parquet_file_gives_what_the_csv_gives(tmp_path):
    frame = pd.DataFrame(
        {"age": [30, 41, 52], "size": [1.5, 2.5, -3], "kind": ["cat", "dog", "cat"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.index = pd.Index(["u", "v", "w"], name="id")
    frame.to_parquet(tmp_path / "indexed.parquet")
    expected = Csv(path=write(tmp_path, GOOD), target="kind").read()
    for name in ("t.parquet", "indexed.parquet"):
        examples = Parquet(path=tmp_path / name, target="kind").read()
        np.testing.assert_array_equal(examples.X, expected.X)
        np.testing.assert_array_equal(examples.target, expected.target)
        assert examples.known == expected.known


def test_a_wrong_parquet_file_is_refused(tmp_path):
    path = write(tmp_path, GOOD, "t.parquet")
    assert "not a readable Parquet file" in refusal(Parquet(path=path, target="kind"))
    frame = pd.DataFrame({"a": [1.0, None], "d": pd.to_datetime(["2020-01-01", "2020-01-02"])})
    frame.assign(y=[0, 1]).to_parquet(path)
    assert "column 'd' has the type timestamp" in refusal(Parquet(path=path, target="y"))
    frame.assign(y=[0, 1]).drop(columns="d").to_parquet(path)
    assert "row 1 (the first is 0): feature 'a' is missing" in refusal(
        Parquet(path=path, target="y")
    )
    frame.drop(columns="a").to_parquet(path)
    frame.head(0).assign(y=[]).drop(columns="d").to_parquet(path)
    assert "a header but no rows" in refusal(Parquet(path=path, target="y"))


def parquet(path: Path, **columns) -> Parquet:
    pq.write_table(pa.table({"x": np.arange(8.0), **columns}), path / "t.parquet")
    return Parquet(path=path / "t.parquet", target="y")


DAY = datetime.date(2020, 1, 1)
NESTED = {
    "list": pa.array([[1.0, 2.0]] * 4 + [[None]] * 4),
    "fixed_size_list": pa.array([[1.0, 2.0]] * 8, pa.list_(pa.float64(), 2)),
    "large_list": pa.array([["a"]] * 8, pa.large_list(pa.string())),
    "struct": pa.array([{"a": 1}] * 4 + [None] * 4),
    "map": pa.array([[("a", 1)]] * 8, pa.map_(pa.string(), pa.int64())),
}
TIMES_AND_BYTES = {
    "date32": pa.array([DAY, DAY + datetime.timedelta(1)] * 4),
    "timestamp": pa.array([datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)] * 4),
    "duration": pa.array([datetime.timedelta(1), datetime.timedelta(2)] * 4),
    "time64": pa.array([datetime.time(1), datetime.time(2)] * 4),
    "binary": pa.array([b"1", b"2"] * 4),
    "fixed_size_binary": pa.array([b"11", b"22"] * 4, pa.binary(2)),
}
BOTH = pa.array(["a", "b"] * 4)


@pytest.mark.parametrize("kind", NESTED)
def test_a_nested_column_is_refused_by_its_name_and_type(tmp_path, kind):
    as_target = refusal(parquet(tmp_path, y=NESTED[kind]))
    assert f"column 'y' has the type {kind}<" in as_target
    assert as_target.endswith("a target must have texts, whole numbers, booleans or dates")
    as_feature = refusal(parquet(tmp_path, f=NESTED[kind], y=BOTH))
    assert f"column 'f' has the type {kind}<" in as_feature
    assert as_feature.endswith("a feature must have numbers, booleans or texts that spell numbers")


@pytest.mark.parametrize("kind", TIMES_AND_BYTES)
def test_times_and_bytes_are_classes_and_no_features_or_labels(tmp_path, kind):
    examples = parquet(tmp_path, y=TIMES_AND_BYTES[kind]).read()
    np.testing.assert_array_equal(examples.target, [0, 1] * 4)
    assert len(examples.class_names) == 2
    source = parquet(tmp_path, f=TIMES_AND_BYTES[kind], y=BOTH)
    assert f"column 'f' has the type {kind}" in refusal(source)
    source = parquet(tmp_path, y=TIMES_AND_BYTES[kind], z=np.zeros(8))
    source.target = ["y", "z"]
    assert f"column 'y' has the type {kind}" in refusal(source)


def test_categories_decimals_and_spelt_numbers_are_features_and_classes(tmp_path):
    spelt = ["1.5", "2.5"] * 4
    columns = (
        pa.array(spelt),
        pa.array(spelt).dictionary_encode(),
        pa.array([float(each) for each in spelt]).dictionary_encode(),
        pa.array([decimal.Decimal(each) for each in spelt]),
    )
    for column in columns:
        examples = parquet(tmp_path, f=column, y=column).read()
        np.testing.assert_array_equal(examples.X[:, 1], [1.5, 2.5] * 4)
        assert examples.class_names == ("1.5", "2.5")
    text = refusal(parquet(tmp_path, f=pa.array(["u", "v"] * 4).dictionary_encode(), y=BOTH))
    assert "column 'f' contains 'u', which is not a number" in text


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, True] * 4),
        pa.array([None, 1] * 4),
        pa.array([None, datetime.datetime(2020, 1, 1)] * 4),
        pa.array([None, "a"] * 4).dictionary_encode(),
        pa.nulls(8),
    ],
    ids=["boolean", "whole number", "timestamp", "category", "null"],
)
def test_a_null_is_a_missing_value_whatever_the_type(tmp_path, column):
    assert "row 0 (the first is 0): the target has no value" in refusal(parquet(tmp_path, y=column))
    if column.type in (pa.bool_(), pa.int64(), pa.null()):
        text = refusal(parquet(tmp_path, f=column, y=BOTH))
        assert "row 0 (the first is 0): feature 'f' is missing" in text


def test_a_parquet_file_without_columns_or_with_one_name_twice_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({}), path)
    assert refusal(Parquet(path=path, target="y")).endswith("t.parquet has no columns")
    pq.write_table(pa.Table.from_arrays([BOTH, BOTH], names=["x", "x"]), path)
    assert "the same name twice: x" in refusal(Parquet(path=path, target="x"))


def test_labels_that_differ_stay_different_classes():
    known = class_labels(np.array([b"\xff", b"\xfe", b"a"]), "t", str).class_names
    assert known == (r"\xfe", r"\xff", "a")
    labels = class_labels(np.array(["1_0", "10", "10.0"]), "t", str)
    assert set(labels.class_names) == {"1_0", "10", "10.0"}


@pytest.mark.parametrize(
    ("one", "other"), [("a01", "a1"), ("9007199254740993", "9007199254740992"), ("a01", "a001")]
)
def test_the_order_of_classes_is_the_same_in_every_process(one, other, monkeypatch):
    found = []
    for reverse in (False, True):  # a process has a set of texts in an order of its own
        a_set = partial(sorted, reverse=reverse)
        monkeypatch.setattr("handgrad.data.targets.set", a_set, raising=False)
        found.append(class_labels(np.array([one, other]), "t", str).class_names)
    assert found[0] == found[1]


def test_parquet_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'pip install -e ".[parquet]"' in refusal(
        Parquet(path=write(tmp_path, GOOD), target="kind")
    )


def arrays():
    rng = np.random.default_rng(3)
    return rng.normal(size=(23, 4)).astype(np.float32), rng.integers(3, size=23)


def test_an_npz_file_gives_its_arrays(tmp_path):
    X, y = arrays()
    np.savez(tmp_path / "a.npz", X=X, y=y)
    np.savez_compressed(tmp_path / "b.npz", inputs=X, labels=y.reshape(-1, 1), X=y, y=X)
    for source in (
        Arrays(path=tmp_path / "a.npz"),
        Arrays(path=tmp_path / "b.npz", features="inputs", target="labels"),
    ):
        examples = source.read()
        np.testing.assert_array_equal(examples.X, X)
        np.testing.assert_array_equal(examples.target, y)
        assert examples.class_names == ("0", "1", "2")
        assert examples.feature_names == ("x0", "x1", "x2", "x3")


def test_a_pair_of_npy_files_stays_on_the_disk(tmp_path):
    X, y = arrays()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    examples = Arrays(path=tmp_path / "X.npy", target=tmp_path / "y.npy").read()
    assert isinstance(examples.X, OnDisk)
    np.testing.assert_array_equal(examples.X, X)
    np.testing.assert_array_equal(examples.target, y)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "?"])
@pytest.mark.parametrize("shape", [(500, 7), (300, 5, 80), (700, 1)])
def test_rows_left_in_a_file_are_those_of_the_array(tmp_path, dtype, shape):
    array = (np.random.default_rng(6).normal(size=shape).round() * 50).astype(dtype)
    np.save(tmp_path / "X.npy", array)
    np.save(tmp_path / "y.npy", np.arange(len(array)) % 2)
    found = Arrays(path=tmp_path / "X.npy", target=tmp_path / "y.npy").read().X
    assert isinstance(found, OnDisk)
    expected = array.reshape(len(array), -1)
    assert (found.shape, found.dtype, found.nbytes) == (
        *(expected.shape, expected.dtype, expected.nbytes),
    )
    shuffled = np.random.default_rng(7).permutation(len(array))
    repeated = np.array([3, 3, len(array) - 1, 0, 3])
    for rows in (shuffled, shuffled[:9], repeated, shuffled[:0], slice(None), slice(4, 200, 31)):
        np.testing.assert_array_equal(found[rows], expected[rows])


def test_columns_that_lie_one_after_the_other_are_read_right(tmp_path):
    X, y = arrays()
    np.save(tmp_path / "X.npy", np.asfortranarray(X))
    np.save(tmp_path / "y.npy", y)
    examples = Arrays(path=tmp_path / "X.npy", target=tmp_path / "y.npy").read()
    np.testing.assert_array_equal(examples.X, X)


@pytest.mark.parametrize("harm", ["cut", "rewritten", "longer"])
def test_a_file_that_changes_while_it_is_used_is_named(tmp_path, harm):
    X, y = arrays()
    path = tmp_path / "X.npy"
    np.save(path, X)
    np.save(tmp_path / "y.npy", y)
    examples = Arrays(path=path, target=tmp_path / "y.npy").read()
    match harm:
        case "cut":
            os.truncate(path, 200)
        case "rewritten":
            np.save(path, X + 1)
        case _:
            path.write_bytes(path.read_bytes() + bytes(9))
    with pytest.raises(Failed, match=f"^{path} was cut or written to while it was used"):
        examples.X[3:5]


def test_a_file_whose_name_goes_to_another_one_is_read_on(tmp_path):
    X, y = arrays()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    examples = Arrays(path=tmp_path / "X.npy", target=tmp_path / "y.npy").read()
    np.save(tmp_path / "other.npy", X + 1)
    (tmp_path / "other.npy").replace(tmp_path / "X.npy")
    np.testing.assert_array_equal(examples.X, X)


def test_pictures_become_rows_and_keep_their_shape(tmp_path):
    pictures = np.random.default_rng(4).integers(256, size=(9, 3, 2)).astype(np.uint8)
    np.save(tmp_path / "X.npy", pictures)
    np.save(tmp_path / "y.npy", np.arange(9) % 2)
    examples = Arrays(path=tmp_path / "X.npy", target=tmp_path / "y.npy").read()
    assert isinstance(examples.X, OnDisk)
    assert examples.image_shape == (3, 2)
    assert examples.feature_names[:3] == ("pixel_0_0", "pixel_0_1", "pixel_1_0")
    np.testing.assert_array_equal(examples.X, pictures.reshape(9, 6))


def test_several_target_columns_in_an_array_are_independent_labels(tmp_path):
    X, _ = arrays()
    y = np.random.default_rng(5).uniform(size=(23, 2))
    np.savez(tmp_path / "a.npz", X=X, y=y)
    examples = Arrays(path=tmp_path / "a.npz").read()
    np.testing.assert_array_equal(examples.target, y)
    assert examples.known == Known(("y0", "y1"), ("x0", "x1", "x2", "x3"), (), multi_label=True)
    np.savez(tmp_path / "a.npz", X=X, y=y + 1)
    assert "row 0 (the first is 0): target 'y0' is 1." in refusal(Arrays(path=tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"X": None}, "data.features=X: "),
        ({"y": None}, "data.target=y: "),
        ({"X": np.zeros((23, 2), dtype=complex)}, "complex128"),
        ({"X": np.array([["a", "b"]] * 23)}, "<U1"),
        ({"X": np.zeros(23)}, "(23,)"),
        ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, "(0, 3)"),
        ({"X": np.zeros((23, 0))}, "(23, 0)"),
        ({"y": np.zeros(22)}, "(22,)"),
        ({"y": np.zeros(())}, "()"),
        ({"y": np.zeros(23)}, "'0' in every row"),
        ({"y": np.linspace(0, 1, 23)}, "23 different values"),
        ({"y": np.array([["a", "b"]] * 23)}, "<U1"),
        ({"X": np.array([{}] * 23)}, "pickle"),
        ({"y": np.array([{}] * 23)}, "pickle"),
    ],
)
def test_a_wrong_npz_file_is_refused(tmp_path, change, expected):
    X, y = arrays()
    content = {
        name: value for name, value in ({"X": X, "y": y} | change).items() if value is not None
    }
    np.savez(tmp_path / "a.npz", **content)
    message = refusal(Arrays(path=tmp_path / "a.npz"))
    assert expected in message
    assert "allow_pickle" not in message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_found_in_any_piece(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(on_disk, "VALUES_AT_ONCE", 20)  # 5 rows of 4
    X, y = arrays()
    X[17, 2] = X[21, 0] = bad
    np.savez(tmp_path / "a.npz", X=X, y=y)
    message = refusal(Arrays(path=tmp_path / "a.npz"))
    assert "row 17 (the first is 0): feature 'x2' is " in message
    assert "(2 empty, NaN or infinite cells)" in message


class Trap:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["a.npz", "X.npy"])
def test_no_pickle_is_ever_executed(tmp_path, name):
    trace = tmp_path / "trace"
    with (tmp_path / name).open("wb") as file:
        pickle.dump(Trap(trace), file)
    refusal(Arrays(path=tmp_path / name, target=tmp_path / name))
    hostile = np.array([[Trap(trace)]], dtype=object)
    if name.endswith("npz"):
        np.savez(tmp_path / name, X=hostile, y=np.zeros(1))
    else:
        np.save(tmp_path / name, hostile)
    assert "never loaded" in refusal(Arrays(path=tmp_path / name, target=tmp_path / name))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.npz", "X.npy"])
@pytest.mark.parametrize("keep", [3, 60, 150, -40])
def test_a_cut_array_file_is_refused(tmp_path, name, keep):
    X, y = arrays()
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, X=X, y=y)
    else:
        np.save(path, X)
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in refusal(Arrays(path=path, target=path))


def test_a_flipped_byte_in_an_npz_file_is_refused(tmp_path):
    X, y = arrays()
    np.savez(tmp_path / "a.npz", X=X, y=y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.find(X.tobytes()) + 7] ^= 16
    (tmp_path / "a.npz").write_bytes(content)
    assert "damaged" in refusal(Arrays(path=tmp_path / "a.npz"))


def test_arrays_to_predict_need_no_target_but_the_same_width(tmp_path):
    X, y = arrays()
    np.savez(tmp_path / "a.npz", X=X, y=y)
    known = Arrays(path=tmp_path / "a.npz").read().known
    np.savez(tmp_path / "b.npz", X=X[:2])
    np.save(tmp_path / "X.npy", X[:2])
    for source in (
        Arrays(path=tmp_path / "b.npz"),
        Arrays(path=tmp_path / "X.npy"),
        Arrays(path=tmp_path / "X.npy", target=tmp_path / "gone.npy"),
    ):
        examples = source.read(known, target_required=False)
        assert examples.target is None
        assert examples.known == known
        assert "data.target" in refusal(source, known)
    np.savez(tmp_path / "b.npz", X=X[:, :3], y=y)
    assert "has 3 features, the model 4" in refusal(Arrays(path=tmp_path / "b.npz"), known)
    np.savez(tmp_path / "b.npz", X=X, y=np.full(23, 5))
    assert "the target '5' is not a class" in refusal(Arrays(path=tmp_path / "b.npz"), known)
    np.savez(tmp_path / "b.npz", X=X, y=np.zeros((23, 3)))
    assert "the model needs 1 columns" in refusal(Arrays(path=tmp_path / "b.npz"), known)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_text_of_numbers_that_are_no_characters_is_refused(tmp_path: Path, order: str) -> None:
    labels = np.array(["a", "b"] * 6, dtype=f"{order}U2")
    labels.view(f"{order}u4")[1] = 0x110000
    np.savez(tmp_path / "a.npz", X=np.eye(12), y=labels)
    with pytest.raises(ValueError, match="the target is not valid text"):
        Arrays(path=tmp_path / "a.npz").read()

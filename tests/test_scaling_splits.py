"""Scaling with the training split's statistics, and the three splits of a data set."""

import json

import numpy as np
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from handgrad.data import on_disk
from handgrad.data.examples import Examples
from handgrad.data.scaling import Scaling
from handgrad.data.splits import split

pytestmark = pytest.mark.filterwarnings("error")


def table(n_examples=50, n_features=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(loc=[5, -200, 0.01], scale=[1, 30, 0.001], size=(n_examples, n_features))


def labelled(counts, **more):
    target = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(1).shuffle(target)
    names = tuple(f"class{i}" for i in range(len(counts)))
    return Examples(np.zeros((len(target), 2)), target, names, ("x", "y"), **more)


@pytest.mark.parametrize(
    ("scale", "oracle"), [("standard", StandardScaler()), ("minmax", MinMaxScaler())]
)
def test_statistics_are_those_of_the_training_part_alone(scale, oracle):
    X, train = table(), np.arange(0, 50, 3)
    scaling = Scaling.fit(scale, X, train)
    expected = oracle.fit(X[train]).transform(X)
    np.testing.assert_allclose(scaling.apply(X, np.float64), expected, rtol=1e-12, atol=1e-12)
    X[1] = 1e6  # outside the training split: changes nothing
    assert Scaling.fit(scale, X, train).state() == scaling.state()


@pytest.mark.parametrize("divisor", [255, 16, 0.5])
def test_a_division_is_the_exact_division_in_float32(divisor):
    X = np.arange(256, dtype=np.uint8).reshape(64, 4)
    scaled = Scaling.fit(f"/{divisor}", X).apply(X)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, X.astype(np.float32) / np.float32(divisor))


def test_none_changes_nothing_but_the_dtype():
    X = table().astype(np.float32)
    np.testing.assert_array_equal(Scaling.fit("none", X).apply(X), X)


@pytest.mark.parametrize("scale", ["standard", "minmax"])
def test_a_constant_feature_becomes_zero(scale):
    X = table()
    X[:, 1] = 7.5
    scaling = Scaling.fit(scale, X)
    assert scaling.divisor[1] == 1
    np.testing.assert_array_equal(scaling.apply(X)[:, 1], 0)


@pytest.mark.parametrize("scale", ["none", "standard", "minmax", "/255"])
def test_the_state_is_plain_and_restores_every_bit(scale, tmp_path):
    X = table()
    scaling = Scaling.fit(scale, X)
    torch.save(scaling.state(), tmp_path / "state.pt")
    for state in (
        torch.load(tmp_path / "state.pt", weights_only=True),
        json.loads(json.dumps(scaling.state())),
    ):
        again = Scaling.from_state(state)
        np.testing.assert_array_equal(again.apply(X, np.float64), scaling.apply(X, np.float64))


def test_a_memory_mapped_array_in_pieces_scales_as_one_in_memory(tmp_path, monkeypatch):
    X, train = table(n_examples=101), np.arange(0, 101, 2)
    np.save(tmp_path / "X.npy", X)
    whole = {scale: Scaling.fit(scale, X, train) for scale in ("standard", "minmax")}
    expected = {scale: scaling.apply(X, np.float64) for scale, scaling in whole.items()}
    monkeypatch.setattr(on_disk, "VALUES_AT_ONCE", 20)  # 6 rows of 3
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for scale in whole:
        scaled = Scaling.fit(scale, mapped, train).apply(mapped, np.float64)
        np.testing.assert_allclose(scaled, expected[scale], rtol=1e-12, atol=1e-12)


def test_another_number_of_features_is_refused_with_both():
    scaling = Scaling.fit("standard", table())
    with pytest.raises(ValueError, match=r"\(5, 4\).* 3 features"):
        scaling.apply(np.zeros((5, 4)))


@pytest.mark.parametrize(
    "scale", ["auto", "Standard", "/0", "/-2", "/x", "/inf", "255", "", "/nan", 3]
)
def test_an_unknown_scale_is_refused(scale):
    with pytest.raises(ValueError, match=f"data.scale={scale}"):
        Scaling.fit(scale, table())


@pytest.mark.parametrize("scale", ["none", "standard", "minmax", "/255", "/1e3"])
def test_a_right_scale_passes(scale):
    assert Scaling.fit(scale, table()).scale == scale


def test_statistics_that_overflow_are_refused():
    X = table()
    X[0, 2], X[1, 2] = 1e200, -1e200
    with pytest.raises(ValueError, match="feature 2"):
        Scaling.fit("standard", X)


def test_a_value_that_overflows_the_dtype_is_refused():
    X = table()
    scaling = Scaling.fit("none", X)
    X[3, 0] = 1e39
    assert scaling.apply(X, np.float64)[3, 0] == 1e39
    with pytest.raises(ValueError, match=r"data.scale=none: a feature is too large for float32"):
        scaling.apply(X)


def test_statistics_of_no_example_are_refused():
    with pytest.raises(ValueError, match="no example"):
        Scaling.fit("standard", table(), np.arange(0))


def test_the_parts_hold_every_example_once_in_ascending_order():
    parts = split(labelled([40, 33, 27]), 0.16, 0.2, seed=3)
    assert [len(part) for part in parts] == [64, 16, 20]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    for part in parts:
        assert (np.diff(part) > 0).all()


def test_every_part_has_the_classes_in_their_shares():
    examples = labelled([500, 300, 200])
    for part, n_examples in zip(split(examples, 0.1, 0.3, seed=4), (600, 100, 300), strict=True):
        counts = np.bincount(np.asarray(examples.target)[part])
        np.testing.assert_allclose(counts, np.array([0.5, 0.3, 0.2]) * n_examples, atol=1)


def test_the_split_follows_the_seed():
    examples = labelled([40, 33, 27])
    first, again, other = (split(examples, 0.16, 0.2, seed) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [(0, 0, (10, 0, 0)), (0.2, 0, (8, 2, 0)), (0, 0.3, (7, 0, 3)), (0.01, 0.2, (7, 1, 2))],
)
def test_a_fraction_of_zero_is_no_part_and_a_small_one_at_least_one_example(
    validation, test, sizes
):
    target = np.random.default_rng(0).uniform(size=(10, 3))
    examples = Examples(np.zeros((10, 1)), target, ("a", "b", "c"), ("x",), multi_label=True)
    parts = split(examples, validation, test, seed=2)
    assert tuple(map(len, parts)) == sizes
    assert all(part.dtype.kind == "i" for part in parts)


def test_a_class_of_one_example_is_warned_of_and_nothing_is_dropped():
    with pytest.warns(UserWarning, match="not stratified.*class1"):
        parts = split(labelled([30, 1]), 0, 0.2, seed=5)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(31))


def test_fewer_places_than_classes_is_warned_of():
    with pytest.warns(
        UserWarning, match="not stratified.*3 classes do not fit into a split of size 2"
    ):
        split(labelled([9, 8, 7]), 0, 2 / 24, seed=5)


def test_multi_label_examples_are_shuffled_without_a_warning():
    target = np.random.default_rng(0).uniform(size=(40, 3))
    examples = Examples(np.zeros((40, 1)), target, ("a", "b", "c"), ("x",), multi_label=True)
    assert [len(part) for part in split(examples, 0.25, 0.25, seed=6)] == [20, 10, 10]


def test_a_split_that_the_source_fixes_is_taken():
    parts = np.array([0, 2, 1, 0, 2, 0], dtype=np.int8)
    taken = split(labelled([3, 3], splits=parts), None, None, seed=7)
    for part, expected in zip(taken, ([0, 3, 5], [2], [1, 4]), strict=True):
        np.testing.assert_array_equal(part, expected)
    with pytest.raises(ValueError, match=r"data.test=0.2: this dataset has official splits"):
        split(labelled([3, 3], splits=parts), None, 0.2, seed=7)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (-0.1, 0.2, "data.validation=-0.1"),
        (0.1, 1, "data.test=1"),
        (0.1, float("nan"), "data.test=nan"),
        (None, 0.2, "data.validation=None"),
        (True, 0.2, "data.validation=True"),
        (0.5, 0.5, "leave no training data: there are 20"),
    ],
)
def test_wrong_fractions_are_refused(validation, test, message):
    with pytest.raises(ValueError, match=message):
        split(labelled([10, 10]), validation, test, seed=1)

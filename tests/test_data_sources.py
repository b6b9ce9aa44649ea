"""The shipped and generated sources, and the Examples that every source gives."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from conftest import CONF as ALL
from conftest import composed
from sklearn import datasets

from handgrad.data.examples import Examples, Known
from handgrad.data.sources import (
    BreastCancer,
    Circles,
    Digits,
    Iris,
    Moons,
    Parity,
    Spirals,
    Symmetry,
    Wine,
    Xor,
)

pytestmark = pytest.mark.filterwarnings("error")

CONF = ALL / "data"
SHIPPED = {
    "digits": (Digits, datasets.load_digits, 10),
    "breast_cancer": (BreastCancer, datasets.load_breast_cancer, 1),
    "iris": (Iris, datasets.load_iris, 3),
    "wine": (Wine, datasets.load_wine, 3),
}
GENERATED = [Moons, Circles, Spirals, Xor]
COMMON = ["_target_", "batch_size", "microbatch", "passes_per_epoch", "scale", "validation", "test"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_are_scikit_learns_unscaled(name):
    source, load, n_outputs = SHIPPED[name]
    examples, bunch = source().read(), load()
    np.testing.assert_array_equal(examples.X, bunch.data)
    np.testing.assert_array_equal(examples.target, bunch.target)
    assert examples.class_names == tuple(str(name) for name in bunch.target_names)
    assert examples.n_outputs == n_outputs
    assert examples.splits is None


def test_digits_are_pictures_divided_by_16_and_tables_are_standardised():
    assert Digits().read().image_shape == (8, 8)
    assert Digits.default_scale == "/16"
    assert {source.default_scale for source in (Iris, Wine, BreastCancer, Xor)} == {"standard"}


@pytest.mark.parametrize("source", GENERATED)
def test_generated_points_follow_the_seed_alone(source):
    first = source(examples=37, noise=0.1, seed=3).read()
    again = source(examples=37, noise=0.1, seed=3).read()
    other = source(examples=37, noise=0.1, seed=4).read()
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)
    assert first.X.shape == (37, 2)
    assert set(first.target.tolist()) == {0, 1}
    assert first.n_outputs == 1


def test_four_points_without_noise_are_the_truth_table_of_xor():
    examples = Xor(examples=4, noise=0, seed=5).read()
    np.testing.assert_array_equal(examples.X, [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(examples.target, [0, 1, 1, 0])


def test_parity_of_two_bits_is_xor_and_targets_are_as_given():
    examples = Parity(bits=2, targets=[0.1, 0.9]).read()
    np.testing.assert_array_equal(examples.X, [[0, 0], [0, 1], [1, 0], [1, 1]])
    Y = examples.encode(np.arange(4))
    np.testing.assert_allclose(Y, [[0.1], [0.9], [0.9], [0.1]], rtol=1e-6)
    assert examples.n_outputs == 1


def test_truth_tables_hold_every_row_once():
    parity = Parity(bits=4, targets=[0, 1]).read()
    symmetry = Symmetry(bits=6, targets=[0, 1]).read()
    assert len(np.unique(parity.X, axis=0)) == len(parity) == 16
    assert len(np.unique(symmetry.X, axis=0)) == len(symmetry) == 64
    assert [int(t) for t in parity.target[:, 0]] == [bin(row).count("1") % 2 for row in range(16)]
    texts = ["".join(str(int(bit)) for bit in row) for row in symmetry.X]
    assert symmetry.target[:, 0].tolist() == [text == text[::-1] for text in texts]
    assert sum(symmetry.target[:, 0]) == 8


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"bits": 1}, "data.bits=1"),
        ({"bits": 17}, "data.bits=17"),
        ({"targets": [0.1]}, "data.targets"),
        ({"targets": [0.1, 1.2]}, "data.targets"),
    ],
)
def test_a_wrong_key_of_a_truth_table_is_named(change, key):
    with pytest.raises(ValueError, match=key):
        Parity(**{"bits": 2, "targets": [0.1, 0.9]} | change)


def test_the_class_of_noisy_xor_is_that_of_the_nearest_corner():
    examples = Xor(examples=401, noise=0.05, seed=6).read()
    bits = examples.X.round().astype(int)
    np.testing.assert_array_equal(examples.target, bits[:, 0] != bits[:, 1])


def test_circles_and_spirals_lie_where_they_should():
    circles = Circles(examples=41, noise=0, seed=7).read()
    radius = np.linalg.norm(circles.X, axis=1)
    np.testing.assert_allclose(radius, np.where(circles.target == 1, 0.5, 1.0))
    spirals = Spirals(examples=300, noise=0, seed=8).read()
    radius = np.linalg.norm(spirals.X, axis=1)
    angle = 2 * np.pi * (radius - 0.1) / 0.9 + np.pi * np.asarray(spirals.target)
    np.testing.assert_allclose(spirals.X, radius[:, None] * np.c_[np.cos(angle), np.sin(angle)])
    assert 0.1 <= radius.min() < 0.15
    assert 0.95 < radius.max() <= 1


@pytest.mark.parametrize("source", GENERATED)
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"examples": 3}, "data.examples=3"),
        ({"examples": 5.5}, "data.examples=5.5"),
        ({"noise": -0.1}, "data.noise=-0.1"),
        ({"noise": float("nan")}, "data.noise=nan"),
        ({"noise": "much"}, "data.noise=much"),
    ],
)
def test_a_wrong_key_of_generated_data_is_named(source, change, key):
    with pytest.raises(ValueError, match=key):
        source(**{"examples": 10, "noise": 0.1, "seed": 1} | change)


def test_other_features_or_classes_than_the_models_are_refused():
    with pytest.raises(
        ValueError, match="data=wine does not fit the model: it has 13 features, the model 4"
    ):
        Wine().read(Iris().read().known)
    with pytest.raises(ValueError, match="classes are 0, 1, the model's no, yes"):
        Xor(examples=8, noise=0, seed=1).read(Known(("no", "yes"), ("x", "y")))
    known = Iris().read().known
    assert Iris().read(known).known == known


def test_several_classes_become_one_hot_rows():
    target = np.array([2, 0, 1, 2])
    examples = Examples(np.zeros((4, 2)), target, ("a", "b", "c"), ("x", "y"))
    rows = examples.encode(np.array([3, 1, 2]))
    np.testing.assert_array_equal(rows, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert rows.dtype == np.float32


def test_two_classes_become_one_column():
    examples = Examples(np.zeros((3, 2)), np.array([1, 0, 1]), ("no", "yes"), ("x", "y"))
    assert examples.n_outputs == 1
    np.testing.assert_array_equal(examples.encode(np.arange(3)), [[1], [0], [1]])


def test_two_labels_that_are_independent_stay_two_outputs():
    target = np.array([[0.25, 1], [1, 1], [0, 0]])
    examples = Examples(np.zeros((3, 1)), target, ("wet", "cold"), ("x",), multi_label=True)
    assert examples.n_outputs == 2
    np.testing.assert_array_equal(examples.encode(np.array([2, 0])), [[0, 0], [0.25, 1]])


def test_examples_without_target_cannot_be_encoded():
    with pytest.raises(ValueError, match="no target"):
        Examples(np.zeros((3, 1)), None, ("a", "b"), ("x",)).encode(np.arange(3))


@pytest.mark.parametrize(
    "change",
    [
        {"feature_names": ("x",)},
        {"target": np.zeros(4, dtype=int)},
        {"target": np.zeros((5, 2))},
        {"splits": np.zeros(6, dtype=np.int8)},
        {"X": np.zeros(5)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(change):
    good = {
        "X": np.zeros((5, 2)),
        "target": np.zeros(5, dtype=int),
        "class_names": ("a", "b"),
        "feature_names": ("x", "y"),
    }
    Examples(**good)
    with pytest.raises(ValueError, match=r"X is|X has|target is"):
        Examples(**good | change)


def test_what_training_knew_survives_as_plain_containers():
    known = Digits().read().known
    assert Known(**dataclasses.asdict(known)) == known


def explained(file: Path) -> str:
    """Return the text of a file of conf/ after a check that each of its keys has a comment."""
    text = file.read_text()
    assert text.startswith("# ")
    for line in text.splitlines():
        assert len(line) <= 100 or line.startswith("#"), line
        if line and not line.startswith(("#", "_target_: handgrad", "defaults")):
            assert "  # " in line, line
    return text


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_builds_its_source_and_explains_every_key(file, tmp_path):
    text = explained(file) + explained(ALL / "data.yaml")
    config = composed(f"data={file.stem}")["data"]
    assert list(config)[: len(COMMON)] == COMMON
    assert all(f"\n{key}: " in text for key in config)
    module, name = config["_target_"].rsplit(".", 1)
    own = {k: v for k, v in config.items() if k not in COMMON}
    own |= {"seed": 0} if "seed" in own else {}
    own |= {"root": tmp_path} if "root" in own else {}
    source = getattr(importlib.import_module(module), name)(**own)
    assert config["scale"] == "auto"
    assert f"# data.scale=auto means {source.default_scale}\n" in text

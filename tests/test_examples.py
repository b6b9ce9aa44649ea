"""task=examples: the examples by their gradients, and what it is for: labels that are wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Train
from sklearn.datasets import load_digits, load_iris

from handgrad import backprop
from handgrad.module import TwoLayerNetwork

COLUMNS = ["row", "label", "prediction", "probability", "gradient_norm", "part"]


def digits_with_wrong_labels(path: Path, seed: int) -> set[int]:
    """Write digits as a table, 5% of the labels replaced by another digit; the rows of these."""
    X, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    planted = rng.choice(len(labels), round(0.05 * len(labels)), replace=False)
    labels[planted] = (labels[planted] + rng.integers(1, 10, len(planted))) % 10
    features = np.flatnonzero(X.std(axis=0))
    table = pd.DataFrame(X[:, features], columns=[f"pixel_{k}" for k in features])
    table.assign(label=labels).to_csv(path, index=False)
    return set(planted)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_wrong_labels_have_the_largest_gradients(train: Train, tmp_path: Path, seed: int) -> None:
    planted = digits_with_wrong_labels(tmp_path / "digits.csv", seed)
    data = ["data=csv", "data.path=digits.csv", "data.target=label", "data.scale=/16"]
    ran = train(*data, f"seed={seed}", "logger=none", "trainer.enable_progress_bar=false")
    assert ran.code == 0, ran.err
    answer = train("task=examples", f"ckpt_path={ran.folder}")
    assert answer.code == 0, answer.err
    table = pd.read_csv(answer.folder / "examples.csv")
    assert sorted(table["row"]) == list(range(1797))
    for listed in (table, table[table["part"] == "train"]):  # memory may hide what was trained on
        first = set(listed["row"][: int(0.08 * len(listed))])
        known = planted & set(listed["row"])
        assert len(known & first) >= 0.95 * len(known)


@pytest.mark.parametrize("cost", ["cross_entropy", "quadratic"])
def test_the_rows_are_those_of_the_network(train: Train, cost: str) -> None:
    of = ["data=iris", "model.hidden=5", f"cost={cost}", "backward=feedback_alignment"]
    ran = train(*of, "trainer.max_epochs=2", "logger=none")
    assert ran.code == 0, ran.err
    answer = train("task=examples", f"ckpt_path={ran.folder}")
    assert answer.code == 0, answer.err
    table = pd.read_csv(answer.folder / "examples.csv")
    assert list(table.columns) == COLUMNS
    assert table["part"].value_counts().to_dict() == {"train": 96, "test": 30, "val": 24}
    assert table["gradient_norm"].is_monotonic_decreasing
    path = ran.folder / "checkpoints" / "best.ckpt"
    scaling = torch.load(path, weights_only=True)["ExampleData"]["scaling"]
    network = TwoLayerNetwork.load_from_checkpoint(path).double()
    X, target, names = all_of_iris()
    for _, row in table[::30].iterrows():
        x = torch.from_numpy((X[[row["row"]]] - scaling["offset"]) / scaling["divisor"])
        y = torch.eye(3, dtype=torch.float64)[target[[row["row"]]]]
        value = backprop.cost if cost == "cross_entropy" else backprop.quadratic_cost
        J = value(backprop.forward(network.params, x), y)
        norms = [part.norm() for part in torch.autograd.grad(J, network.params)]
        assert row["gradient_norm"] == pytest.approx(torch.stack(norms).norm().item(), rel=1e-5)
        answers = network(x)[0].detach()
        assert row["prediction"] == names[int(answers.argmax())]
        assert row["probability"] == pytest.approx(float(answers.max()), rel=1e-5)
        assert row["label"] == names[target[row["row"]]]


def all_of_iris() -> tuple[np.ndarray, np.ndarray, list[str]]:
    found = load_iris()
    return found.data, found.target, list(found.target_names)  # pyright: ignore


def test_a_file_of_ones_own_is_listed_whole_and_safely(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    table["kind"] = np.where(table["a"] > 0, "=1+1", "-x")
    table.to_csv(tmp_path / "mine.csv", index=False)
    data = ["data=csv", "data.path=mine.csv", "data.target=kind"]
    ran = train(*data, "trainer.max_epochs=20", "logger=none")
    assert ran.code == 0, ran.err
    table[:20].to_csv(tmp_path / "mine.csv", index=False)
    answer = train("task=examples", f"ckpt_path={ran.folder}", *data)
    assert answer.code == 0, answer.err
    found = pd.read_csv(answer.folder / "examples.csv")
    assert sorted(found["row"]) == list(range(20))
    assert set(found["part"]) == {"file"}
    assert set(found["label"]) == {"'=1+1", "'-x"}
    assert (found["probability"] >= 0.5).all()
    table.drop(columns="kind").to_csv(tmp_path / "mine.csv", index=False)
    answer = train("task=examples", f"ckpt_path={ran.folder}", *data)
    assert answer.code == 2
    assert answer.err.count("\n") == 1


def test_independent_labels_have_a_column_each(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    table = table.assign(red=(table["a"] > 0) * 1, round=(table["b"] > 0) * 1)
    table.to_csv(tmp_path / "tags.csv", index=False)
    ran = train(
        *("data=csv", "data.path=tags.csv", "data.target=[red,round]"),
        *("trainer.max_epochs=2", "logger=none"),
    )
    assert ran.code == 0, ran.err
    answer = train("task=examples", f"ckpt_path={ran.folder}", "trainer.precision=64-true")
    assert answer.code == 0, answer.err
    found = pd.read_csv(answer.folder / "examples.csv").set_index("row").sort_index()
    assert {"probability_red", "prediction_round", "label_red", "label_round"} < set(found.columns)
    np.testing.assert_array_equal(found["label_red"], table["red"])
    np.testing.assert_array_equal(found["label_round"], table["round"])

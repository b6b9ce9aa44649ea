"""Five-fold accuracy beside scikit-learn's MLPClassifier, with its settings, on the same folds."""

import warnings
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier

from handgrad.data.examples import Examples, Source
from handgrad.data.module import ExampleData
from handgrad.data.sources import BreastCancer, Digits, Iris, Wine
from handgrad.module import TwoLayerNetwork
from handgrad.rules.feedback import closed_form

SETTINGS = {  # source, scale, hidden units, learning rate, epochs
    "digits": (Digits, "/16", 30, 0.5, 30),
    "breast_cancer": (BreastCancer, "standard", 10, 0.1, 50),
    "wine": (Wine, "standard", 10, 0.1, 50),
    "iris": (Iris, "standard", 5, 0.5, 100),
}


class Fold(Source):
    """The examples of a source with the given ones as the test part."""

    def __init__(self, examples: Examples, test: np.ndarray) -> None:
        self.examples, self.test = examples, test

    def read(self, known=None, *, target_required=True) -> Examples:
        parts = np.zeros(len(self.examples), dtype=np.int8)
        parts[self.test] = 2
        own = {field: getattr(self.examples, field) for field in ("X", "target", "class_names")}
        return Examples(**own, feature_names=self.examples.feature_names, splits=parts)


def our_accuracy(fold: Fold, scale: str, hidden: int, lr: float, epochs: int, seed: int) -> float:
    data = ExampleData(fold, batch_size=10, scale=scale, seed=seed).read()
    network = TwoLayerNetwork(
        fold.examples.X.shape[1],
        hidden,
        fold.examples.n_outputs,
        seed=seed,
        rule=closed_form,
        optimizer=partial(torch.optim.SGD, lr=lr),
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data.horizon = lambda done: 100
    trainer.fit(network, datamodule=data)
    trainer.test(network, datamodule=data, verbose=False)
    return network.published["accuracy/test"]


def its_accuracy(fold: Fold, scale: str, hidden: int, lr: float, epochs: int, seed: int) -> float:
    data = ExampleData(fold, batch_size=10, scale=scale, seed=seed).read()
    X = data.scaling.apply(fold.examples.X)
    train, test = data.indices["train"], data.indices["test"]
    classifier = MLPClassifier(
        (hidden,),
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=10,
        learning_rate_init=lr,
        momentum=0,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=epochs + 1,
        random_state=seed,
    )
    Y = fold.examples.encode(np.arange(len(X)))
    labels = Y[:, 0] if Y.shape[1] == 1 else Y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(X[train], labels[train])
    if Y.shape[1] == 1:
        return float((classifier.predict(X[test]) == labels[test]).mean())
    answers = classifier.predict_proba(X[test])
    return float((answers.argmax(axis=1) == Y[test].argmax(axis=1)).mean())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("name", SETTINGS)
def test_five_fold_accuracy_is_within_one_point_of_scikit_learn(name: str) -> None:
    source, *settings = SETTINGS[name]
    examples = source().read()
    ours, its = [], []
    for seed in range(3):
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        for _, test in folds.split(examples.X, examples.target):
            fold = Fold(examples, test)
            ours.append(our_accuracy(fold, *settings, seed))
            its.append(its_accuracy(fold, *settings, seed))
    print(f"{name}: ours {np.mean(ours):.2%}, scikit-learn {np.mean(its):.2%}")
    assert abs(np.mean(ours) - np.mean(its)) < 0.01

"""Contenders of other libraries: Lightning as its documentation shows it, scikit-learn, JAX."""

import importlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Sampler, TensorDataset
from typing_extensions import override

from handgrad.backprop import Parameters
from handgrad.devices.lightning import hide_hints
from handgrad.tasks.benchmark.workload import Contender, Timing, Workload


class _PlannedBatches(Sampler[list[int]]):
    """Draws the batches of the plan as lists of examples, one epoch after the other."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.done = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.work.plan.updates_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the next epoch."""
        plan, size = self.work.plan, self.work.shape.batch_size
        for _ in range(plan.passes):
            order = plan.order(self.done // plan.updates_per_pass)
            for rows in order.reshape(-1, size).tolist():
                self.done += 1
                yield rows


class _AutomaticModule(L.LightningModule):
    """A LightningModule as on the first page of Lightning's documentation, with the same cost."""

    def __init__(self, start: Parameters, learning_rate: float) -> None:
        super().__init__()
        W1, b1, W2, b2 = start
        self.hidden = nn.Linear(W1.shape[1], W1.shape[0])
        self.output = nn.Linear(W2.shape[1], W2.shape[0])
        self.learning_rate = learning_rate
        with torch.no_grad():
            for ours, first in zip(self.parameters(), (W1, b1, W2, b2), strict=True):
                ours.copy_(first)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        logits = self.output(torch.sigmoid(self.hidden(inputs)))
        cost = binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(inputs)
        self.log("cost/train", cost)
        return cost

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class LightningAutomatic(Contender):
    """Lightning with a DataLoader and self.log, without logger, progress bar and checkpoints."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        hide_hints()
        self.examples = TensorDataset(work.inputs, work.targets)

    @override
    def run(self, updates: int) -> Timing:
        module = _AutomaticModule(self.work.first_parameters(), self.work.learning_rate)
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=updates,
            max_epochs=-1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        loader = DataLoader(self.examples, batch_sampler=_PlannedBatches(self.work))
        start = time.perf_counter()
        trainer.fit(module, loader)
        seconds = time.perf_counter() - start
        return Timing(seconds, Parameters(*(tensor.detach() for tensor in module.parameters())))


class ScikitLearn(Contender):
    """MLPClassifier with plain SGD, and sigmoid outputs as for independent labels.

    Each pass over the data is one `partial_fit`, its rows in the plan's order. Full-batch descent
    is one `fit`. The classifier always computes the cost of each batch as well.
    """

    @override
    def run(self, updates: int) -> Timing:
        work = self.work
        inputs, targets = work.inputs.numpy(), work.targets.numpy().astype(int)
        if work.shape.out_features == 1:
            targets = targets[:, 0]
        network = self.untrained(inputs, targets, updates)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if work.shape.full:
                network.fit(inputs, targets)
            else:
                for order in work.orders(updates):
                    network.partial_fit(inputs[order], targets[order])
        seconds = time.perf_counter() - start
        (first, second), (b1, b2) = network.coefs_, network.intercepts_  # in the other orientation
        arrays = (first.T, b1, second.T, b2)
        return Timing(seconds, Parameters(*(torch.from_numpy(array) for array in arrays)))

    def untrained(self, inputs: np.ndarray, targets: np.ndarray, updates: int) -> MLPClassifier:
        """Return the classifier with the shared first parameters in place of its own."""
        network = MLPClassifier(
            (self.work.shape.hidden_features,),
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=self.work.shape.batch_size,  # pyright: ignore - its stub has the default's type
            learning_rate_init=self.work.learning_rate,
            max_iter=updates,
            shuffle=False,
            tol=0.0,
            momentum=0.0,
            nesterovs_momentum=False,
            n_iter_no_change=updates + 1,
            warm_start=True,
        )
        classes = np.arange(max(2, self.work.shape.out_features))
        first = slice(self.work.shape.batch_size)
        network.partial_fit(inputs[first], targets[first], classes=classes)  # allocates its arrays
        W1, b1, W2, b2 = (tensor.numpy() for tensor in self.work.first_parameters())
        arrays = (*network.coefs_, *network.intercepts_)
        for array, ours in zip(arrays, (W1.T, W2.T, b1, b2), strict=True):
            array[...] = ours
        return network


class Jax(Contender):
    """JAX, with the updates of a pass in one compiled scan that gathers each batch."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        jax: Any = importlib.import_module("jax")
        self.jnp: Any = importlib.import_module("jax.numpy")
        self.inputs = self.jnp.asarray(work.inputs.numpy())
        self.targets = self.jnp.asarray(work.targets.numpy())
        whole = work.shape.full

        def cost(params: Any, X: Any, Y: Any) -> Any:
            W1, b1, W2, b2 = params
            z2 = jax.nn.sigmoid(X @ W1.T + b1) @ W2.T + b2
            return (jax.nn.softplus(z2) - Y * z2).sum() / len(X)

        def update(params: Any, rows: Any) -> tuple[Any, None]:
            X, Y = self.inputs, self.targets
            if not whole:
                X, Y = X[rows], Y[rows]
            gradients = jax.grad(cost)(params, X, Y)
            step = jax.tree.map(lambda p, g: p - work.learning_rate * g, params, gradients)
            return step, None

        self.scan = jax.jit(lambda params, rows: jax.lax.scan(update, params, rows)[0])
        self.compiled: dict[int, Any] = {}  # by the number of updates in one scan

    @override
    def run(self, updates: int) -> Timing:
        work = self.work
        params = [self.jnp.asarray(tensor.numpy()) for tensor in work.first_parameters()]
        for rows in self.rows(updates):
            if len(rows) not in self.compiled:  # before the clock runs
                self.compiled[len(rows)] = self.scan.lower(params, rows).compile()
        start = time.perf_counter()
        for rows in self.rows(updates):
            params = self.compiled[len(rows)](params, rows)
        params = [np.array(array) for array in params]  # waits for the result
        seconds = time.perf_counter() - start
        return Timing(seconds, Parameters(*(torch.from_numpy(array) for array in params)))

    def rows(self, updates: int) -> Iterator[np.ndarray]:
        """Yield the examples of the updates of each pass, (updates, m)."""
        if self.work.shape.full:
            yield np.arange(updates, dtype=np.int32)[:, None]
            return
        for order in self.work.orders(updates):
            yield order.reshape(-1, self.work.shape.batch_size).astype(np.int32)

"""Bare loops: the hand-written step, autograd, compiled autograd, NumPy, matrix products alone."""

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import binary_cross_entropy_with_logits, linear
from typing_extensions import override

from handgrad.backprop import Activations, Gradients, Parameters, backward, forward
from handgrad.devices import cpu
from handgrad.tasks.benchmark.workload import Contender, Loop, Timing, Workload
from handgrad.training.capture import Captured
from handgrad.training.gradients import write
from handgrad.training.optimizers import GradientDescent


class HandWritten(Loop):
    """A bare loop of the project's equations, without Lightning."""

    @override
    @torch.no_grad()
    def train(self, params: Parameters, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        trained = [Parameter(tensor) for tensor in params]  # shares the storage
        params = Parameters(*trained)
        optimizer = GradientDescent(trained, self.work.learning_rate)

        def compute(X: Tensor, Y: Tensor) -> tuple[Activations, Gradients]:
            for parameter in trained:
                parameter.grad = None  # its memory serves this gradient
            activations = forward(params, X)
            return activations, backward(params, activations, X, Y)

        equations, shape = Captured(compute, params), self.work.shape
        sizes = (shape.batch_size, shape.in_features, shape.hidden_features)
        with cpu.one_thread(not cpu.are_worth_sharing(*sizes)):
            for X, Y in batches:
                write(trained, equations(X, Y)[1])
                optimizer.step()


def _mean_cost(params: Parameters, X: Tensor, Y: Tensor) -> Tensor:
    """Return the cross-entropy as one writes it for autograd."""
    W1, b1, W2, b2 = params
    logits = linear(torch.sigmoid(linear(X, W1, b1)), W2, b2)
    return binary_cross_entropy_with_logits(logits, Y, reduction="sum") / len(X)


class Autograd(Loop):
    """PyTorch's usual loop: zero_grad, cost, backward, step."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.mean_cost = _mean_cost

    @override
    def train(self, params: Parameters, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        params = Parameters(*(tensor.requires_grad_() for tensor in params))
        optimizer = torch.optim.SGD(params, self.work.learning_rate)
        for X, Y in batches:
            optimizer.zero_grad()
            self.mean_cost(params, X, Y).backward()
            optimizer.step()


class Compiled(Autograd):
    """PyTorch's usual loop with cost and backward pass compiled by torch.compile."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        torch.compiler.reset()  # forgets the previous shape: it stops compiling after eight
        self.mean_cost = torch.compile(_mean_cost, dynamic=False)


class Truth(Autograd):
    """Autograd in float64: the reference that all final weights are compared with."""

    dtype = torch.float64


class NumPy(Contender):
    """A bare loop of the same equations in NumPy."""

    @override
    def run(self, updates: int) -> Timing:
        W1, b1, W2, b2 = params = [t.numpy() for t in self.work.first_parameters()]
        rate, m = np.float32(self.work.learning_rate), np.float32(self.work.shape.batch_size)
        start = time.perf_counter()
        for inputs, targets in self.work.batches(updates):
            X, Y = inputs.numpy(), targets.numpy()
            A1 = 1 / (1 + np.exp(-(X @ W1.T + b1)))  # (m, n_h)
            A2 = 1 / (1 + np.exp(-(A1 @ W2.T + b2)))  # (m, n_y)
            dz2 = A2 - Y  # (m, n_y)
            dz1 = (dz2 @ W2) * A1 * (1 - A1)  # (m, n_h)
            W2 -= rate * (dz2.T @ A1 / m)  # (n_y, n_h)
            b2 -= rate * (dz2.sum(axis=0) / m)  # (n_y,)
            W1 -= rate * (dz1.T @ X / m)  # (n_h, n_x)
            b1 -= rate * (dz1.sum(axis=0) / m)  # (n_h,)
        seconds = time.perf_counter() - start
        return Timing(seconds, Parameters(*(torch.from_numpy(array) for array in params)))


class Products(Contender):
    """Lower bound: the five matrix products of an update on one batch, into kept storage."""

    @override
    def run(self, updates: int) -> Timing:
        W1, _, W2, _ = self.work.first_parameters()
        X, dz2 = next(self.work.batches(1))
        z1, z2 = X @ W1.T, dz2.clone()  # (m, n_h) (m, n_y)
        dW2, dz1, dW1 = torch.empty_like(W2), torch.empty_like(z1), torch.empty_like(W1)
        start = time.perf_counter()
        for _ in range(updates):
            torch.mm(X, W1.T, out=z1)  # (m, n_h)
            torch.mm(z1, W2.T, out=z2)  # (m, n_y)
            torch.mm(dz2.T, z1, out=dW2)  # (n_y, n_h)
            torch.mm(dz2, W2, out=dz1)  # (m, n_h)
            torch.mm(dz1.T, X, out=dW1)  # (n_h, n_x)
        return Timing(time.perf_counter() - start, None)

"""Independent references for the gradients, without any import of the package.

Each oracle takes W1, b1, W2, b2, X, Y (float64 tensors, examples in rows) and the cost's name, and
gives a dict of the cost "J" and the six gradients, oriented as PyTorch keeps them.
"""

import inspect
import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.nn import functional

Answer = dict[str, Tensor]
Oracle = Callable[..., Answer]


def column_textbook(
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: str
) -> Answer:
    """Compute the textbook's lines as printed: NumPy, one example a column, biases as columns."""
    sigma = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    W1_, W2_, X_, Y_ = W1.numpy(), W2.numpy(), X.numpy().T, Y.numpy().T
    b1_, b2_, m = b1.numpy()[:, None], b2.numpy()[:, None], X.shape[0]
    Z1 = W1_ @ X_ + b1_
    A1 = sigma(Z1)
    Z2 = W2_ @ A1 + b2_
    A2 = sigma(Z2)
    if cost == "cross_entropy":
        J = -(1 / m) * np.sum(Y_ * np.log(A2) + (1 - Y_) * np.log(1 - A2))
        dZ2 = A2 - Y_
    else:
        J = 1 / (2 * m) * np.sum((A2 - Y_) ** 2)
        dZ2 = (A2 - Y_) * sigma(Z2) * (1 - sigma(Z2))
    dW2 = (1 / m) * dZ2 @ A1.T
    db2 = (1 / m) * np.sum(dZ2, axis=1, keepdims=True)
    dZ1 = W2_.T @ dZ2 * (sigma(Z1) * (1 - sigma(Z1)))
    dW1 = (1 / m) * dZ1 @ X_.T
    db1 = (1 / m) * np.sum(dZ1, axis=1, keepdims=True)
    return as_tensors(
        {"J": J, "dz2": dZ2.T, "dW2": dW2, "db2": db2[:, 0]}
        | {"dz1": dZ1.T, "dW1": dW1, "db1": db1[:, 0]}
    )


def per_example_loop(
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: str
) -> Answer:
    """Compute one example, one unit and one weight at a time, in Python's floats."""
    sigma = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    m, inputs, hidden, outputs = len(X), range(X.shape[1]), range(len(b1)), range(len(b2))
    gradients = {"dW2": torch.zeros_like(W2), "db2": torch.zeros_like(b2)}
    gradients |= {"dW1": torch.zeros_like(W1), "db1": torch.zeros_like(b1)}
    dz2, dz1 = torch.zeros_like(Y), X.new_zeros(m, len(b1))
    J = 0.0
    for i, (x, y) in enumerate(zip(X.tolist(), Y.tolist(), strict=True)):
        a1 = [sigma(sum(float(W1[j, k]) * x[k] for k in inputs) + float(b1[j])) for j in hidden]
        a2 = [sigma(sum(float(W2[o, j]) * a1[j] for j in hidden) + float(b2[o])) for o in outputs]
        for o in outputs:
            if cost == "cross_entropy":
                J -= (y[o] * math.log(a2[o]) + (1 - y[o]) * math.log(1 - a2[o])) / m
                # the chain rule: dJ/da times da/dz
                by_answer = (1 - y[o]) / (1 - a2[o]) - y[o] / a2[o]
            else:
                J += (a2[o] - y[o]) ** 2 / (2 * m)
                by_answer = a2[o] - y[o]
            dz2[i, o] = by_answer * a2[o] * (1 - a2[o])
            gradients["db2"][o] += dz2[i, o] / m
            for j in hidden:
                gradients["dW2"][o, j] += dz2[i, o] * a1[j] / m
        for j in hidden:
            back = sum(float(dz2[i, o] * W2[o, j]) for o in outputs)
            dz1[i, j] = back * a1[j] * (1 - a1[j])
            gradients["db1"][j] += dz1[i, j] / m
            for k in inputs:
                gradients["dW1"][j, k] += dz1[i, j] * x[k] / m
    return {"J": torch.tensor(J, dtype=torch.float64), "dz2": dz2, "dz1": dz1, **gradients}


def autograd_on_logits(
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: str
) -> Answer:
    """Differentiate PyTorch's own layers and losses by PyTorch."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (W1, b1, W2, b2)]
    z1 = functional.linear(X, leaves[0], leaves[1])
    z2 = functional.linear(torch.sigmoid(z1), leaves[2], leaves[3])
    if cost == "cross_entropy":
        total = functional.binary_cross_entropy_with_logits(z2, Y, reduction="sum")
    else:
        total = functional.mse_loss(torch.sigmoid(z2), Y, reduction="sum") / 2
    dz2, dz1, *rest = torch.autograd.grad(total, [z2, z1, *leaves])
    names = ("dW1", "db1", "dW2", "db2")
    means = {name: sums / len(X) for name, sums in zip(names, rest, strict=True)}
    return {"J": total.detach() / len(X), "dz2": dz2, "dz1": dz1, **means}


def scikit_learn(
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, X: Tensor, Y: Tensor, cost: str
) -> Answer:
    """Call scikit-learn's private MLPClassifier._backprop, with independent sigmoids as outputs."""
    assert cost == "cross_entropy", "scikit-learn's classifier has no other cost"
    network = MLPClassifier(hidden_layer_sizes=(len(b1),), activation="logistic", alpha=0.0)
    network.n_layers_, network.n_outputs_ = 3, len(b2)
    network.out_activation_, network.loss = "logistic", "log_loss"
    network.coefs_ = [W1.numpy().T, W2.numpy().T]
    network.intercepts_ = [b1.numpy(), b2.numpy()]
    buffers = {"activations": [X.numpy(), None, None], "deltas": [None, None]}
    buffers |= {"coef_grads": [None, None], "intercept_grads": [None, None]}
    if "sample_weight" in inspect.signature(network._backprop).parameters:  # since 1.7
        buffers["sample_weight"] = None
    J, (dW1, dW2), (db1, db2) = network._backprop(X=X.numpy(), y=Y.numpy(), **buffers)
    dz1, dz2 = buffers["deltas"]
    return as_tensors(
        {"J": J, "dz2": dz2, "dW2": dW2.T, "db2": db2, "dz1": dz1, "dW1": dW1.T, "db1": db1}
    )


def as_tensors(answer: dict[str, np.ndarray]) -> Answer:
    return {name: torch.from_numpy(np.array(value)) for name, value in answer.items()}

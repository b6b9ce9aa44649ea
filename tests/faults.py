"""Backward rules that bring one device down, as `backward.function`, after some updates."""

import os
import random
import signal
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handgrad import backprop
from handgrad.backprop import Activations, Gradients, Parameters

CALLS = count(1)
AT, DEVICE = 6, "1"


def now() -> bool:
    """Whether this device's time has come."""
    return next(CALLS) == AT and os.environ.get("LOCAL_RANK") == DEVICE


def wait_until_sent() -> None:
    """Say that a signal may come, and go on when it has."""
    Path("waiting").touch()
    deadline = time.monotonic() + 60
    while not Path("sent").exists():
        assert time.monotonic() < deadline, "no signal was sent"
        time.sleep(0.01)


def raises(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():
        raise ZeroDivisionError("the planted error")
    return backprop.backward(params, activations, X, Y)


def is_killed(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():
        os.kill(os.getpid(), signal.SIGKILL)
    return backprop.backward(params, activations, X, Y)


def hangs(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():
        os.kill(os.getpid(), signal.SIGSTOP)
    return backprop.backward(params, activations, X, Y)


def exits_0(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():
        os._exit(0)
    return backprop.backward(params, activations, X, Y)


def exits_3(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():
        sys.exit(3)
    return backprop.backward(params, activations, X, Y)


def takes_a_moment(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if next(CALLS) == AT:
        wait_until_sent()
    return backprop.backward(params, activations, X, Y)


def takes_long(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if next(CALLS) == AT:
        Path("waiting").touch()
        time.sleep(60)
    return backprop.backward(params, activations, X, Y)


def drifts(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    if now():  # by the last bits of W2, of which the update's rounding leaves some
        W2 = params.W2.data
        W2.copy_(torch.nextafter(W2, W2 + 1))
    return backprop.backward(params, activations, X, Y)


def is_wrong(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    right = backprop.backward(params, activations, X, Y)
    late = next(CALLS) >= AT and os.environ.get("LOCAL_RANK") == DEVICE
    return right._replace(dW2=2 * right.dW2) if late else right


def draws(params: Parameters, activations: Activations, X: Tensor, Y: Tensor) -> Gradients:
    """Take a step of another length for every batch, from each of the generators."""
    right = backprop.backward(params, activations, X, Y)
    length = float(torch.rand(())) + float(np.random.rand()) + random.random()
    return right._replace(dW2=length * right.dW2)

"""Training: the same weights as a plain PyTorch loop over the same batches, whatever is asked."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import oracles
import pytest
import torch
from conftest import composed, fit
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn
from torch.nn import functional

from handgrad import backprop
from handgrad.backprop import Parameters
from handgrad.data.module import ExampleData
from handgrad.module import TwoLayerNetwork
from handgrad.tasks import build

# 96 examples for training, 4 -> 5 -> 3; batches of 9 leave a short last one of 6
IRIS = ("data=iris", "model.hidden=5", "data.batch_size=9", "trainer.max_epochs=3")
WIDE = (*IRIS, "trainer.precision=64-true")
UPDATES = 11  # of an epoch

Step = Callable[[Any], torch.optim.Optimizer]


def built(*overrides: str) -> tuple[TwoLayerNetwork, ExampleData]:
    """A network before its training, and its data."""
    config = composed(*overrides)
    data = build.data(config).read()
    data.setup("fit")
    return build.network(config, data), data


def layers(network: TwoLayerNetwork) -> nn.Sequential:
    """PyTorch's own layers with the network's weights, in float64."""
    n_h, n_x = network.W1.shape
    made = nn.Sequential(
        nn.Linear(n_x, n_h), nn.Sigmoid(), nn.Linear(n_h, len(network.W2)), nn.Sigmoid()
    ).double()
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    made.load_state_dict(
        {name: param.detach() for name, param in zip(names, network.params, strict=True)}
    )
    return made


def summed_cost(network: nn.Sequential, X: Tensor, Y: Tensor, cost: str) -> Tensor:
    """The cost of all examples together, which autograd can differentiate."""
    z2 = network[:3](X)
    if cost == "quadratic":
        return functional.mse_loss(z2.sigmoid(), Y, reduction="sum") / 2
    return functional.binary_cross_entropy_with_logits(z2, Y, reduction="sum")


def plain_loop(
    *overrides: str,
    optimizer: Step,
    window: int = 9,
    epochs: int = 3,
    clip: float | None = None,
    cost: str = "cross_entropy",
) -> tuple[nn.Sequential, list[float]]:
    """Train by autograd in a plain PyTorch loop; gives the cost of each epoch as well."""
    start, data = built(*overrides)
    network = layers(start)
    X, Y = (tensor.double() for tensor in data.splits["train"].rows(slice(None)))
    step, costs = optimizer(network), []
    for epoch in range(epochs):
        before: list[float] = []
        for rows in torch.from_numpy(data.plan().order(epoch)).split(window):

            def closure(rows: Tensor = rows, before: list[float] = before) -> Tensor:
                step.zero_grad()
                J = summed_cost(network, X[rows], Y[rows], cost) / len(rows)
                J.backward()
                if clip:
                    nn.utils.clip_grad_norm_(network.parameters(), clip)
                return J

            before.append(summed_cost(network, X[rows], Y[rows], cost).item())
            step.step(closure)
        costs.append(sum(before) / len(X))
    return network, costs


def assert_same(network: TwoLayerNetwork, expected: nn.Sequential, rtol: float = 1e-10) -> None:
    for name, mine, its in zip(
        Parameters._fields, network.params, expected.parameters(), strict=True
    ):
        torch.testing.assert_close(
            mine.double(), its, rtol=rtol, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_bitwise(first: TwoLayerNetwork, second: TwoLayerNetwork) -> None:
    for name, mine, its in zip(Parameters._fields, first.params, second.params, strict=True):
        assert torch.equal(mine, its), name


# One step


@pytest.mark.parametrize("cost", ["cross_entropy", "quadratic"])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_one_step_of_sgd_is_exactly_the_textbooks(cost: str, precision: str) -> None:
    alpha = 0.25  # a power of two: alpha dW is exact
    overrides = (*IRIS, f"cost={cost}", f"trainer.precision={precision}", "optimizer.lr=0.25")
    overrides += ("model.init=nielsen_small",)  # biases that are not zero
    start, data = built(*overrides)
    X, Y = data.splits["train"].rows(slice(None))
    rows = torch.from_numpy(data.plan().order(0)[:9])
    X, Y = X[rows], Y[rows]
    W1, b1, W2, b2 = (parameter.detach().to(X.dtype) for parameter in start.params)
    params = Parameters(W1, b1, W2, b2)
    activations = backprop.forward(params, X)
    _, dW2, db2, _, dW1, db1 = backprop.backward(
        params, activations, X, Y, dz2=getattr(backprop, f"{cost}_dz2")
    )

    network = fit(*overrides, "trainer.max_steps=1").network

    assert torch.equal(network.W1, W1 - alpha * dW1)
    assert torch.equal(network.b1, b1 - alpha * db1)
    assert torch.equal(network.W2, W2 - alpha * dW2)
    assert torch.equal(network.b2, b2 - alpha * db2)
    wide = [tensor.double() for tensor in (W1, b1, W2, b2, X, Y)]
    textbook = oracles.column_textbook(*wide, cost)
    close = (
        {"rtol": 1e-11, "atol": 1e-13} if precision == "64-true" else {"rtol": 1e-4, "atol": 1e-6}
    )
    for mine, name, before in zip(network.params, ("dW1", "db1", "dW2", "db2"), wide, strict=False):
        torch.testing.assert_close(mine.double(), before - alpha * textbook[name], **close)


# Optimizers against plain PyTorch

OPTIMIZERS: dict[str, tuple[tuple[str, ...], Step]] = {
    "sgd": (("optimizer=sgd",), lambda net: torch.optim.SGD(net.parameters(), lr=0.5)),
    "momentum": (
        ("optimizer=momentum", "optimizer.lr=0.05"),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
    ),
    "nesterov": (
        ("optimizer=nesterov", "optimizer.lr=0.05"),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    ),
    "adam": (
        ("optimizer=adam", "optimizer.lr=0.02"),
        lambda net: torch.optim.Adam(net.parameters(), lr=0.02),
    ),
    "adamw": (
        ("optimizer=adamw", "optimizer.lr=0.02", "optimizer.weight_decay=0"),
        lambda net: torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.0),
    ),
}


@pytest.mark.parametrize(("overrides", "optimizer"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_is_a_plain_pytorch_loop(overrides: tuple[str, ...], optimizer: Step) -> None:
    fitted = fit(*WIDE, *overrides)
    expected, costs = plain_loop(*WIDE, *overrides, optimizer=optimizer)
    assert_same(fitted.network, expected)
    assert fitted.network.published["cost/train"] == pytest.approx(costs[-1], rel=1e-10)


def decaying(kind: Any, decay: float, **rest: float) -> Step:
    def make(net: nn.Sequential) -> torch.optim.Optimizer:
        weights, biases = [net[0].weight, net[2].weight], [net[0].bias, net[2].bias]
        groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0}]
        return kind(groups, **rest)

    return make


@pytest.mark.parametrize(
    ("overrides", "optimizer"),
    [
        (("optimizer=sgd",), decaying(torch.optim.SGD, 0.1, lr=0.5)),
        (("optimizer=adam", "optimizer.lr=0.02"), decaying(torch.optim.Adam, 0.1, lr=0.02)),
        (("optimizer=adamw", "optimizer.lr=0.02"), decaying(torch.optim.AdamW, 0.1, lr=0.02)),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_weights_decay_and_biases_do_not(overrides: tuple[str, ...], optimizer: Step) -> None:
    fitted = fit(*WIDE, *overrides, "optimizer.weight_decay=0.1")
    assert_same(fitted.network, plain_loop(*WIDE, *overrides, optimizer=optimizer)[0])


@pytest.mark.parametrize("line_search", ["strong_wolfe", "null"])
def test_lbfgs_is_pytorchs_on_the_full_batch(line_search: str) -> None:
    overrides = (*WIDE, "data.batch_size=full", "optimizer=lbfgs", "optimizer.max_iter=6")
    overrides += (f"optimizer.line_search_fn={line_search}", "optimizer.lr=0.5")
    search = None if line_search == "null" else line_search
    fitted = fit(*overrides)
    expected, costs = plain_loop(
        *overrides,
        optimizer=lambda net: torch.optim.LBFGS(
            net.parameters(), lr=0.5, max_iter=6, history_size=100, line_search_fn=search
        ),
        window=96,
    )
    assert_same(fitted.network, expected, rtol=1e-7)
    assert fitted.network.published["cost/train"] == pytest.approx(costs[-1], rel=1e-7)
    assert fitted.trainer.global_step == 3  # updates, however many evaluations each took


@pytest.mark.parametrize("norm", [0.05, 0.5, 50.0])
def test_clipping_bounds_the_norm_of_the_whole_gradient(norm: float) -> None:
    fitted = fit(*WIDE, f"optimizer.clip_norm={norm}", "optimizer.accumulate=2")
    expected, _ = plain_loop(*WIDE, optimizer=OPTIMIZERS["sgd"][1], window=18, clip=norm)
    assert_same(fitted.network, expected)


def test_the_quadratic_cost_trains_as_autograd_says() -> None:
    fitted = fit(*WIDE, "cost=quadratic")
    expected, costs = plain_loop(*WIDE, optimizer=OPTIMIZERS["sgd"][1], cost="quadratic")
    assert_same(fitted.network, expected)
    assert fitted.network.published["cost/train"] == pytest.approx(costs[-1], rel=1e-10)


# Batches in pieces


@pytest.mark.parametrize("accumulate", [2, 4, 11, 20])  # of 11 batches: all with a short window
def test_accumulated_batches_are_one_batch_as_large(accumulate: int) -> None:
    apart = fit(*WIDE, f"optimizer.accumulate={accumulate}")
    together, _ = plain_loop(*WIDE, optimizer=OPTIMIZERS["sgd"][1], window=9 * accumulate)
    assert_same(apart.network, together)
    assert apart.trainer.global_step == 3 * math.ceil(UPDATES / accumulate)


@pytest.mark.parametrize("microbatch", [1, 2, 5, 9, 100])
def test_microbatches_are_the_whole_batch(microbatch: int) -> None:
    pieces, whole = fit(*WIDE, f"data.microbatch={microbatch}"), fit(*WIDE)
    assert_same(pieces.network, layers(whole.network), rtol=1e-12)
    mine, its = pieces.network.published, whole.network.published
    assert mine == pytest.approx(its, rel=1e-12)


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (("model.hidden=16",), 2**19 // 16),
        (("model.hidden=4096",), 1000),
        (("model.hidden=4096", "data.microbatch=null"), None),
        (("model.hidden=4096", "data.microbatch=7"), 7),
        (("model.hidden=4096", "trainer.precision=64-true"), 1000),
    ],
)
def test_a_processor_computes_what_its_cache_holds(
    overrides: tuple[str, ...], rows: int | None
) -> None:
    assert build.data(composed("data=iris", *overrides)).microbatch == rows


def test_training_calls_the_rule_itself() -> None:
    """Not Hydra's guard of it, which would cost more than a small network's update."""
    network, _ = built(*IRIS)
    assert type(network.updates.rule) is functools.partial
    assert network.updates.rule.func is backprop.backward


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_blocks_of_updates_are_bitwise_one_update_at_a_time(optimizer: str) -> None:
    overrides = (*IRIS, f"optimizer={optimizer}", "optimizer.accumulate=2")
    assert_bitwise(fit(*overrides).network, fit(*overrides, one_by_one=True).network)


@pytest.mark.parametrize("log", [1, 4, 7, 1000])
def test_logging_does_not_change_the_training(log: int) -> None:
    assert_bitwise(fit(*IRIS, f"trainer.log_every_n_steps={log}").network, fit(*IRIS).network)


def test_full_batch_descent_makes_an_update_a_pass() -> None:
    overrides = (*WIDE, "data.batch_size=full")
    fitted = fit(*overrides, "data.passes_per_epoch=2", "trainer.max_epochs=2")
    expected, _ = plain_loop(*overrides, optimizer=OPTIMIZERS["sgd"][1], window=96, epochs=4)
    assert_same(fitted.network, expected)
    assert fitted.trainer.global_step == 4


@pytest.mark.parametrize(
    ("overrides", "updates"),
    [
        ((), 3 * UPDATES),
        (("trainer.max_steps=7",), 7),
        (("trainer.max_steps=22",), 22),
        (("trainer.max_steps=23",), 23),
        (("trainer.max_epochs=-1", "trainer.max_steps=50"), 50),
        (("data.passes_per_epoch=2",), 6 * UPDATES),
        (("trainer.limit_train_batches=4",), 12),
        (("trainer.limit_train_batches=0.5",), 15),
        (("trainer.limit_train_batches=0.01",), 3),
        (("trainer.limit_train_batches=1.0",), 3 * UPDATES),
        (("trainer.fast_dev_run=true",), 1),
        (("trainer.fast_dev_run=3",), 3),
        (("trainer.min_epochs=2", "trainer.max_steps=7"), 7),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_number_of_updates_is_exact(overrides: tuple[str, ...], updates: int) -> None:
    assert fit(*IRIS, *overrides).trainer.global_step == updates


# Learning rates


class Watch(L.Callback):
    """Notes the learning rate of every update, and what each validation says."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.validated: list[int] = []  # updates done
        self.monitored: list[dict[str, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        step = optimizer.step

        @functools.wraps(step)
        def noted(*arguments: Any) -> Any:
            self.rates.append(optimizer.param_groups[0]["lr"])
            return step(*arguments)

        optimizer.step = noted

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated.append(trainer.global_step)
        self.monitored.append(dict(pl_module.published))


def rates(*overrides: str) -> list[float]:
    watch = Watch()
    fit(*IRIS, "trainer.max_epochs=6", *overrides, callbacks=[watch])
    assert len(watch.rates) == 6 * UPDATES
    return watch.rates


SCHEDULES: dict[str, tuple[tuple[str, ...], Callable[[int], float]]] = {
    "none": ((), lambda n: 1.0),
    "step": (("scheduler.step_size=2", "scheduler.gamma=0.5"), lambda n: 0.5 ** (n // 2)),
    "exponential": (("scheduler.gamma=0.9",), lambda n: 0.9**n),
    "cosine": (("scheduler.T_max=70",), lambda n: (1 + math.cos(math.pi * n / 70)) / 2),
}


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_follow_the_schedule(name: str, interval: str) -> None:
    overrides, factor = SCHEDULES[name]
    found = rates(f"scheduler={name}", f"scheduler.interval={interval}", *overrides)
    every = 1 if interval == "step" else UPDATES
    wanted = [0.5 * factor(update // every) for update in range(6 * UPDATES)]
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("monitor", "sign"), [("cost/val", 1), ("accuracy/val", -1)])
def test_the_rate_falls_where_the_monitored_figure_stays(monitor: str, sign: int) -> None:
    watch = Watch()
    fit(
        *IRIS,
        "trainer.max_epochs=12",
        "optimizer.lr=4",
        "scheduler=plateau",
        "scheduler.patience=1",
        f"scheduler.monitor={monitor}",
        f"scheduler.mode={'min' if sign == 1 else 'max'}",
        callbacks=[watch],
    )
    rate, best, bad, wanted = 4.0, math.inf, 0, []
    for figure in (sign * figures[monitor] for figures in watch.monitored):
        wanted += [rate] * UPDATES
        if figure < best - 1e-4 * (abs(best) if math.isfinite(best) else 0):
            best, bad = figure, 0
        else:
            bad += 1
        if bad > 1:
            rate, bad = rate * 0.5, 0
    assert watch.rates == pytest.approx(wanted)
    assert rate < 4.0, "the figures never stayed: the test shows nothing"


@pytest.mark.parametrize("every", [4, 11, 25])
def test_validation_comes_every_so_many_updates(every: int) -> None:
    watch = Watch()
    fit(*IRIS, f"trainer.val_check_interval={every}", callbacks=[watch])
    assert watch.validated == [*range(every, 34, every)]  # 3 epochs of 11 updates


# Precision, compilation, rules


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)]
)
def test_bfloat16_trains_close_to_float32(precision: str, dtype: torch.dtype) -> None:
    overrides = (*IRIS, "trainer.max_epochs=8", "optimizer.lr=0.5")
    half = fit(*overrides, f"trainer.precision={precision}").network
    single = fit(*overrides).network
    for mine, its in zip(half.params, single.params, strict=True):
        assert mine.dtype == dtype
        assert torch.isfinite(mine).all()
        assert (mine - its).norm() < 0.1 * its.norm()
        assert not torch.equal(mine.float(), its)
    assert half.published["cost/val"] == pytest.approx(single.published["cost/val"], rel=0.1)


def test_float64_trains_in_float64_and_close_to_float32() -> None:
    wide, single = fit(*WIDE).network, fit(*IRIS).network
    assert {parameter.dtype for parameter in wide.params} == {torch.float64}
    for mine, its in zip(wide.params, single.params, strict=True):
        torch.testing.assert_close(mine.float(), its, rtol=1e-4, atol=1e-5)
        assert not torch.equal(mine.float().double(), mine)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # inside PyTorch's compiler
def test_compiled_training_is_the_same() -> None:
    compiled = fit(*WIDE, "model.compile=true")
    assert_same(compiled.network, layers(fit(*WIDE).network), rtol=1e-11)


def test_the_autograd_rule_trains_the_same_network() -> None:
    reference = fit(*WIDE, "backward=autograd")
    assert_same(reference.network, layers(fit(*WIDE).network), rtol=1e-11)


def test_ones_own_rule_trains_and_sees_no_autograd(tmp_path: Path) -> None:
    (tmp_path / "twice_as_fast.py").write_text(
        "import torch\n"
        "from handgrad import backprop\n"
        "def rule(params, activations, X, Y):\n"
        "    assert not torch.is_grad_enabled()\n"
        "    right = backprop.backward(params, activations, X, Y)\n"
        "    return backprop.Gradients(*(2 * gradient for gradient in right))\n"
    )
    own = fit(*IRIS, "backward=custom", "backward.function=twice_as_fast.rule", "optimizer.lr=0.25")
    assert_bitwise(own.network, fit(*IRIS, "optimizer.lr=0.5").network)


# What is trained


def test_the_state_dict_has_the_textbooks_names() -> None:
    network, _ = built(*IRIS)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {"W1": (5, 4), "b1": (5,), "W2": (3, 5), "b2": (3,)}


def test_the_weights_fit_pytorchs_own_layers() -> None:
    fitted = fit(*WIDE)
    X, _ = fitted.data.splits["test"].rows(slice(None))
    with torch.no_grad():
        A2 = fitted.network(X)
        torch.testing.assert_close(A2, layers(fitted.network)(X), rtol=1e-13, atol=1e-15)
    assert A2.shape == (30, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_alone_decides(seed: int) -> None:
    torch.manual_seed(11)
    first = fit(*IRIS, f"seed={seed}")
    torch.manual_seed(12)
    assert_bitwise(first.network, fit(*IRIS, f"seed={seed}").network)
    other = fit(*IRIS, f"seed={seed + 5}")
    assert not torch.equal(first.network.W1, other.network.W1)
    assert first.data.indices["test"].tolist() != other.data.indices["test"].tolist()


# Cost and accuracy


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])  # three outputs, and one
def test_cost_and_accuracy_are_those_of_scikit_learn(name: str) -> None:
    fitted = fit(*WIDE, f"data={name}", "trainer.max_epochs=2")
    fitted.trainer.test(fitted.network, datamodule=fitted.data, verbose=False)
    for part in ("val", "test"):
        X, Y = fitted.data.splits[part].rows(slice(None))
        with torch.no_grad():
            A2 = layers(fitted.network)(X).numpy()
        truth = Y.numpy()
        cost = sum(log_loss(truth[:, k], A2[:, k], labels=[0, 1]) for k in range(truth.shape[1]))
        decide = (lambda y: y[:, 0] > 0.5) if name == "breast_cancer" else (lambda y: y.argmax(1))
        assert fitted.network.published[f"cost/{part}"] == pytest.approx(cost, rel=1e-11)
        assert fitted.network.published[f"accuracy/{part}"] == accuracy_score(
            decide(truth), decide(A2)
        )


def test_a_multi_label_example_is_right_when_all_its_labels_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    Y = (X[:, :3] + 0.3 * rng.normal(size=(200, 3)) > 0).astype(float)
    np.savez(tmp_path / "labels.npz", X=X, y=Y)
    fitted = fit("data=npz", f"data.path={tmp_path}/labels.npz", "trainer.precision=64-true")
    X_val, Y_val = fitted.data.splits["val"].rows(slice(None))
    assert Y_val.shape == (32, 3)
    with torch.no_grad():
        answers = fitted.network(X_val) > 0.5
    right = (answers == (Y_val > 0.5)).all(dim=1).double().mean().item()
    assert fitted.network.published["accuracy/val"] == pytest.approx(right)
    assert right > 0.6

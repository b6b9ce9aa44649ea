"""16-mixed: a scaled dz2, its division before clipping, and the step that an overflow leaves out.

The CPU stands in for a GPU: the same plugin, the same autocast, a real scaler.
"""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import composed
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from handgrad.backprop import Cost, Parameters, backward, cross_entropy, forward
from handgrad.config.errors import BadInput
from handgrad.config.validate import validate
from handgrad.module import TwoLayerNetwork
from handgrad.rules.feedback import closed_form
from handgrad.tasks import build
from handgrad.training.gradients import LossScale

OVERRIDES = (
    *("logger=none", "trainer.enable_progress_bar=false", "data=iris", "data.batch_size=20"),
    *("trainer.max_epochs=4", "trainer.limit_val_batches=0", "optimizer.lr=0.5"),
    "trainer.precision=bf16-mixed",
)


class Started(L.Callback):
    """Does something when the training starts."""

    def __init__(self, act: Callable[[TwoLayerNetwork], None]) -> None:
        self.act = act

    def on_train_start(self, trainer: L.Trainer, pl_module: TwoLayerNetwork) -> None:
        self.act(pl_module)


def trained(
    *overrides: str, scaler: GradScaler | None, act: Callable[[TwoLayerNetwork], None] | None = None
) -> TwoLayerNetwork:
    """Train under autocast to float16, as 16-mixed does on a GPU."""
    config = composed(*OVERRIDES, *overrides)
    data = build.data(config).read()
    network = build.network(config, data)
    extra = [Started(act)] if act else []
    trainer = build.trainer(config, Path("none"), extra=extra)
    if config["trainer"]["precision"] == "bf16-mixed":  # stands for 16-mixed, refused on the CPU
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler or GradScaler("cpu"))
        plugin.scaler = scaler
        trainer.strategy.precision_plugin = plugin
    trainer.fit(network, datamodule=data)
    return network


def flat(network: TwoLayerNetwork) -> Tensor:
    return torch.cat([each.detach().flatten() for each in network.params])


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.clip_norm=0.02",),
        ("optimizer.accumulate=3", "data.microbatch=7"),
        ("optimizer=adam", "optimizer.lr=0.01", "cost=quadratic"),
        ("backward=autograd",),
        ("backward=feedback_alignment",),
    ],
    ids=" ".join,
)
def test_a_loss_scale_changes_nothing_where_nothing_underflows(overrides: tuple[str, ...]) -> None:
    scaled = trained(*overrides, scaler=GradScaler("cpu", init_scale=2.0**7, growth_interval=3))
    plain = trained(*overrides, scaler=None)
    exact = trained(*overrides, "trainer.precision=32-true", scaler=None)
    assert scaled.updates.loss_scale is not None
    assert scaled.updates.loss_scale.value > 2.0**7  # it has grown on the way
    assert (flat(scaled) - flat(plain)).norm() <= 2e-3 * flat(plain).norm()
    assert 1e-7 < (flat(plain) - flat(exact)).norm() / flat(exact).norm() < 2e-2  # it is float16


def test_scaled_gradients_keep_what_float16_loses() -> None:
    generator = torch.Generator().manual_seed(3)
    W1, W2 = torch.randn(4, 5, generator=generator), torch.randn(3, 4, generator=generator)
    params = Parameters(W1, torch.full((4,), -7.0), W2 / 10000, torch.zeros(3))  # dz1 of about 1e-8
    X, Y = torch.rand(6, 5, generator=generator), torch.rand(6, 3, generator=generator)
    double = Parameters(*(each.double() for each in params))
    true = backward(double, forward(double, X.double()), X.double(), Y.double()).dW1

    def half(cost: Cost) -> Tensor:
        with torch.autocast("cpu", dtype=torch.half):
            dW1 = closed_form(cost)(params, forward(params, X), X, Y).dW1
        assert dW1.dtype == torch.half
        return dW1.double()

    loss_scale = LossScale(GradScaler("cpu", init_scale=2.0**16))
    kept = half(loss_scale.scaled(cross_entropy)) / 2.0**16
    assert (half(cross_entropy) - true).norm() > 0.1 * true.norm()
    assert (kept - true).norm() < 0.01 * true.norm()


def test_an_overflow_leaves_the_weights_alone_and_halves_the_scale() -> None:
    start: list[Tensor] = []

    def remember(network: TwoLayerNetwork) -> None:
        start.append(flat(network))

    scaler = GradScaler("cpu", init_scale=2.0**60)
    network = trained("trainer.max_steps=3", scaler=scaler, act=remember)
    assert torch.equal(flat(network), start[0])
    assert scaler.get_scale() == 2.0**57
    assert network.updates.loss_scale is not None
    assert network.updates.loss_scale.value == 2.0**57
    assert network.updates.result is None  # nothing for the checks to judge
    assert network.trainer.global_step == 3


def test_clipping_comes_after_the_division() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    loss_scale = LossScale(GradScaler("cpu", init_scale=1024.0))
    assert loss_scale.scaler.scale(torch.tensor(1.0)) == 1024.0
    parameter.grad = 1024.0 * torch.tensor([3.0, 4.0])

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)

    assert loss_scale.step(optimizer, clip)
    assert torch.allclose(parameter.detach(), torch.tensor([1.0 - 0.6, 2.0 - 0.8]))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("trainer=cpu",), "trainer.accelerator=cpu"),
        (("trainer=mps",), "trainer.accelerator=mps"),
        (("trainer=gpu", "optimizer=lbfgs"), "optimizer=lbfgs"),
        (("trainer=gpu", "backward=flat_spot"), "backward=flat_spot"),
        (("trainer=gpu", "model.compile=true"), "model.compile=true"),
    ],
)
def test_sixteen_mixed_is_refused_where_it_cannot_be(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(BadInput, match=key):
        validate(composed("trainer.precision=16-mixed", *overrides))
    validate(composed("trainer.precision=16-mixed", "trainer=gpu"))


def test_sixteen_mixed_without_a_gpu_is_refused_when_the_accelerator_is_found() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = composed("trainer.precision=16-mixed", "trainer.accelerator=auto", "logger=none")
    with pytest.raises(BadInput, match="16-mixed requires a GPU"):
        build.trainer(config, Path("none"), extra=[])

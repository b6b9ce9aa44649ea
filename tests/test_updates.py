"""One update needs no Lightning: a plain loop that drives `Updates` trains the same network."""

from functools import partial
from typing import Any

import pytest
import torch
from conftest import fit
from torch.optim import optimizer as of_all_optimizers

from handgrad.backprop import Parameters, cross_entropy
from handgrad.data.batches import TrainingBlocks
from handgrad.rules import closed_form
from handgrad.training import optimizers
from handgrad.training.initialization import initialize
from handgrad.training.nonfinite import NonFinite
from handgrad.training.optimizers import GradientDescent
from handgrad.training.updates import Updates, UpdateSettings

IRIS = ("data=iris", "data.batch_size=20", "model.hidden=5", "dashboard=off", "optimizer.lr=0.3")


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        ((), UpdateSettings(weight_decay=0.0)),
        (("optimizer.clip_norm=0.05",), UpdateSettings(weight_decay=0.0, clip_norm=0.05)),
        (("optimizer.weight_decay=0.1",), UpdateSettings(weight_decay=0.1)),
        (("optimizer.accumulate=2", "data.microbatch=7"), UpdateSettings(weight_decay=0.0)),
    ],
    ids=["plain", "clipped", "decayed", "accumulated"],
)
def test_a_plain_loop_ends_at_the_trainers_weights(
    overrides: tuple[str, ...], settings: UpdateSettings
) -> None:
    trained = fit(*IRIS, "trainer.max_epochs=3", *overrides)
    first = initialize("xavier", 4, 5, 3, generator=torch.Generator().manual_seed(0))
    params = Parameters(*(torch.nn.Parameter(each) for each in first))
    plan = trained.data.plan()
    updates = Updates(params, cross_entropy, closed_form, settings)
    optimizer = updates.build_optimizer(partial(GradientDescent, lr=0.3))
    updates.start(optimizer, updates_per_epoch=plan.updates_per_epoch)
    split = trained.data.splits["train"]
    for _ in range(3):
        for block in TrainingBlocks(split, plan, lambda: updates.done, lambda done: 4):
            updates.make(block)
    assert updates.done == trained.trainer.global_step == 3 * plan.updates_per_epoch
    for mine, its in zip(params, trained.network.params, strict=True):
        assert torch.equal(mine, its)


def test_a_plain_loop_stops_at_the_first_value_that_is_not_finite() -> None:
    data = fit(*IRIS, "trainer.max_steps=1").data
    first = initialize("xavier", 4, 5, 3, generator=torch.Generator().manual_seed(0))
    params = Parameters(*(torch.nn.Parameter(each) for each in first))
    updates = Updates(params, cross_entropy, closed_form, UpdateSettings())
    updates.start(GradientDescent(params, lr=1e38), updates_per_epoch=5)
    blocks = TrainingBlocks(data.splits["train"], data.plan(), lambda: 0, lambda done: 5)
    with pytest.raises(NonFinite) as stopped:
        updates.make(next(iter(blocks)))
    assert stopped.value.update <= 5


@pytest.mark.parametrize("of_all", [False, True])
@pytest.mark.parametrize("optimizer", [GradientDescent, torch.optim.SGD])
def test_the_hooks_of_an_optimizer_run_around_each_step(optimizer: Any, of_all: bool) -> None:
    weight, seen = torch.nn.Parameter(torch.ones(3)), []

    def halve(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        assert weight.grad is not None
        weight.grad.mul_(0.5)
        seen.append((stepping, weight[0].item()))

    def look(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        seen.append((stepping, weight[0].item()))

    mine = optimizer([weight], lr=0.5)
    assert optimizers.leaves_gradients_alone(mine)
    register = (
        (of_all_optimizers.register_optimizer_step_pre_hook, halve),
        (of_all_optimizers.register_optimizer_step_post_hook, look),
    )
    if not of_all:
        register = (
            (mine.register_step_pre_hook, halve),
            (mine.register_step_post_hook, look),
        )
    handles = [function(hook) for function, hook in register]
    try:
        assert not optimizers.leaves_gradients_alone(mine)
        for _ in range(2):
            weight.grad = torch.ones(3)
            mine.step()
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [(mine, 1.0), (mine, 0.75), (mine, 0.75), (mine, 0.5)]
    weight.grad = torch.ones(3)
    mine.step()
    assert len(seen) == 4
    assert weight.tolist() == [0.0] * 3

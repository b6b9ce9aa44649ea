"""How often the state at an epoch's end is written."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from handgrad.runs import checkpointing
from handgrad.runs.checkpointing import LastCheckpoint

EPOCH = 0.3  # seconds


def written(monkeypatch: pytest.MonkeyPatch, seconds: float, devices: int) -> list[float]:
    """When last.ckpt is written in 1,000 epochs, if that takes so many seconds."""
    now, times = [0.0], []

    def save(*_: object, **__: object) -> None:
        times.append(now[0])
        now[0] += seconds

    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    last = LastCheckpoint(Path(), None)
    for epoch in range(1, 1001):
        now[0] += EPOCH
        trainer = SimpleNamespace(
            global_step=epoch, fast_dev_run=False, world_size=devices, save_checkpoint=save
        )
        last.on_train_epoch_end(trainer, None)  # pyright: ignore[reportArgumentType]
    return times


def test_a_large_state_is_written_for_a_hundredth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = written(monkeypatch, 0.05, devices=1)
    assert 0.008 < 0.05 * len(times) / times[-1] <= 0.011


def test_a_small_state_is_written_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    times = written(monkeypatch, 0.001, devices=1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 1.0
    assert max(gaps) < 1.0 + 2 * EPOCH


def test_on_several_devices_whose_clocks_differ_every_epoch_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(written(monkeypatch, 0.05, devices=2)) == 1000

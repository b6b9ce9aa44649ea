"""Whatever kills a run, at whatever moment: resumed, it ends like one that was left alone."""

import pytest
from kill_sweep import sweep
from soak import soak


def test_killed_runs_go_on_to_the_same_end() -> None:
    counted = sweep(kills=3, terminations=1, interrupts=1, seed=0)
    assert counted["SIGKILL within a save"] == 3  # the third on two devices
    assert (counted["SIGTERM"], counted["SIGINT"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_270_kills() -> None:
    counted = sweep(kills=200, terminations=50, interrupts=20, seed=0)
    assert counted["SIGKILL"] == counted["SIGKILL within a save"] == 100
    assert (counted["SIGTERM"], counted["SIGINT"]) == (50, 20)
    elsewhere = [
        counted[name] for name in counted if name.startswith("SIGKILL") and "TMPDIR" in name
    ]
    assert sum(elsewhere) >= 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_minutes_under_kills() -> None:
    assert "bitwise" in soak(600, seed=0)

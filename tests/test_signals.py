"""A signal to any process of a run stops all of it in order, and loses nothing."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1
from typing import Any

import faults
import pytest
from forked import Run, children, is_running, start, until

from handgrad.devices import signals
from handgrad.module import TwoLayerNetwork
from handgrad.runs import checkpoint_file

PROCESSES = ("first", "device 0", "device 1", "all")
SMALL = (
    *("data=iris", "model.hidden=7", "data.batch_size=13", "check.at_start=false"),
    *("logger=none", "dashboard=off", "trainer.enable_progress_bar=false", "trainer.timeout=120"),
    "hydra.run.dir=run",
)
LONGEST = 60  # seconds from a signal to the end, which does not wait for a device's timeout
ENDLESS = (
    *(*SMALL, "trainer.max_epochs=-1", "trainer.max_time=00:00:05:00"),
    "callbacks.checkpoint.every_n_updates=16",  # else one device writes once a second
)


def fails_when_it_is_left(number: int | None) -> None:
    """As argparse does, whose own tidying up fails when it is left in the middle."""
    try:
        if number:
            signal.raise_signal(number)
    finally:
        raise AttributeError("save_nargs")


@pytest.mark.parametrize(("number", "end"), [(SIGTERM, SystemExit), (None, AttributeError)])
def test_what_fails_while_it_is_left_hides_no_signal(number: int | None, end: type) -> None:
    with pytest.raises(end) as left, signals.handled():
        fails_when_it_is_left(number)
    assert getattr(left.value, "code", 143) == 143


def processes(run: Run) -> dict[str, list[int]]:
    """The processes of a run, by names."""
    first, devices = run.process.pid, children(run.process.pid or 0)
    assert first is not None
    return {
        "first": [first],
        "all": [first, *devices],
        **{f"device {rank}": [pid] for rank, pid in enumerate(devices)},
    }


def send(run: Run, number: int, whom: str = "first") -> list[int]:
    """Send a signal to processes of a run; gives all of them."""
    found = processes(run)
    for pid in found[whom]:
        os.kill(pid, number)
    return found["all"]


def ends(run: Run, pids: list[int]) -> int:
    """The exit code of a run that is to end within seconds and leave no process."""
    code = run.wait(LONGEST)
    until(lambda: not any(map(is_running, pids)), LONGEST)
    return code


def last(folder: Path) -> dict[str, Any]:
    return checkpoint_file.read(folder / "run" / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("devices", "whom", "number"),
    [
        (1, "first", SIGTERM),
        (1, "first", SIGINT),
        (1, "first", SIGHUP),
        (2, "first", SIGINT),
        (2, "device 0", SIGTERM),
        (2, "device 1", SIGTERM),
        (2, "device 1", SIGINT),
        (2, "all", SIGTERM),
        (2, "all", SIGINT),
        (2, "all", SIGHUP),
    ],
)
def test_a_signal_stops_all_devices_and_the_state_is_kept(
    tmp_path: Path, devices: int, whom: str, number: signal.Signals
) -> None:
    run = start(*ENDLESS, f"trainer.devices={devices}", folder=tmp_path)
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    pids = send(run, number, whom)
    assert ends(run, pids) == 128 + number, run.err
    updates = last(tmp_path)["global_step"]
    assert run.err == (
        f"stopped by {number.name} after update {updates}; continue with the same command and "
        f"ckpt_path=last hydra.run.dir={tmp_path / 'run'}\n"
    )


def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    ignore = partial(signal.signal, SIGHUP, signal.SIG_IGN)
    run = start(*ENDLESS, folder=tmp_path, prepare=ignore)
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    send(run, SIGHUP)
    updates = last(tmp_path)["global_step"]
    until(lambda: last(tmp_path)["global_step"] > updates)
    assert ends(run, send(run, SIGTERM)) == 143
    assert run.err.startswith("stopped by SIGTERM after update ")


def test_an_update_under_way_is_finished_and_a_block_is_not(tmp_path: Path) -> None:
    slow = ("backward=custom", "backward.function=faults.takes_a_moment")
    run = start(*ENDLESS, *slow, "trainer.log_every_n_steps=1000", folder=tmp_path)
    until((tmp_path / "waiting").exists)
    pids = send(run, SIGTERM)
    (tmp_path / "sent").touch()
    assert ends(run, pids) == 143
    assert last(tmp_path)["global_step"] == 6  # of the 8 of an epoch, which are one block


@pytest.mark.parametrize("devices", [1, 2])
def test_a_second_interrupt_waits_for_nothing(tmp_path: Path, devices: int) -> None:
    slow = ("backward=custom", "backward.function=faults.takes_long")
    run = start(*ENDLESS, *slow, f"trainer.devices={devices}", folder=tmp_path)
    until((tmp_path / "waiting").exists)
    send(run, SIGINT)
    time.sleep(0.5)
    assert run.process.exitcode is None
    begin = time.monotonic()
    assert ends(run, send(run, SIGINT)) == 130
    assert time.monotonic() - begin < 20  # of the 60 that the update under way takes


@pytest.mark.parametrize(("devices", "whom"), [(1, "first"), (2, "device 1")])
def test_a_signal_before_the_training_ends_the_run(tmp_path: Path, devices: int, whom: str) -> None:
    run = start(*ENDLESS, f"trainer.devices={devices}", folder=tmp_path, prepare=start_slowly)
    until((tmp_path / "waiting").exists)
    assert ends(run, send(run, SIGTERM, whom)) == 143
    assert run.err == ""
    assert list((tmp_path / "run").rglob("*.ckpt")) == []


@pytest.mark.parametrize(("devices", "whom"), [(1, "first"), (2, "device 1")])
def test_a_signal_in_the_test_ends_the_run(tmp_path: Path, devices: int, whom: str) -> None:
    arguments = (*SMALL, "trainer.max_epochs=1", f"trainer.devices={devices}")
    run = start(*arguments, folder=tmp_path, prepare=test_slowly)
    until((tmp_path / "waiting").exists)
    assert ends(run, send(run, SIGINT, whom)) == 130
    assert last(tmp_path)["global_step"] == 8
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_signal_in_the_validation_stops_after_its_epoch(tmp_path: Path) -> None:
    run = start(*ENDLESS, "trainer.devices=2", folder=tmp_path, prepare=validate_slowly)
    until((tmp_path / "waiting").exists)
    pids = send(run, SIGTERM, "device 1")
    (tmp_path / "sent").touch()
    assert ends(run, pids) == 143
    assert last(tmp_path)["global_step"] == 8
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def pause(seconds: float) -> None:
    Path("waiting").touch()
    time.sleep(seconds)


def start_slowly() -> None:
    TwoLayerNetwork.on_fit_start = lambda self: pause(60)


def test_slowly() -> None:
    TwoLayerNetwork.on_test_epoch_start = lambda self: pause(60)


test_slowly.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] - it prepares one


def validate_slowly() -> None:
    TwoLayerNetwork.on_validation_epoch_start = lambda self: faults.wait_until_sent()


# SLURM.


def scontrol(folder: Path, code: int = 0) -> dict[str, str]:
    """The environment of a job, with a stand-in for SLURM's command that notes its arguments."""
    stand_in = folder / "bin" / "scontrol"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\necho no such job >&2\nexit {code}\n'
    )
    stand_in.chmod(0o755)
    return {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}


@pytest.mark.parametrize(("devices", "whom"), [(1, "first"), (2, "all"), (2, "device 1")])
def test_a_job_whose_time_is_over_is_saved_and_queued_again(
    tmp_path: Path, devices: int, whom: str
) -> None:
    arguments = (*ENDLESS, f"trainer.devices={devices}")
    run = start(*arguments, folder=tmp_path, environment=scontrol(tmp_path))
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    assert ends(run, send(run, SIGUSR1, whom)) == 128 + SIGUSR1, run.err
    updates = last(tmp_path)["global_step"]
    assert run.err.startswith(f"stopped by SIGUSR1 after update {updates}; ")
    assert run.err.endswith("scontrol requeue 4711: done\n")
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"


def test_a_task_of_an_array_is_queued_by_its_own_name_or_says_why_not(tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    environment = {**scontrol(tmp_path, code=1), **array}
    run = start(*ENDLESS, folder=tmp_path, environment=environment)
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    assert ends(run, send(run, SIGUSR1)) == 138
    assert run.err.endswith("scontrol requeue 12_3: failed: no such job\n")
    assert (tmp_path / "asked").read_text() == "requeue 12_3\n"


def test_a_cancelled_job_is_saved_and_not_queued_again(tmp_path: Path) -> None:
    run = start(*ENDLESS, folder=tmp_path, environment=scontrol(tmp_path))
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    assert ends(run, send(run, SIGTERM)) == 143
    assert not (tmp_path / "asked").exists()

"""Several processes are one run: one folder, one voice, one end."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from conftest import ROOT, Train, composed

from handgrad.config.errors import BadInput
from handgrad.devices import launch, ranks
from handgrad.tasks import cli

SHORT = (
    *("trainer.max_epochs=1", "trainer=ddp_cpu", "trainer.enable_progress_bar=false"),
    *("logger=none", "check.at_start=false", "check.checksum_every_n_updates=null"),
)
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    **{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
    **{"SLURM_JOB_NAME": "train.sh", "SLURM_JOB_ID": "12345"},
}


@pytest.fixture(autouse=True)
def no_process_is_left() -> Any:
    yield
    assert multiprocessing.active_children() == []


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def trainer(**flags: Any) -> dict[str, Any]:
    return {"accelerator": "cpu", "devices": 1, "num_nodes": 1, **flags}


# One run.


def test_multirun_gives_each_job_its_values_on_all_devices(tmp_path: Path) -> None:
    sweep = ("-m", *SHORT, "logger=tensorboard", "seed=1,2", "hydra.sweep.dir=logs/sweep")
    done = forked.start(*sweep, "dashboard=off", folder=tmp_path)
    assert (done.wait(), done.err) == (0, "")
    assert [folder.name for folder in (tmp_path / "logs").iterdir()] == ["sweep"]
    jobs = sorted(path for path in (tmp_path / "logs" / "sweep").iterdir() if path.is_dir())
    assert [job.name for job in jobs] == ["seed-1", "seed-2"]
    assert [json.loads((job / "run.json").read_text())["seed"] for job in jobs] == [1, 2]
    assert done.out.count("┃  train ┃") == done.out.count("2 device(s)") == 2  # one voice for each
    for job in jobs:
        assert json.loads((job / "metrics.json").read_text())["run/devices"] == 2
        assert {path.name for path in (job / "checkpoints").iterdir()} == {
            "best.ckpt",
            "last.ckpt",
        }
        assert len({path.name.split(".")[-2] for path in job.glob("events.out.*")}) == 1  # process


# One end.


def test_a_mistake_on_several_devices_is_named_once_and_ends_all(tmp_path: Path) -> None:
    done = forked.start(
        *("trainer=ddp_cpu", "trainer.enable_progress_bar=false", "logger=none", "data=iris"),
        *("backward=mistake", "backward.mistake=no_sprime", "dashboard=off", "hydra.run.dir=run"),
        folder=tmp_path,
    )
    assert (done.wait(), done.err) == (1, "the gradient is wrong in dz1 (on the first batch)\n")
    assert done.out.count("WRONG") == 1
    left = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert left["check/wrong"] == ["dz1"]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("raises", "ZeroDivisionError: the planted error"),
        ("hangs", "device 1 of 2 stopped answering"),
        ("is_killed", "device 1 of 2: its process was killed by SIGKILL"),
        ("exits_0", "device 1 of 2: its process ended with exit code 0"),
        ("exits_3", "device 1 of 2: its process ended with exit code 3"),
        ("drifts", "the devices' weights differ in W2 after update"),
    ],
)
def test_a_device_that_fails_ends_the_run_and_what_was_kept_stays(
    tmp_path: Path, fault: str, line: str
) -> None:
    run = forked.start(
        *SHORT,
        *("backward=custom", f"backward.function=faults.{fault}"),
        f"trainer.timeout={4 if fault == 'hangs' else 120}",
        *("trainer.precision=64-true", "trainer.log_every_n_steps=4", "hydra.run.dir=run"),
        "callbacks.checkpoint.every_n_updates=4",
        folder=tmp_path,
    )
    checkpoints = tmp_path / "run" / "checkpoints"
    forked.until((checkpoints / "last.ckpt").exists)
    assert run.wait() == 1
    assert line in run.err
    assert run.err.count("Traceback") <= 1
    assert not (tmp_path / "run" / "metrics.json").exists()
    kept = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(path.suffix == ".ckpt" for path in checkpoints.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_no_device_outlives_the_first_process(tmp_path: Path, number: signal.Signals) -> None:
    forever = ("trainer.max_epochs=-1", "trainer.max_time=00:00:05:00")
    command = [sys.executable, ROOT / "train.py", *SHORT, *forever]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-3, stderr=-3)
    kept = "logs/*/checkpoints/last.ckpt"
    forked.until(lambda: list(tmp_path.glob(kept)) or process.poll() is not None, 200)
    children = forked.children(process.pid)
    assert len(children) >= 2
    process.send_signal(number)
    code = process.wait(90)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    forked.until(lambda: not any(map(forked.is_running, children)))


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trainer.strategy=ddp"], "trainer.strategy is not set here; use trainer.devices"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        (["task=predict", "ckpt_path=x"], "task=predict runs on one device: trainer.devices=1"),
        (["trainer.timeout=0"], "trainer.timeout=0"),
        (["trainer=mps", "trainer.devices=2"], "trainer.accelerator=mps has one device"),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(
    train: Train, arguments: list[str], line: str
) -> None:
    done = train("trainer=ddp_cpu", *arguments)
    assert done.code == 2
    assert done.err.startswith(f"train.py: {line}")
    assert done.err.count("\n") == 1


def test_bad_input_found_by_a_device_is_one_line(tmp_path: Path) -> None:
    done = forked.start(*SHORT, "data=csv", "data.path=absent.csv", folder=tmp_path)
    assert (done.wait(), done.err.count("\n")) == (2, 1)
    assert "absent.csv" in done.err


def test_multirun_under_torchrun_is_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TORCHRUN)
    done = train("-m", *SHORT, "seed=1,2")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "leave out torchrun" in done.err


def test_jobs_side_by_side_on_several_devices_are_refused(tmp_path: Path) -> None:
    job = launch.Job(cli.run_task, composed("trainer=ddp_cpu"), [], tmp_path)
    with pytest.raises(BadInput, match=r"trainer.devices=2 needs jobs one after the other"):
        launch.run(job, parallel_launcher=True)


# Processes started by others.


@pytest.mark.parametrize(
    ("variables", "launcher", "first"),
    [
        ({}, None, True),
        ({"NODE_RANK": "1"}, None, False),
        ({**TORCHRUN, "RANK": "0"}, "torchrun", True),
        ({**TORCHRUN, "RANK": "1"}, "torchrun", False),
        ({**SRUN, "SLURM_PROCID": "0"}, "srun", True),
        ({**SRUN, "SLURM_PROCID": "3"}, "srun", False),
        ({**SRUN, "SLURM_PROCID": "3", "SLURM_JOB_NAME": "bash"}, None, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None, True),
    ],
)
def test_a_process_knows_its_place(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], launcher: str | None, first: bool
) -> None:
    set_all(monkeypatch, variables)
    assert ranks.launched_by() == launcher
    assert ranks.is_first() == first


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN])
def test_the_number_of_devices_must_be_that_of_the_processes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    set_all(monkeypatch, variables)
    assert launch.local_devices(trainer(devices="auto")) == 2
    launch.check_launched(2)
    with pytest.raises(BadInput, match=r"started 2 processes on this node; set trainer\.devices=2"):
        launch.check_launched(3)


def test_srun_must_say_how_many_processes_a_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {name: SRUN[name] for name in SRUN if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(BadInput, match="srun needs --ntasks-per-node"):
        launch.check_launched(2)


def test_devices_are_counted() -> None:
    assert launch.local_devices(trainer(devices=[0, 3])) == 2
    assert launch.local_devices(trainer(devices=3)) == 3
    assert launch.local_devices(trainer(devices="auto")) == 1


def started_by_others(
    tmp_path: Path, environments: list[dict[str, str]], *arguments: str
) -> list[subprocess.CompletedProcess[str]]:
    """What each of several processes answers that are started as srun starts them."""
    command = [sys.executable, ROOT / "train.py", *SHORT, *arguments]
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    answers = [process.communicate(timeout=250) for process in processes]
    return [
        subprocess.CompletedProcess(command, process.returncode, *answer)
        for process, answer in zip(processes, answers, strict=True)
    ]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def check_one_run(tmp_path: Path, devices: int) -> None:
    folders = list((tmp_path / "logs").iterdir())
    assert len(folders) == 1
    assert (folders[0] / ".hydra" / "config.yaml").exists()
    assert json.loads((folders[0] / "metrics.json").read_text())["run/devices"] == devices


@pytest.mark.slow
def test_srun_on_two_nodes(tmp_path: Path) -> None:
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    tasks = [
        {
            **SRUN,
            **ports,
            **{"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODEID": str(rank)},
            **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"},
        }
        for rank in range(2)
    ]
    answers = started_by_others(tmp_path, tasks, "trainer.devices=1", "trainer.num_nodes=2")
    assert [answer.returncode for answer in answers] == [0, 0], answers[0].stderr
    assert answers[1].stdout == ""
    check_one_run(tmp_path, 2)


@pytest.mark.slow
def test_two_nodes_by_hand(tmp_path: Path) -> None:
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [{**ports, "NODE_RANK": str(node)} for node in range(2)]
    answers = started_by_others(tmp_path, nodes, "trainer.devices=1", "trainer.num_nodes=2")
    assert [answer.returncode for answer in answers] == [0, 0], answers[0].stderr
    assert answers[1].stdout == ""
    check_one_run(tmp_path, 2)


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, ROOT / "train.py", *SHORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 device(s)") == 1
    check_one_run(tmp_path, 2)

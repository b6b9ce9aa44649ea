"""Several processes are one run: one folder, one voice, one end."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from conftest import CONF, ROOT, Train, composed

from handgrad.config.errors import BadInput, Failed
from handgrad.devices import launch, ranks
from handgrad.tasks import cli

SHORT = (
    *("trainer.max_epochs=1", "trainer=ddp_cpu", "trainer.enable_progress_bar=false"),
    *("logger=none", "check.at_start=false", "check.checksum_every_n_updates=null"),
)
TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    **{"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"},
    "MASTER_PORT": "29416",
}
BATCH = {  # of a batch job, in which srun starts the processes: here it did not
    **{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
    **{"SLURM_JOB_NAME": "train.sh", "SLURM_JOB_ID": "12345"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
}
SRUN = {**BATCH, "SLURM_STEP_ID": "0"}
BY_HAND = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29418", "NODE_RANK": "0"}


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """Undo what `ranks` changes in the environment, where it is process-wide on purpose."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


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
        (["trainer.devices=1000"], "trainer.devices=1000: each is a process, and this machine has"),
        (["-m", "trainer.num_nodes=2"], "--multirun runs on one node: give trainer.num_nodes=1"),
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
    ("variables", "launcher", "rank"),
    [
        ({}, None, 0),
        (TORCHRUN, "torchrun", 0),
        ({**TORCHRUN, "RANK": "1", "LOCAL_RANK": "1"}, "torchrun", 1),
        (SRUN, "srun", 0),
        ({**SRUN, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}, "srun", 3),
        ({**SRUN, "SLURM_NTASKS_PER_NODE": "", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, "srun", 0),
    ],
)
def test_a_process_knows_its_place(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], launcher: str | None, rank: int
) -> None:
    set_all(monkeypatch, variables)
    ranks.forget_leftovers()
    assert ranks.launched_by() == launcher
    assert ranks.is_first() == (rank == 0)
    assert os.environ.get("RANK", "0") == str(rank)  # where Lightning reads it on import


LEFT_OVER = [
    {"NODE_RANK": "1"},
    {"RANK": "1"},
    {"RANK": "abc"},
    {"LOCAL_RANK": "3", "WORLD_SIZE": "8"},
    {"JSM_NAMESPACE_RANK": "2"},
    {"HANDGRAD_RENDEZVOUS": "/nowhere/store"},
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"PL_TRAINER_OVERFIT_BATCHES": "1"},
    {"SLURM_PROCID": "3"},
    BATCH,
    {**BATCH, "SLURM_STEP_ID": "4294967291"},  # the batch script itself, as SLURM numbers it
    {**SRUN, "SLURM_NTASKS": "1"},
    {**SRUN, "SLURM_PROCID": "7"},
    {**SRUN, "SLURM_NODEID": "x"},
    {"TORCHELASTIC_RUN_ID": "none", "RANK": "1"},
    {**TORCHRUN, "RANK": "2"},
    {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"},
]


@pytest.mark.parametrize("variables", LEFT_OVER, ids=lambda each: "-".join(each)[:40])
def test_what_another_program_left_in_the_environment_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    for name in [*TORCHRUN, *SRUN, *BY_HAND]:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    set_all(monkeypatch, variables)
    ranks.forget_leftovers()
    assert launch.settle(trainer(devices=2)) == 2
    kept = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_NNODES", "SLURM_STEP_ID")
    assert {name: value for name, value in os.environ.items() if name not in kept} == before
    assert ranks.launched_by() is None
    assert ranks.is_first()
    ranks.tell_of_leftovers()
    told = capfd.readouterr().out
    silent = {"HANDGRAD_RENDEZVOUS", "MPLBACKEND"} & variables.keys()
    one_process = variables.get("SLURM_NTASKS") == "1" or silent
    assert told.count("\n") == (0 if one_process else 1)
    assert one_process or "left in the environment by another program, and not used" in told


def test_a_run_amid_leftovers_leaves_all_of_its_files(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {**BATCH, "NODE_RANK": "1", "RANK": "2", "MASTER_PORT": "abc"})
    done = train("data=iris", "trainer.max_epochs=1")
    assert (done.code, done.err) == (0, "")
    assert "NODE_RANK=1" in done.out
    found = {path.name.partition(".0")[0] for path in done.folder.iterdir()}
    assert {"checkpoints", "metrics.json", "run.json", ".hydra"} <= found
    assert list(done.folder.glob("events.out.*"))


@pytest.mark.parametrize("variables", [TORCHRUN, {**SRUN, "SLURM_NTASKS": "2"}])
def test_the_number_of_devices_must_be_that_of_the_processes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    set_all(monkeypatch, variables)
    assert launch.settle(trainer(devices="auto")) == launch.settle(trainer(devices=2)) == 2
    for wrong in (trainer(devices=3), trainer(devices=1), trainer(devices=2, num_nodes=2)):
        with pytest.raises(BadInput, match=r"2 processes, 2 .* trainer\.devices=2 trainer\.num_n"):
            launch.settle(wrong)


def test_a_torchrun_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    port = {"MASTER_PORT": str(free_port()), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    set_all(monkeypatch, {**TORCHRUN, **port})
    with pytest.raises(BadInput, match=r"no torchrun answers there .*; unset TORCHELASTIC_RUN_ID"):
        launch.settle(trainer(devices=2))


# Several nodes meet.


def free_port() -> int:
    with socket.socket() as any_one:
        any_one.bind(("127.0.0.1", 0))
        return any_one.getsockname()[1]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc: must be a port, from 1 to 65535"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000: must be a port"),
        ({"MASTER_ADDR": "no.such.host.invalid"}, "MASTER_ADDR=no.such.host.invalid: no such addr"),
        ({"NODE_RANK": "2"}, "NODE_RANK=2: trainer.num_nodes=2 needs 0 to 1"),
        ({"NODE_RANK": "-1"}, "NODE_RANK=-1: trainer.num_nodes=2 needs 0 to 1"),
        ({"NODE_RANK": ""}, "trainer.num_nodes=2 needs NODE_RANK in the environment"),
    ],
)
def test_nodes_that_cannot_meet_are_refused_with_what_is_wrong(
    train: Train, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], line: str
) -> None:
    set_all(monkeypatch, {**BY_HAND, **changed})
    done = train("trainer.num_nodes=2")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"train.py: {line}")
    assert not done.folder.exists()


def meet_all(
    devices: list[tuple[int, int, int]], port: int, timeout: float = 0.5
) -> list[ranks.Meeting | Exception]:
    """What devices come to that are given as (rank, world size, devices of a node)."""
    outcomes: dict[int, ranks.Meeting | Exception] = {}

    def come(number: int, rank: int, world_size: int, per_node: int) -> None:
        try:
            address = ("127.0.0.1", port)
            outcomes[number] = ranks.meet(rank, world_size, per_node, address, timeout)
        except Exception as error:
            outcomes[number] = error

    threads = [
        threading.Thread(target=come, args=(number, *device), daemon=True)
        for number, device in enumerate(devices)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [outcomes[number] for number in range(len(devices))]


def test_devices_meet_on_the_interface_of_the_address_alone() -> None:
    port = free_port()
    first, *others = meet_all([(0, 3, 1), (1, 3, 1), (2, 3, 1)], port, timeout=10)
    assert isinstance(first, ranks.Meeting)
    assert first.listening is not None
    assert first.listening.getsockname() == ("127.0.0.1", port)  # not 0.0.0.0
    first.listening.close()
    for other in others:
        assert isinstance(other, ranks.Meeting)
        assert other[:3] == first[:3] == ("127.0.0.1", port, "127.0.0.1")


def test_a_node_that_is_missing_is_named_to_all_that_came() -> None:
    errors = meet_all([(0, 6, 2), (1, 6, 2), (4, 6, 2)], free_port(), timeout=1)
    host = socket.gethostname()
    for error in errors:
        assert isinstance(error, Failed)
        assert str(error) == (
            f"trainer.timeout=1 seconds are over: of 3 nodes, NODE_RANK=0 ({host}), NODE_RANK=2 "
            f"({host}) came, and NODE_RANK=1 did not"
        )


def test_the_first_node_is_waited_for_no_longer_than_was_said() -> None:
    (error,) = meet_all([(1, 2, 1)], free_port())
    assert isinstance(error, Failed)
    assert "the node with NODE_RANK=0 did not answer there within" in str(error)


@pytest.mark.parametrize(
    ("devices", "line"),
    [
        ([(0, 3, 1), (1, 3, 1), (1, 3, 1)], "NODE_RANK=1 is given twice: on "),
        ([(0, 2, 1), (2, 4, 2)], "another trainer.devices or trainer.num_nodes: 1 of 2 devices on"),
    ],
)
def test_nodes_that_contradict_each_other_are_told_so_at_once(
    devices: list[tuple[int, int, int]], line: str
) -> None:
    for error in meet_all(devices, free_port(), timeout=10):
        assert isinstance(error, BadInput)
        assert line in str(error)


def test_a_first_node_whose_port_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (error,) = meet_all([(0, 2, 1)], taken.getsockname()[1])
    assert isinstance(error, BadInput)
    assert "Address already in use" in str(error)


def test_who_is_no_device_of_ours_is_not_listened_to() -> None:
    port = free_port()

    def knock() -> None:
        forked.until(lambda: says(port, b"GET / HTTP/1.1\r\n\r\n") and says(port, b"[1]\n"))

    strangers = threading.Thread(target=knock)
    strangers.start()
    errors = meet_all([(0, 2, 1)], port, timeout=0.5)
    strangers.join()
    assert "NODE_RANK=1 did not" in str(errors[0])


def says(port: int, text: bytes) -> bool:
    """Whether somebody took what was said at a port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(text)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("key", ["hydra.run.dir", "++hydra.run.dir"])
def test_a_node_that_is_not_the_first_makes_no_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    set_all(monkeypatch, {**BY_HAND, "NODE_RANK": "1"})
    seen: list[launch.Job] = []
    monkeypatch.setattr(launch, "run_devices", lambda job, devices: seen.append(job))
    for arguments in ([], [f"{key}=given"]):
        monkeypatch.setattr(sys, "argv", ["train.py", "trainer.num_nodes=2", *arguments])
        assert cli.main(CONF) == 0
    assert seen[0].folder.parent == Path(tempfile.gettempdir())
    assert seen[1].folder == tmp_path / "given"  # in which a checkpoint is looked for
    assert list(tmp_path.rglob(".hydra")) == [] == list(tmp_path.glob("logs"))


def test_devices_that_would_train_differently_are_refused_before_the_first_update(
    tmp_path: Path,
) -> None:
    nodes = [{**BY_HAND, "MASTER_PORT": str(free_port()), "NODE_RANK": str(n)} for n in (0, 1)]
    nodes[1]["MASTER_PORT"] = nodes[0]["MASTER_PORT"]
    more = ("data=iris", "dashboard=off", "trainer.num_nodes=2", "trainer.devices=1")
    changed = ([], ["seed=3", "trainer.max_epochs=2"])
    runs = []
    for number, (node, own) in enumerate(zip(nodes, changed, strict=True)):
        (folder := tmp_path / str(number)).mkdir()
        arguments = (*SHORT, *more, *own, "hydra.run.dir=run")
        runs.append(forked.start(*arguments, folder=folder, environment=node))
    for run in runs:
        assert (run.wait(), run.err.count("\n")) == (2, 1), run.err
        assert "seed=0 on 0; 3 on 1. " in run.err
        assert "trainer.max_epochs=1 on 0; 2 on 1" in run.err
        assert "data=96 of 150 examples" in run.err
        assert not list(run.folder.rglob("*.ckpt"))


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


def check_one_run(tmp_path: Path, devices: int) -> None:
    folders = list((tmp_path / "logs").iterdir())
    assert len(folders) == 1
    assert (folders[0] / ".hydra" / "config.yaml").exists()
    assert json.loads((folders[0] / "metrics.json").read_text())["run/devices"] == devices


@pytest.mark.slow
def test_srun_on_two_nodes(tmp_path: Path) -> None:
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
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
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
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


# Another system.

ELSEWHERE = """
import runpy, signal, sys, sysconfig
sysconfig.get_config_vars()  # of a file with the system's name
sys.modules["fcntl"] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "pthread_sigmask"):
    delattr(signal, name)
sys.platform = "an_isle"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_system_without_fcntl_and_signals_is_named_in_the_first_line_and_trains(
    tmp_path: Path,
) -> None:
    arguments = ("data=iris", "dashboard=off", "logger=none", "trainer.max_epochs=1")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, ROOT / "train.py", *arguments, "hydra.run.dir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first == "train.py: warning: handgrad is tested on Linux and macOS, not on an_isle"
    assert (tmp_path / "run" / "metrics.json").exists()


def test_the_systems_are_named_where_people_look() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    found = re.findall(r"Operating System :: ([\w :]+)", project)
    assert found == ["POSIX :: Linux", "MacOS"]
    assert "on Linux or macOS" in (ROOT / "README.md").read_text()

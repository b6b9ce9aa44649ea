"""Launcher of one process for each device: all have one configuration, and end together.

Lightning would start the command line again for every device, and Hydra would then compose each
one's configuration anew: under --multirun every process would run the whole sweep, and a random
search would give each device other values. Here the processes get the values themselves and a
folder that exists already. They find each other through a file, so that no two jobs can ask for the
same port, and the first process need not import torch to open one. It only watches: whatever ends
one device ends all, with that device's error.
"""

import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

from handgrad.config.errors import BadInput, Failed, files_in_one_line, survive_output, warn
from handgrad.devices import ranks, signals
from handgrad.devices.cpu import keep_freed_memory

PREFIX = "handgrad-devices-"  # of the folder in which the processes of a run find each other
LOCK = "lock"  # of such a folder, held by the process that started the others
GRACE = 20.0  # seconds for devices to save and end after a signal
FOLLOWING = 5.0  # seconds for the others once one device has done so
SETTLE = 2.0  # seconds in which the cause of a failure shows among its consequences


class Job(NamedTuple):
    """Holds what a process is to do."""

    task: Callable[[dict[str, Any], list[str], Path], None]  # importable, to be spawned
    config: dict[str, Any]
    overrides: list[str]
    folder: Path


class DeviceReport(NamedTuple):
    """Holds how a device ended."""

    kind: Literal["done", "stopped", "bad input", "failed", "timeout", "died"]
    text: str


class _Device(NamedTuple):
    """Holds one device's process, and the pipe on which its report arrives."""

    rank: int
    process: BaseProcess
    reports: Connection


def run(job: Job, *, parallel_launcher: bool) -> None:
    """Run a job in this process, or in one process for each device.

    Args:
        job: validated.
        parallel_launcher: whether Hydra runs several jobs side by side.

    Raises:
        BadInput: if the job or one of its devices does.
        Failed: if a device fails; with that device's error.
    """
    trainer = job.config["trainer"]
    devices = settle(trainer)
    several = devices * trainer["num_nodes"] > 1
    if several and job.config["task"] not in ("train", "test"):
        raise BadInput(f"task={job.config['task']} runs on one device: trainer.devices=1")
    if several and parallel_launcher:
        raise BadInput(
            f"trainer.devices={devices} needs jobs one after the other: leave hydra/launcher=basic"
        )
    cores = os.cpu_count() or devices
    if trainer["accelerator"] == "cpu" and devices > cores and ranks.is_first():
        warn(
            f"trainer.devices={devices}: this machine has {cores} cores, so each process is slower"
        )
    if isinstance(trainer["devices"], str):
        job = job._replace(config={**job.config, "trainer": {**trainer, "devices": devices}})
    if several and not ranks.launched_by():
        if (path := job.config["ckpt_path"]) and Path(path).exists():  # not best or last
            # For all devices what it is now: .latest will lead to this run.
            job = job._replace(config={**job.config, "ckpt_path": os.path.realpath(path)})
        run_devices(job, devices)
    else:
        run_task(job)


def run_task(job: Job) -> None:
    """Run a job's task in this process."""
    keep_freed_memory()
    with files_in_one_line(job.folder):
        job.task(job.config, job.overrides, job.folder)


def local_devices(trainer: dict[str, Any]) -> int:
    """Return how many devices of this node the run uses."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices != "auto":
        return devices
    if place := ranks.place():
        return place.per_node
    if trainer["accelerator"] in ("cpu", "mps"):
        return 1
    import torch  # late: it takes seconds, and only "all GPUs" needs it here

    return max(1, torch.cuda.device_count())


def settle(trainer: dict[str, Any]) -> int:
    """Decide which processes are one run, and remove from the environment what says otherwise.

    Returns:
        How many devices of this node the run uses.

    Raises:
        BadInput: if the devices are not those for which others started processes, or nodes that
            are to meet lack what they need for it.
    """
    devices, nodes, place = local_devices(trainer), trainer["num_nodes"], ranks.place()
    if place and (place.per_node, place.world_size) != (devices, devices * nodes):
        sizes = {"devices": place.per_node, "num_nodes": place.world_size // place.per_node}
        wanted = " ".join(f"trainer.{key}={size}" for key, size in sizes.items())
        raise BadInput(
            f"trainer.devices={devices} trainer.num_nodes={nodes}: {place.launcher} started "
            f"{place.world_size} processes, {place.per_node} of them on this node; set {wanted}, "
            f"or unset {place.mark} to train alone"
        )
    if place:
        ranks.check_agent()
    elif nodes > 1:
        ranks.node_by_hand(nodes)
    else:
        ranks.forget_nodes()
    return devices


def run_devices(job: Job, devices: int) -> None:
    """Run a job in one process for each device of this node.

    Raises:
        BadInput: if a device does.
        Failed: if a device fails.
    """
    alone = job.config["trainer"]["num_nodes"] == 1
    with _meeting_place() as meeting:
        rendezvous = f"{meeting / 'store'}" if alone else ""
        started: list[_Device] = []
        try:
            with _signals_passed_on(started) as received:
                with signals.blocked():
                    started += [_start(job, rank, devices, rendezvous) for rank in range(devices)]
                report = _watch(started)
        finally:
            for device in started:
                device.process.kill()
                device.process.join()
    if received and (report is None or report.kind in ("stopped", "died")):
        sys.exit(128 + received[0])
    if report and report.kind == "stopped":
        sys.exit(int(report.text))
    if report:
        raise (BadInput if report.kind == "bad input" else Failed)(report.text)


@contextmanager
def _meeting_place() -> Iterator[Path]:
    """Yield a new folder and remove it at the end, along with those of runs that were killed.

    It stays locked for as long as this process lives, which is how others know that it does.
    """
    from filelock import FileLock  # late: --help answers without it

    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), FileLock(left / LOCK, blocking=False):  # in use, or not ours
            shutil.rmtree(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(folder / LOCK, blocking=False)
        with suppress(OSError):  # another run may remove it before it is locked
            lock.acquire()
        if lock.is_locked and (folder / LOCK).exists():
            break
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _start(job: Job, rank: int, devices: int, rendezvous: str) -> _Device:
    """Start the process of one device."""
    context = multiprocessing.get_context("spawn")
    reports, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(job, rank, devices, rendezvous, sender))
    process.start()
    sender.close()  # only the process holds the other end, so that its death is seen here
    return _Device(rank, process, reports)


def _serve(job: Job, rank: int, devices: int, rendezvous: str, sender: Connection) -> None:
    """Run the task as one device, and report how it ended."""
    survive_output()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    node = int(os.environ.get("NODE_RANK", "0"))
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(node * devices + rank)}
    os.environ |= {ranks.RENDEZVOUS: rendezvous} if rendezvous else {}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    if rank or not ranks.is_first():
        # Errors of a device that is not the first are reported instead of printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        warnings.simplefilter("ignore")
    try:
        with signals.handled(watched=True):
            run_task(job)
        sender.send(DeviceReport("done", ""))
        return
    except SystemExit as stop:
        if stop.code not in signals.EXIT_CODES:
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # first: the first process may end this one once it has the report
        sender.send(DeviceReport("stopped", str(stop.code)))
        os._exit(int(stop.code))  # leaving the group could wait for a device that is gone
    except BadInput as error:
        report = DeviceReport("bad input", str(error))
    except Failed as error:
        report = DeviceReport("failed", str(error))
    except Exception as error:
        late = re.search("timed ?out", f"{type(error)} {error}", re.IGNORECASE)
        text = f"device {rank} of {devices}: {''.join(traceback.format_exception(error)).rstrip()}"
        report = DeviceReport("timeout" if late else "failed", text)
    sender.send(report)
    time.sleep(2 * SETTLE)  # to be killed: the others would fail without this device
    os._exit(1)


def _end_with_parent() -> None:
    """End this process when the first one ends, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a device's process has a parent"
    parent.join()
    os._exit(1)


def _watch(devices: list[_Device]) -> DeviceReport | None:
    """Wait until all devices are done or one fails, and stop the others when one stops.

    Returns:
        The cause of the failure, or how a device stopped; None where all are done.
    """
    running = {device.reports: device for device in devices}
    stopped = None
    while running:
        for reports in connection.wait(list(running)):
            device = running.pop(reports)  # pyright: ignore[reportArgumentType] - from there
            report = _outcome(device, len(devices))
            if report.kind not in ("done", "stopped"):
                report = _cause(report, list(running.values()), len(devices))
            if report.kind == "stopped" and stopped is None:
                stopped = report
                _pass_on(signal.SIGTERM, list(running.values()), FOLLOWING)
            elif report.kind != "done" and stopped is None:
                return report
    return stopped


def _outcome(device: _Device, devices: int) -> DeviceReport:
    """Return what a device reported, or how it ended without a report."""
    try:
        return device.reports.recv()
    except (EOFError, ConnectionResetError):
        device.process.join()
    code = device.process.exitcode or 0
    if code in signals.EXIT_CODES:
        return DeviceReport("stopped", str(code))
    how = (
        f"was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"ended with exit code {code}"
    )
    return DeviceReport("died", f"device {device.rank} of {devices}: its process {how}")


def _cause(first: DeviceReport, others: list[_Device], devices: int) -> DeviceReport:
    """Return the cause of a failure: when one device ends or hangs, the others fail too."""
    if first.kind in ("bad input", "died"):
        return first
    deadline = time.monotonic() + SETTLE
    silent = {device.reports: device for device in others}
    while silent and (left := deadline - time.monotonic()) > 0:
        for reports in connection.wait(list(silent), timeout=left):
            device = silent.pop(reports)  # pyright: ignore[reportArgumentType] - from there
            report = _outcome(device, devices)
            if report.kind in ("died", "stopped"):
                return report
    if first.kind == "timeout" and silent:
        names = ", ".join(str(device.rank) for device in silent.values())
        return DeviceReport(
            "timeout", f"device {names} of {devices} stopped answering\n{first.text}"
        )
    return first


def _pass_on(number: int, devices: list[_Device], grace: float) -> None:
    """Send a signal to devices, and kill those that have not ended within some seconds."""
    for device in devices:
        if device.process.is_alive() and device.process.pid is not None:
            os.kill(device.process.pid, number)
    deadline = threading.Timer(grace, lambda: [device.process.kill() for device in devices])
    deadline.daemon = True
    deadline.start()


@contextmanager
def _signals_passed_on(devices: list[_Device]) -> Iterator[list[int]]:
    """Pass signals on to devices and collect them, and kill the devices on a second SIGINT."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) == 1:
            _pass_on(number, devices, GRACE)
        elif number == signal.SIGINT:
            for device in devices:
                device.process.kill()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in signals.handled_numbers()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What a run writes to: a full disk, a read-only one, files that vanish, output nobody takes.

A clear line, the right exit code, and what was kept stays.
"""

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Train
from forked import nothing, start, until
from test_signals import ENDLESS, SMALL

from handgrad.config.errors import Failed, files_in_one_line, survive_output
from handgrad.runs import checkpoint_file
from handgrad.tasks.sweep.summary import summarise

WITHOUT_LOGGER = ("logger=none", "dashboard=off")
LOGGED = tuple(each for each in ENDLESS if each not in WITHOUT_LOGGER)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    place = tmp_path / "run"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


@pytest.mark.parametrize("devices", [1, 2])
def test_a_disk_that_fills_up_under_the_default_logger_gives_one_line(
    tmp_path: Path, disk: Path, devices: int
) -> None:
    run = start(*LOGGED, f"trainer.devices={devices}", "dashboard=lite", folder=tmp_path)
    last = disk / "checkpoints" / "last.ckpt"
    until(last.exists)
    fill(disk)
    assert run.wait(30) == 1
    assert re.fullmatch(rf"{disk}\S* cannot be written .*No space left on device.*\n", run.err)
    assert "Traceback" not in run.out
    assert checkpoint_file.read(last)["global_step"] >= 8
    assert list(disk.rglob("*.tmp")) == []


@pytest.mark.parametrize(("devices", "logger"), [(1, "tensorboard"), (1, "none"), (2, "none")])
def test_a_run_whose_folder_is_removed_ends_and_does_not_make_it_again(
    tmp_path: Path, devices: int, logger: str
) -> None:
    folder, options = tmp_path / "run", (f"trainer.devices={devices}", f"logger={logger}")
    run = start(*LOGGED, *options, "dashboard=off", folder=tmp_path)
    until((folder / "checkpoints" / "last.ckpt").exists)
    folder.rename(tmp_path / "moved")
    assert run.wait(30) == 1
    assert run.err == f"{folder} was removed or moved while the run needed it\n"
    assert not folder.exists()
    checkpoint_file.read(tmp_path / "moved" / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("logger", "name"),
    [("none", "checkpoints/best.ckpt"), ("tensorboard", "events.*"), ("csv", "metrics.csv")],
)
def test_a_file_that_is_removed_while_the_run_needs_it_is_named(
    tmp_path: Path, logger: str, name: str
) -> None:
    run = start(*LOGGED, f"logger={logger}", "dashboard=off", folder=tmp_path)
    (path,) = until(lambda: list((tmp_path / "run").glob(name)))
    until((tmp_path / "run" / "checkpoints" / "last.ckpt").exists)
    path.unlink()
    assert run.wait(30) == 1
    assert run.err == (
        f"{path} was removed or moved while the run needed it; "
        f"the checkpoints in {tmp_path / 'run'} are whole\n"
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("metrics.json", ()), ("report.md", ("logger=tensorboard", "dashboard=lite"))],
)
def test_a_folder_in_a_files_place_is_named(
    train: Train, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    small = [each for each in SMALL[:-1] if each not in WITHOUT_LOGGER]
    answer = train(
        *small, *(options or WITHOUT_LOGGER), "trainer.max_epochs=1", into=tmp_path / "run"
    )
    assert answer.code == 1
    assert answer.err == (
        f"{tmp_path / 'run' / name} cannot be written to (Is a directory); the checkpoints in "
        f"{tmp_path / 'run'} are whole; move it away\n"
    )


def test_a_file_in_a_folders_place_is_named(train: Train, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name, code in ((".hydra", 2), ("checkpoints", 1)):
        (tmp_path / "run" / name).touch()
        answer = train(*SMALL[:-1], into=tmp_path / "run")
        assert answer.code == code
        named = rf"(train.py: )?{tmp_path}/run/{name} cannot be .*\(File exists\).*\n"
        assert re.fullmatch(named, answer.err)
        (tmp_path / "run" / name).unlink()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied", "run/results.png"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", b"run/events"),
    ],
)
def test_an_error_about_the_files_of_a_run_is_one_line_whatever_follows_it(
    tmp_path: Path, error: OSError
) -> None:
    def fails_twice() -> None:
        try:
            raise error
        finally:
            raise AttributeError("tidying up failed")

    (tmp_path / "run").mkdir()
    with (
        pytest.raises(Failed, match=f"^{tmp_path}/run.*") as caught,
        files_in_one_line(Path("run")),
    ):
        fails_twice()
    assert "\n" not in str(caught.value)


def test_a_sweep_whose_folder_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=f"^{tmp_path}/gone contains no run"):
        summarise(tmp_path / "gone", None)


def test_a_current_folder_that_is_gone_is_one_line(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = train(*SMALL[:-1])
    assert answer.code == 2
    assert re.fullmatch("train.py: the current folder .*No such file or directory.*\n", answer.err)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", "mine.npy"), ValueError()])
def test_an_error_about_anything_else_keeps_its_trace(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), files_in_one_line(tmp_path / "run"):
        raise error


@pytest.mark.parametrize("devices", [1, 2])
def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, disk: Path, devices: int
) -> None:
    run = start(*ENDLESS, f"trainer.devices={devices}", folder=tmp_path)
    last = disk / "checkpoints" / "last.ckpt"
    until(last.exists)
    fill(disk)
    assert run.wait() == 1
    assert run.err.count("\n") == 1, run.err
    assert f"{disk}/checkpoints/" in run.err
    assert re.search(r"No space left on device; it needs \d+\.\d kB\)", run.err)
    updates = checkpoint_file.read(last)["global_step"]
    assert updates >= 8
    assert list(disk.rglob("*.tmp")) == []
    (disk / "filler").unlink()
    more = (f"trainer.max_steps={updates + 8}", f"trainer.devices={devices}", "ckpt_path=last")
    again = start(*ENDLESS, *more, folder=tmp_path)
    assert again.wait() == 0, again.err


def test_a_full_disk_is_noticed_at_the_start(tmp_path: Path, disk: Path) -> None:
    fill(disk)
    run = start(*ENDLESS, folder=tmp_path)
    assert run.wait() == 2
    assert run.err.count("\n") == 1, run.err
    assert re.search(r"No space left on device\); name another", run.err), run.err


def test_a_read_only_folder_is_noticed_at_the_start(tmp_path: Path, disk: Path) -> None:
    done = start(*SMALL, "trainer.max_epochs=1", folder=tmp_path)
    assert done.wait() == 0, done.err
    before = (disk / "checkpoints" / "last.ckpt").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = start(*SMALL, "trainer.max_epochs=2", "ckpt_path=last", folder=tmp_path)
    assert run.wait() == 2
    assert run.err.count("\n") == 1, run.err
    assert "Read-only file system" in run.err
    assert (disk / "checkpoints" / "last.ckpt").read_bytes() == before


def without_a_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def onto_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed() -> None:
    for number, name in ((0, "stdin"), (1, "stdout")):
        os.close(number)
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)


def errors_without_a_reader() -> None:
    without_a_reader()
    os.dup2(1, 2)


@pytest.mark.parametrize(
    ("prepare", "devices", "said"),
    [
        (without_a_reader, 1, ""),
        (onto_a_full_disk, 1, "train.py: warning: stdout cannot be written to (No space left on "),
        (closed, 1, ""),
        (closed, 2, ""),
        (errors_without_a_reader, 1, ""),
    ],
)
def test_a_run_whose_output_nobody_takes_is_the_same_run(
    tmp_path: Path, prepare: Callable[[], None], devices: int, said: str
) -> None:
    small = [each for each in SMALL if each != "check.at_start=false"]  # which prints a table
    runs = []
    for number, before in enumerate((nothing, prepare)):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = ("trainer.max_epochs=1", f"trainer.devices={devices}")
        run = start(*small, *options, folder=folder, prepare=before)
        assert run.wait() == 0, run.err
        runs.append(run)
    assert runs[0].err == ""
    assert runs[1].err.startswith(said)
    assert runs[1].err.count("\n") == bool(said)
    states = [checkpoint_file.read(each.folder / "run/checkpoints/last.ckpt") for each in runs]
    mine, its = (each["state_dict"] for each in states)
    assert all(mine[name].equal(its[name]) for name in its)


def test_a_threads_error_that_is_raised_elsewhere_is_not_printed_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Writer(threading.Thread):
        def __init__(self, error: Exception, kept: Exception | None) -> None:
            super().__init__()
            self.error, self.exception = error, kept

        def run(self) -> None:
            raise self.error

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    survive_output()
    printed = []
    error = OSError("no space")
    for kept in (error, None):
        thread = Writer(error, kept)
        thread.start()
        thread.join()
        printed.append("OSError: no space" in capfd.readouterr().err)
    assert printed == [False, True]

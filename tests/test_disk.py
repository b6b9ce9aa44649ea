"""A full disk and a read-only one: a clear line, the right exit code, and what was kept stays."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import start, until
from test_signals import ENDLESS, SMALL

from handgrad.runs import checkpoint_file


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
    assert re.search(r"No space left on device; a checkpoint needs \d+ bytes\)", run.err), run.err


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

"""A signal to torchrun, or to one of its processes: saved, and over within seconds."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from conftest import ROOT
from forked import children, is_running, until
from test_signals import ENDLESS, LONGEST, last

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A training without end on two processes, which has written a checkpoint."""
    command = [*TORCHRUN, ROOT / "train.py", *ENDLESS, "trainer.devices=2"]
    with (tmp_path / "err").open("w") as err:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=err, stderr=err, text=True)
    try:
        last_ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
        until(lambda: last_ckpt.exists() or run.poll() is not None)
        assert run.poll() is None, (tmp_path / "err").read_text()
        yield run
    finally:
        for pid in (*children(run.pid), run.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        run.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize("whom", ["torchrun", "rank 0", "rank 1"])
def test_a_signal_under_torchrun_saves_and_ends_all(
    tmp_path: Path, torchrun: subprocess.Popen[str], whom: str, number: int
) -> None:
    ranks = children(torchrun.pid)
    assert len(ranks) == 2
    pids = {"torchrun": torchrun.pid, "rank 0": ranks[0], "rank 1": ranks[1]}
    begin = time.monotonic()
    os.kill(pids[whom], number)
    try:
        code = torchrun.wait(LONGEST)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it still runs: {(tmp_path / 'err').read_text()}") from None
    until(lambda: not any(map(is_running, ranks)), LONGEST)
    print(f"{whom}, signal {number}: exit code {code} after {time.monotonic() - begin:.1f} s")
    assert code == 1
    told = re.findall(
        r"stopped by (\w+) after update (\d+); continue", (tmp_path / "err").read_text()
    )
    assert told == [(number.name, str(last(tmp_path)["global_step"]))]
    assert list(tmp_path.rglob("*.tmp")) == []

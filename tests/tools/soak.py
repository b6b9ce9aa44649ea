"""Ten minutes of training on two devices under random kills, against a training left alone.

    python tests/tools/soak.py [--seconds 600] [--seed 0]

Each life of the run lasts 20 to 60 seconds, and ends by SIGKILL or SIGTERM to any of its processes.
The soaked training pauses after each block, so that the one it is compared with is the shorter one.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
import events
import torch
from forked import Run, is_running, start, until
from kill_sweep import fresh, heard, targets

from handgrad.module import TwoLayerNetwork
from handgrad.runs import checkpoint_file

LIFE = (20.0, 60.0)  # seconds
SETTLED = 5.0  # seconds of a life after which its memory is looked at first
PAGE = os.sysconf("SC_PAGE_SIZE")
TRAINING = (
    *("data=npz", "data.path=examples.npz", "data.batch_size=16", "model.hidden=64"),
    *("optimizer=adam", "trainer.devices=2", "trainer.timeout=30", "trainer.max_epochs=-1"),
    *("callbacks.checkpoint.every_n_updates=50", "trainer.log_every_n_steps=5"),
    *("dashboard=off", "check.at_start=false", "trainer.enable_progress_bar=false"),
    *("ckpt_path=last", "hydra.run.dir=run"),
)
FOREVER = "trainer.max_time=01:00:00:00"
KILLS = [
    (signal.SIGKILL, "all"),
    (signal.SIGKILL, "first"),
    (signal.SIGKILL, "device 0"),
    (signal.SIGKILL, "device 1"),
    (signal.SIGTERM, "device 1"),
    (signal.SIGTERM, "all"),
]


def pause() -> None:
    """Slow the blocks of updates down."""
    TwoLayerNetwork.on_train_batch_start = lambda *_: time.sleep(0.1)


def memory(pids: list[int]) -> int:
    """Bytes that processes hold in memory."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in pids)


def live(run: Run, seconds: float, number: signal.Signals, whom: str) -> float:
    """Let a run live for some seconds, then kill it.

    Returns:
        By which share its memory grew.
    """
    heard(run, "ends")
    assert run.process.exitcode is None, run.err
    pids = targets(run, "all")
    time.sleep(SETTLED)
    before = memory(pids)
    time.sleep(max(0.0, seconds - SETTLED))
    after = memory(pids)
    for pid in targets(run, whom):
        os.kill(pid, number)
    code = run.wait(90)
    assert code in ((-9, 1) if number == signal.SIGKILL else (143,)), (code, run.err)
    until(lambda: not any(map(is_running, pids)), 90)
    return after / before - 1


def kept(folder: Path) -> dict[str, Any]:
    """The newest state of a run."""
    return checkpoint_file.read(folder / "run" / "checkpoints" / "last.ckpt")


def soak(seconds: float, seed: int) -> str:
    """Soak a training, compare it, and say how it went."""
    draw = random.Random(seed)
    growth: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder, alone = fresh(Path(place, "soaked")), fresh(Path(place, "alone"))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = start(*TRAINING, FOREVER, folder=folder, prepare=pause)
            longest = end - time.monotonic()
            number, whom = draw.choice(KILLS)
            if longest < LIFE[1]:  # the last one ends in order
                number, whom = signal.SIGTERM, "first"
                growth.append(live(run, longest, number, whom))
                break
            growth.append(live(run, draw.uniform(*LIFE), number, whom))
        state = kept(folder)
        updates = state["global_step"]
        run = start(*TRAINING, f"trainer.max_steps={updates}", folder=alone)
        assert run.wait(seconds) == 0, run.err
        expected = kept(alone)
        for name, weights in expected["state_dict"].items():
            assert torch.equal(state["state_dict"][name], weights), f"{name} differs"
        moments = (each["optimizer_states"][0]["state"] for each in (state, expected))
        for mine, its in zip(*(list(each.values()) for each in moments), strict=True):
            assert all(torch.equal(mine[name], its[name]) for name in its), "the moments differ"
        steps = [
            [step for step, _ in events.curves(each / "run")["cost/train"]]
            for each in (folder, alone)
        ]
        assert steps[0] == steps[1], "steps of cost/train are missing or doubled"
        left = sorted(path.name for path in folder.rglob("*.tmp"))
        assert left == [], left
    assert max(growth) < 0.05, growth
    return (
        f"{len(growth)} lives, {updates} updates: bitwise the same as a run left alone; "
        f"memory grew by {max(growth):.2%} at most in a life"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    print(soak(**vars(parser.parse_args())))

"""Runs are killed at random moments and resumed: the end must be that of a run left alone.

    python tests/tools/kill_sweep.py

A chain is one training that is killed several times, each time continued by the same command with
ckpt_path=last, and at last left alone. Nothing may be lost, doubled, torn or left behind.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
import events
import several
import torch
from forked import Run, children, is_running, start, until

from handgrad.runs import checkpoint_file

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each point it forgets

KILLS_OF_A_CHAIN = 5
LONGEST = 90  # seconds until a run has ended, on a machine that is busy with much else
OTHER_DISK = Path("/dev/shm")  # a file system of its own
TRAINING = (
    *("data=npz", "data.path=examples.npz", "data.batch_size=13", "model.hidden=11"),
    *("trainer.max_epochs=12", "trainer.log_every_n_steps=3", "trainer.timeout=300"),
    *("callbacks.checkpoint.every_n_updates=7", "dashboard=off", "check.at_start=false"),
    *("trainer.enable_progress_bar=false", "ckpt_path=last", "hydra.run.dir=run"),
)
VARIANTS = (
    ("trainer.devices=1", "optimizer=momentum", "optimizer.accumulate=2"),
    ("trainer.devices=1", "optimizer=adam"),
    ("trainer.devices=2", "optimizer=adam"),
    ("trainer.devices=2", "optimizer=momentum", "scheduler=exponential", "scheduler.gamma=0.9"),
)


class Kill(NamedTuple):
    """One kill: which signal, to whom, and whether within a save."""

    number: signal.Signals
    whom: str  # first, device 0, device 1, all
    in_save: bool


class Result(NamedTuple):
    """What a training left."""

    weights: list[torch.Tensor]
    curves: dict[str, list[tuple[int, float]]]
    files: set[str]


def result(folder: Path) -> Result:
    """What a training left that came to its end."""
    kept = checkpoint_file.read(folder / "checkpoints" / "last.ckpt")
    names = {
        "events" if "tfevents" in path.name else str(path.relative_to(folder))
        for path in folder.rglob("*")
    }
    curves = events.curves(folder)
    curves.pop("run/fit_seconds")  # the only one that may differ
    return Result(list(kept["state_dict"].values()), curves, names)


def check_same(found: Result, expected: Result) -> None:
    """Compare a training that was killed with one that was left alone."""
    pairs = zip(found.weights, expected.weights, strict=True)
    assert all(torch.equal(*pair) for pair in pairs), "the weights differ"
    assert found.files == expected.files, found.files ^ expected.files
    assert found.curves.keys() == expected.curves.keys()
    for tag, points in expected.curves.items():
        steps = [step for step, _ in found.curves[tag]]
        assert steps == [step for step, _ in points], f"{tag} has the steps {steps}"
        for (_, mine), (_, its) in zip(found.curves[tag], points, strict=True):
            assert abs(mine - its) <= 1e-6 * abs(its), f"{tag}: {mine} for {its}"


def targets(run: Run, whom: str) -> list[int]:
    """The processes that a kill is for; none where they are not there."""
    first = run.process.pid
    assert first is not None
    devices = children(first)
    if whom == "first":
        return [first]
    if whom == "all":
        return [first, *devices]
    return devices[int(whom[-1]) :][:1]


def moment(run: Run, kill: Kill, draw: random.Random) -> None:
    """Wait for a random moment: within a save, or after some saves, or before the first one."""
    if kill.in_save or draw.random() < 0.75:
        for _ in range(draw.randrange(6)):
            heard(run, "ends")
        if kill.in_save:
            heard(run, "begins")
            time.sleep(draw.uniform(0, 0.004))
        else:
            time.sleep(draw.uniform(0, 0.05))
    else:
        time.sleep(draw.uniform(0, 1.5))


def heard(run: Run, word: str) -> None:
    """Wait for what a run says of its saves, or for its end."""
    try:
        while run.saves.recv() != word:
            pass
    except EOFError:
        run.process.join()


def saving(run: Run) -> bool:
    """Whether a run that is over was within a save."""
    last = ""
    try:
        while run.saves.poll(0):
            last = run.saves.recv()
    except EOFError:
        pass
    return last != "ends"


def struck(run: Run, kill: Kill, draw: random.Random) -> bool:
    """Kill a run.

    Returns:
        Whether it was killed as wanted; otherwise it had ended before, or its save had.
    """
    moment(run, kill, draw)
    until(lambda: (run.folder / "err").exists() or run.process.exitcode is not None)  # it is ours
    hit = until(lambda: targets(run, kill.whom) or [0] * (run.process.exitcode is not None))
    if run.process.exitcode is not None:
        assert run.process.exitcode == 0, run.err
        return False
    pids = targets(run, "all")
    for pid in hit:
        try:
            os.kill(pid, kill.number)
        except ProcessLookupError:
            continue
    code = run.wait(LONGEST)
    until(lambda: not any(map(is_running, pids)), LONGEST)
    expected = 1 if kill.number == signal.SIGKILL else 128 + kill.number
    # Before train.py's first lines, the system ends a process by the signal itself.
    assert code in (0, expected, -kill.number), f"exit code {code} of {kill}: {run.out}{run.err}"
    return code != 0 and (saving(run) or not kill.in_save)


def plan(kills: int, terminations: int, interrupts: int) -> list[tuple[int, Kill]]:
    """Which kills to make, each with the number of a variant."""
    wanted: list[tuple[int, Kill]] = []
    for number in range(kills):
        variant, in_save = number % 4, number // 4 % 2 == 0
        several_ = ("device 0", "all") if in_save else ("first", "device 0", "device 1", "all")
        whom = "first" if variant < 2 else several_[number // 8 % len(several_)]
        wanted.append((variant, Kill(signal.SIGKILL, whom, in_save)))
    for number in range(terminations):
        whom = ("device 0", "device 1", "all")[number % 3]
        wanted.append((2 + number % 2, Kill(signal.SIGTERM, whom, in_save=False)))
    for number in range(interrupts):
        variant = number % 4
        whom = "first" if variant < 2 else ("first", "device 1", "all")[number // 4 % 3]
        wanted.append((variant, Kill(signal.SIGINT, whom, in_save=False)))
    return wanted


def chains(wanted: list[tuple[int, Kill]], draw: random.Random) -> list[tuple[int, list[Kill]]]:
    """The kills of each variant in random order, several for one training."""
    made = []
    for variant in range(len(VARIANTS)):
        own = [kill for number, kill in wanted if number == variant]
        draw.shuffle(own)
        made += [
            (variant, own[at : at + KILLS_OF_A_CHAIN])
            for at in range(0, len(own), KILLS_OF_A_CHAIN)
        ]
    return made


def fresh(folder: Path) -> Path:
    """An empty folder with the data."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    several.write_examples(folder / "examples.npz", 203)
    return folder


def uninterrupted(folder: Path, variant: int) -> Result:
    """The result of a run that is left alone."""
    run = start(*TRAINING, *VARIANTS[variant], folder=fresh(folder))
    assert run.wait() == 0, run.err
    return result(folder / "run")


def survive(
    folder: Path, temporary: Path, variant: int, kills: list[Kill], expected: Result, draw: Any
) -> int:
    """One training that is killed, continued, and compared with one that was not.

    Returns:
        How many runs it took; those that ended before their kill are started anew.
    """
    fresh(folder)
    fresh(temporary).joinpath("examples.npz").unlink()
    arguments, environment = (*TRAINING, *VARIANTS[variant]), {"TMPDIR": str(temporary)}
    started, left = 0, list(kills)
    while True:
        run = start(*arguments, folder=folder, environment=environment)
        started += 1
        if left and struck(run, left[0], draw):
            left.pop(0)
        elif not left:
            assert run.wait() == 0, run.err
        for path in (folder / "run").glob("checkpoints/*.ckpt"):
            checkpoint_file.read(path)  # raises where it is torn
        if run.process.exitcode == 0:
            check_same(result(folder / "run"), expected)
            assert list(temporary.iterdir()) == []
            if not left:
                return started
            fresh(folder)


def sweep(kills: int, terminations: int, interrupts: int, seed: int) -> Counter[str]:
    """Make all kills.

    Returns:
        How many of each kind were survived.
    """
    draw, counted = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory(dir=OTHER_DISK) as other:
        expected = {}
        todo = chains(plan(kills, terminations, interrupts), draw)
        for number, (variant, chain) in enumerate(todo):
            if variant not in expected:
                expected[variant] = uninterrupted(Path(own) / "alone", variant)
            elsewhere = number % 4 == 0
            temporary = Path(other if elsewhere else own) / "tmp"
            folder = Path(own) / "killed"
            counted["runs"] += survive(folder, temporary, variant, chain, expected[variant], draw)
            for kill in chain:
                name = f"{kill.number.name}{' within a save' if kill.in_save else ''}"
                counted[name] += 1
                counted[f"{name}, TMPDIR on another file system"] += elsewhere
                counted[f"{kill.number.name} to {kill.whom}"] += 1
            print(f"{number + 1} of {len(todo)} trainings", file=sys.stderr, flush=True)
    return counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILL, half of them in a save")
    parser.add_argument("--terminations", type=int, default=50, help="SIGTERM, on two devices")
    parser.add_argument("--interrupts", type=int, default=20, help="SIGINT")
    parser.add_argument("--seed", type=int, default=0)
    begin = time.monotonic()
    for name, count in sorted(sweep(**vars(parser.parse_args())).items()):
        print(f"{count:4}  {name}")
    print(f"all continued to the same end; {time.monotonic() - begin:.0f} s")

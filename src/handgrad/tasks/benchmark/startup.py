"""How long the command line takes: help, the first update, the whole default run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from handgrad.tasks.benchmark.measure import Measured

SLOW_REPEATS = 2  # of the whole default run at most
IMPORT = 'python -c "import torch"'  # what the others are compared with


def commands(train: Path) -> dict[str, list[str]]:
    """What is timed, by name; each is an own process."""
    python, script = sys.executable, str(train)
    return {
        'python -c "pass"': [python, "-c", "pass"],
        IMPORT: [python, "-c", "import torch"],
        "train.py --help": [python, script, "--help"],
        "train.py --cfg job": [python, script, "--cfg", "job"],
        "train.py, one update": [python, script, "trainer.max_epochs=-1", "trainer.max_steps=1"],
        "train.py, the whole default run": [python, script],
    }


def measure(train: Path, repeats: int) -> list[Measured]:
    """Time each command, in turns.

    Args:
        train: the door, train.py.
        repeats: of each; the whole run is repeated twice at most.
    """
    every = commands(train)
    slowest = list(every)[-1]
    seconds: dict[str, list[float]] = {name: [] for name in every}
    notes = dict.fromkeys(every, "")
    for repeat in range(repeats):
        for name, command in every.items():
            if name == slowest and repeat >= SLOW_REPEATS:
                continue
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
                seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                notes[name] = f"exit code {done.returncode}"
    return [
        Measured("startup", "", name, "s", values, note=notes[name])
        for name, values in seconds.items()
    ]

"""How long the command line takes: help, the first update, the whole default run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from handgrad.tasks.benchmark.measure import Measured

SLOW_REPEATS = 2  # of the whole default run at most
IMPORT = 'python -c "import torch"'  # what the others are compared with
WHOLE_RUN = "train.py, the whole default run"
COMMANDS = {  # by name: the arguments of python; each runs in a process of its own
    'python -c "pass"': ["-c", "pass"],
    IMPORT: ["-c", "import torch"],
    "train.py --help": ["train.py", "--help"],
    "train.py --cfg job": ["train.py", "--cfg", "job"],
    "train.py, one update": ["train.py", "trainer.max_epochs=-1", "trainer.max_steps=1"],
    WHOLE_RUN: ["train.py"],
}


def measure(train: Path, repeats: int) -> list[Measured]:
    """Time each command, in turns.

    Args:
        train: the path of train.py.
        repeats: of each; the whole run is repeated twice at most.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    notes = dict.fromkeys(COMMANDS, "")
    for repeat in range(repeats):
        for name, arguments in COMMANDS.items():
            if name == WHOLE_RUN and repeat >= SLOW_REPEATS:
                continue
            given = [str(train) if each == "train.py" else each for each in arguments]
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                done = subprocess.run([sys.executable, *given], cwd=folder, capture_output=True)
                seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                notes[name] = f"exit code {done.returncode}"
    return [
        Measured("startup", "", name, "s", values, note=notes[name])
        for name, values in seconds.items()
    ]

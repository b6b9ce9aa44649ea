"""Benchmark: how long an update takes here and in other libraries, on the same batches.

task.py        task=benchmark: every row of benchmark.rows, one after the other
worker.py      each contender in a process of its own, started and asked from the first process
measure.py     repeated measurements in turns, of contenders and of the command line
workload.py    the data, the batches and the first weights that all contenders share, what a
               contender is, and the memory that its updates need
loops.py       bare loops: the equations, autograd, NumPy, the matrix products alone
libraries.py   Lightning, scikit-learn, JAX
whole.py       task=train with everything on
report.py      benchmark.md, benchmark.csv, benchmark.png
"""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Measure everything that benchmark.rows names, and write the results, as `task.run` does."""
    # Not at the top: every contender's process imports this package. With Lightning and matplotlib
    # it would take longer to start, and need memory that is not the contender's.
    from handgrad.tasks.benchmark import task

    task.run(config, folder)

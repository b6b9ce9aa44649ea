"""Place of this process among several, as torchrun, srun or our own launcher sets it."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs in which Python is started by hand


def launched_by() -> str | None:
    """Return what started this process as one of several: "torchrun", "srun", or None."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    in_job = os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    if in_job and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return "srun"
    return None


def processes_per_node() -> int | None:
    """Return how many processes torchrun or srun started on this node, or None if unknown."""
    names = {"torchrun": "LOCAL_WORLD_SIZE", "srun": "SLURM_NTASKS_PER_NODE"}
    started = os.environ.get(names.get(launched_by() or "", ""))
    return None if started is None else int(started)


def is_first() -> bool:
    """Return whether this process is the one that writes the run's folder."""
    name = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "NODE_RANK"}[launched_by()]
    return int(os.environ.get(name, "0")) == 0


@contextmanager
def one_folder() -> Iterator[None]:
    """Keep Hydra from making a run's folder for each of several processes.

    The first process makes it. Nothing of use is written to the others' folders, so they get one
    that is removed at the end, unless the command line names one for all.
    """
    if is_first():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="handgrad-") as folder:
        if not any(argument.startswith("hydra.run.dir=") for argument in sys.argv):
            sys.argv.append(f"hydra.run.dir={folder}")
        sys.argv.append("hydra.output_subdir=null")
        yield

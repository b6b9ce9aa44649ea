"""Train amid random variables that launchers, schedulers and other trainings leave behind.

    python tests/tools/left_over_environments.py --count 200 --seed 1

Each training either ends as in an empty environment, with the same files and the same figures in
the same folder, or is refused with one line. Nothing else is accepted: no trace, no lost file, no
run that lasts. The trainings are forked from a process that has imported all that reads no such
variable, which Lightning does on import.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src")]

import hydra.core.plugins  # noqa: F401
import pandas  # noqa: F401
import sklearn.datasets  # noqa: F401
import tensorboard.summary.writer.event_file_writer  # noqa: F401
import torch

NUMBERS = ("", "0", "1", "2", "4", "-1", "abc", "4294967291", "4294967290")
PLACES = ("127.0.0.1", "localhost", "no.such.host.invalid", "", "10.255.255.1")
VALUES = {
    **dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), NUMBERS),
    **dict.fromkeys(("GROUP_RANK", "ROLE_RANK", "NODE_RANK", "GROUP_WORLD_SIZE"), NUMBERS),
    **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"), NUMBERS),
    **dict.fromkeys(("SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_STEP_ID"), NUMBERS),
    **dict.fromkeys(("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "PMI_RANK", "PMI_SIZE"), NUMBERS),
    **dict.fromkeys(("JSM_NAMESPACE_LOCAL_RANK", "OMPI_COMM_WORLD_RANK"), NUMBERS),
    **dict.fromkeys(("OMPI_COMM_WORLD_SIZE", "PL_SEED_WORKERS", "PL_GLOBAL_SEED"), NUMBERS),
    **dict.fromkeys(("PL_TRAINER_OVERFIT_BATCHES", "PL_TRAINER_MAX_STEPS"), NUMBERS),
    "MASTER_ADDR": PLACES,
    "MASTER_PORT": ("29500", "0", "abc", "", "99999"),
    "SLURM_JOB_ID": ("4711", "", "abc"),
    "SLURM_JOB_NAME": ("bash", "interactive", "train.sh"),
    "SLURM_NODELIST": ("node[1-4]", "localhost"),
    "SLURM_STEP_TASKS_PER_NODE": ("2(x2)", "1", "1(x4)", "abc"),
    "SLURM_ARRAY_JOB_ID": ("12", ""),
    "LSB_JOBID": ("7",),
    "LSB_DJOB_RANKFILE": ("/nowhere",),
    "TORCHELASTIC_RUN_ID": ("none", ""),
    "TORCHELASTIC_USE_AGENT_STORE": ("True", "False"),
    "HANDGRAD_RENDEZVOUS": ("/nowhere/store", "env://", ""),
    "GLOO_SOCKET_IFNAME": ("lo", "eth9"),
    "KUBERNETES_PORT": ("tcp://10.0.0.1:443",),
    "STANDALONE_PORT": ("abc",),
    "MPLBACKEND": ("module://matplotlib_inline.backend_inline", "nonsense"),
}
FAMILIES = ("RANK", "WORLD", "SLURM", "JSM", "PMI", "TORCH", "MASTER", "PL_", "LSB", "OMPI", "")
ARGUMENTS = (
    *("data=iris", "model.hidden=5", "trainer.max_epochs=2", "trainer.timeout=4"),
    *("trainer.enable_progress_bar=false", "hydra.run.dir=run"),
)
LONGEST = 60.0  # seconds; on an idle machine a training takes two


class Ending(NamedTuple):
    """Holds how a training ended, and what it left."""

    code: int | None  # None: it was still running
    error: str
    files: list[str]
    figures: dict[str, Any]


def environment(draw: random.Random) -> dict[str, str]:
    """Draw variables: most of a family, as a program leaves them, and a few of any other."""
    family = draw.choice(FAMILIES)
    names = [name for name in VALUES if family in name and draw.random() < 0.8]
    names += draw.sample(list(VALUES), draw.randint(0, 4))
    return {name: draw.choice(VALUES[name]) for name in names}


def train(variables: dict[str, str], folder: Path, devices: int) -> Ending:
    """Train in a forked process, amid variables."""
    folder.mkdir()
    child = os.fork()
    if child == 0:
        be_train(variables, folder, devices)
    deadline = time.monotonic() + LONGEST
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    run = folder / "run"
    files = sorted(  # an event file's name holds the time and the process
        "event file" if path.name.startswith("events.out") else str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file()
    )
    metrics = run / "metrics.json"
    figures = json.loads(metrics.read_text()) if metrics.exists() else {}
    figures.pop("run/fit_seconds", None)
    code = os.waitstatus_to_exitcode(ended[1]) if ended[0] else None
    return Ending(code, (folder / "err").read_text(), files, figures)


def be_train(variables: dict[str, str], folder: Path, devices: int) -> None:
    """Be `python train.py`, and end."""
    code = 99
    try:
        os.chdir(folder)
        os.environ.update(variables)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["train.py", *ARGUMENTS, f"trainer.devices={devices}"]
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fault(ending: Ending, clean: Ending) -> str:
    """Return what is wrong with an ending, or ""."""
    if ending.code is None:
        return f"still running after {LONGEST:.0f} s"
    if "Traceback" in ending.error:
        return "a trace"
    if ending.code == 0:
        return "" if ending[1:] == clean[1:] else "not what an empty environment gives"
    if ending.code != 2:
        return f"exit code {ending.code}"
    checkpoints = [name for name in ending.files if name.endswith(".ckpt")]
    return "" if ending.error.count("\n") == 1 and not checkpoints else "not refused in one line"


def main() -> int:
    """Train amid drawn environments; return 1 if an ending was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", type=int, default=1)
    asked = parser.parse_args()
    draw, begin, faults, refused = random.Random(asked.seed), time.monotonic(), 0, 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="left-over-") as name:
        clean = train({}, Path(name) / "clean", asked.devices)
        assert clean.code == 0, clean
        for number in range(asked.count):
            variables, folder = environment(draw), Path(name) / str(number)
            ending = train(variables, folder, asked.devices)
            refused += ending.code == 2
            if wrong := fault(ending, clean):
                faults += 1
                print(f"{number}: {wrong}\n  {variables}\n  {ending}", flush=True)
            shutil.rmtree(folder)
    seconds = time.monotonic() - begin
    print(
        f"{asked.count} environments (--seed {asked.seed}, {asked.devices} device(s)) in "
        f"{seconds:.0f} s: {asked.count - refused - faults} trained as in an empty one, "
        f"{refused} were refused with one line, {faults} went wrong"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

"""A run's folder: claimed by one run at a time, tried before it begins, and its JSON files."""

import datetime
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from handgrad.config.compose import arguments
from handgrad.config.errors import BadInput, in_bytes, warn

LOCK = ".lock"
MOMENT = 0.1  # seconds in which a run that is ending lets go of its lock
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)  # of some network file systems
CHECKPOINTS = ("last.ckpt", "previous.ckpt", "best.ckpt")
JSON = ("metrics.json", "run.json", "outcome.json", "metrics_test.json", "metrics_check.json")
TEMPORARY = {f".{name}.tmp" for name in ("probe", *CHECKPOINTS, *JSON)}
REPLACED = ("metrics.json", "metrics.csv", "curves.csv", "report.md", "events.out.tfevents.*")
COMPOSED = (".hydra", ".hydra.new")  # the configuration of a run, and of one that has not begun
PACKAGES = ("torch", "lightning", "hydra-core", "numpy")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, which releases it however it ends.

    Once it is held, temporary files in it are left from a run that was killed, and are removed.

    Raises:
        BadInput: if another run holds it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout  # late: --help answers without it

    path = folder / LOCK
    lock = FileLock(path, timeout=MOMENT, poll_interval=MOMENT / 5)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BadInput(
            f"hydra.run.dir={folder}: another run is writing there; name another folder"
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise _unwritable(folder, error) from None
    try:
        for left in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
            if left.name in TEMPORARY:
                left.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is locked: who opened it before sees that it is gone
        lock.release()


def probe(folder: Path, needed: int = 1) -> None:
    """Refuse a folder in which no file of some bytes can be written.

    Args:
        folder: made if it does not exist.
        needed: bytes.

    Raises:
        BadInput: one line that says why.
    """
    path = folder / ".probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(bytes(needed))
    except OSError as error:
        raise _unwritable(folder, error, needed) from None
    finally:
        with suppress(OSError):
            path.unlink()


def _unwritable(folder: Path, error: OSError, needed: int = 1) -> BadInput:
    """Return the line that says why nothing can be written to a folder."""
    room = (
        f"; a checkpoint needs {in_bytes(needed)}"
        if error.errno == errno.ENOSPC and needed > 1
        else ""
    )
    return BadInput(
        f"hydra.run.dir={folder}: cannot be written to ({error.strerror}{room}); "
        "name another folder"
    )


def check_free(folder: Path, renewed: Path | None = None) -> None:
    """Refuse a folder with files that a training from the beginning would replace.

    What a training left that ended before its first checkpoint may be replaced.

    Args:
        folder: of the run.
        renewed: a file that this training is to make again.

    Raises:
        BadInput: one line that names a file, and what to do.
    """
    states = [folder / "checkpoints" / name for name in CHECKPOINTS]
    kept = [path for path in states if path.is_file() and path != renewed]
    figures = folder / "metrics.json"
    if not kept and read_json(folder / "run.json") and read_json(figures).keys() <= {"check/wrong"}:
        kept = [figures] if figures.is_file() and not read_json(figures) else []
    else:
        found = (path for name in REPLACED for path in sorted(folder.glob(name)))
        kept += [path for path in found if path.is_file()]
    if kept:
        last = any(path.is_file() for path in states[:2])
        resume = "ckpt_path=last resumes the training there, and " if last else ""
        raise BadInput(
            f"hydra.run.dir={folder}: contains {kept[0].relative_to(folder)}, which a training "
            f"from the beginning would replace; {resume}another hydra.run.dir begins a new one"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the values in a JSON file, none where it is not one of ours."""
    with suppress(OSError, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def is_ours(figures: Path) -> bool:
    """Return whether a file of figures is one that a task of this program has written."""
    return bool({"check/wrong", "run/devices"} & read_json(figures).keys())


def set_aside(path: Path) -> None:
    """Rename a file of this name that this run did not write, and say so."""
    aside = path.with_name(f"{path.name}.before")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}.before")
    os.replace(path, aside)
    warn(f"{path} is not of this training; it is {aside.name} now")


def place_for_figures(folder: Path, task: str) -> Path:
    """Return the file for the figures of a task that does not train: not that of a training."""
    path, values = folder / "metrics.json", read_json(folder / "metrics.json")
    if (folder / "run.json").exists() or "run/updates" in values:
        print(f"The figures are in metrics_{task}.json: metrics.json is the training's")
        return path.with_name(f"metrics_{task}.json")
    if path.exists() and not is_ours(path):
        set_aside(path)
    return path


def composed_into(folder: str) -> str:
    """Return where in a run's folder Hydra writes the configuration of what has not begun."""
    return COMPOSED[Path(folder, "run.json").is_file()]


OmegaConf.register_new_resolver("composed_into", composed_into, replace=True)


def begin(folder: Path) -> None:
    """Put the configuration of what begins in the place of that of an earlier life."""
    present, new = (folder / name for name in COMPOSED)
    if new.is_dir():
        shutil.rmtree(present, ignore_errors=True)
        new.rename(present)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def write_run(folder: Path, config: dict[str, Any]) -> None:
    """Write run.json, which says what was run and with which code, beside its configuration."""
    begin(folder)
    write_json(
        folder / "run.json",
        {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "seed": config["seed"],
            "commit": _git("rev-parse", "HEAD"),
            "changed_since_commit": bool(_git("status", "--porcelain")),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    )


def _git(*arguments: str) -> str | None:
    """Return what git says of the code's own checkout, or None where it is not one."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def point_to(folder: Path) -> None:
    """Make `.latest` in the working directory a link to the newest run.

    The link is outside logs/, so that TensorBoard does not show the run twice.
    """
    link, temporary = Path(".latest"), Path(f".latest.{os.getpid()}")
    with suppress(OSError):  # a convenience: some file systems have no links
        temporary.symlink_to(folder.resolve())
        os.replace(temporary, link)


def to_continue(folder: Path) -> str:
    """Return the words that continue the command that trains in a folder.

    The command may be a sweep, or a search or replay whose folder contains the run's. Hydra has
    written into the command's folder what it is.
    """
    for whole in (folder, *folder.parents[:2]):
        if (written := whole / ".hydra" / "hydra.yaml").is_file():
            command = OmegaConf.load(written).hydra
            if command.mode == "MULTIRUN":
                return f"the same command and {arguments({'hydra.sweep.dir': command.sweep.dir})}"
            break
    else:
        whole = folder
    last = {"ckpt_path": "last"} if whole == folder else {}
    return f"the same command and {arguments({**last, 'hydra.run.dir': whole})}"


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def made_on() -> dict[str, str]:
    """Return the date, the machine and the software that a result was made with."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, PyTorch {version('torch')}",
    }

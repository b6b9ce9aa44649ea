"""A run's folder: claimed by one run at a time, tried before it begins, and its JSON files."""

import datetime
import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from handgrad.config.compose import arguments
from handgrad.config.errors import BadInput, in_bytes

LOCK = ".lock"
MOMENT = 0.1  # seconds in which a run that is ending lets go of its lock
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)  # of some network file systems
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


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def write_run(folder: Path, config: dict[str, Any]) -> None:
    """Write run.json, which says what was run and with which code."""
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

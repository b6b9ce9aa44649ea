"""A run's folder belongs to one run at a time, and can be written to before anything begins."""

import datetime
import errno
import fcntl
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

from handgrad.config.errors import BadInput, in_bytes

# FOLDED from record.py: 'What a run leaves beside its checkpoints: metrics.json, run.json, and where the newest is.'
PACKAGES = ("torch", "lightning", "hydra-core", "numpy")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def write_run(folder: Path, config: dict[str, Any]) -> None:
    """Write run.json: what was run, with which code."""
    write_json(
        folder / "run.json",
        {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "seed": config["seed"],
            "commit": git("rev-parse", "HEAD"),
            "changed_since_commit": bool(git("status", "--porcelain")),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    )


def git(*arguments: str) -> str | None:
    """What git says of the code's own checkout; None where it is none."""
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

    It lies outside logs/, so that TensorBoard does not show the run twice.
    """
    link, temporary = Path(".latest"), Path(f".latest.{os.getpid()}")
    with suppress(OSError):  # a convenience: some file systems have no links
        temporary.symlink_to(folder.resolve())
        os.replace(temporary, link)


LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)  # some file systems of a network


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it however the process ends.

    Once it is held, temporary files in it are of a run that is dead: they are removed.

    Raises:
        BadInput: if another run holds it, or it cannot be written to.
    """
    path = folder / LOCK
    descriptor = acquire(path)
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def acquire(path: Path) -> int:
    """The locked file's descriptor.

    Raises:
        BadInput: if another process holds it, or it cannot be made.
    """
    while True:
        descriptor = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BadInput(
                f"hydra.run.dir={path.parent}: another run is writing there; name another folder"
            ) from None
        except OSError as error:
            if descriptor < 0 or error.errno not in WITHOUT_LOCKS:
                raise unwritable(path.parent, error) from None
        if is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # a run that ended just now removed it: try the new one


def is_still(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def sweep(folder: Path) -> None:
    """Remove the temporary files of a run that did not come to rename them."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        path.unlink(missing_ok=True)


def probe(folder: Path, needed: int = 1) -> None:
    """Try whether a folder takes a file.

    Args:
        folder: made, if it is not there.
        needed: bytes.

    Raises:
        BadInput: one line that says why not.
    """
    path = folder / ".probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(bytes(needed))
    except OSError as error:
        raise unwritable(folder, error, needed) from None
    finally:
        with suppress(OSError):
            path.unlink()


def unwritable(folder: Path, error: OSError, needed: int = 1) -> BadInput:
    """Why nothing can be written to a folder, as one line."""
    room = f"; a checkpoint needs {in_bytes(needed)}" if error.errno == errno.ENOSPC else ""
    return BadInput(
        f"hydra.run.dir={folder}: cannot be written to ({error.strerror}{room}); "
        "name another folder"
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def made_on() -> dict[str, str]:
    """The date and the machine."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, PyTorch {version('torch')}",
    }

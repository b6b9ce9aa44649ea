"""What a run leaves beside its checkpoints: metrics.json, run.json, and where the newest is."""

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

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

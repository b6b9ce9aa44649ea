"""One run of a sweep: not again if it is done, and from where it was if it was interrupted.

How a run ended is kept in its folder, because another process may have run it.
"""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from handgrad.config.errors import BadInput, Failed
from handgrad.devices import launch
from handgrad.runs.folder import write_json

FILE = "outcome.json"
CODES = {"done": 0, "pruned": 0, "failed": 1, "unfinished": 1, "refused": 2}


class Outcome(NamedTuple):
    """Holds how a run ended, and why it did not end well."""

    how: Literal["done", "pruned", "failed", "refused", "unfinished"]
    why: str = ""

    @classmethod
    def of(cls, folder: Path) -> "Outcome":
        """Read how the run in a folder ended, unfinished where it left no outcome."""
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls("unfinished")

    def keep(self, folder: Path) -> None:
        """Write the outcome into the run's folder."""
        write_json(folder / FILE, self._asdict())

    @property
    def code(self) -> int:
        """Exit code for this outcome."""
        return CODES[self.how]

    def __str__(self) -> str:
        return f"{self.how}: {self.why}" if self.why else self.how


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep how the run within ends, where a crash is a failure of this run, not of the sweep.

    Raises:
        BadInput: as within.
        Failed: as within, or with the traceback of any other error.
    """
    (folder / FILE).unlink(missing_ok=True)
    try:
        yield
    except (BadInput, OmegaConfBaseException) as error:
        Outcome("refused", " ".join(str(error).split())).keep(folder)
        raise
    except Failed as error:
        Outcome("failed", _last_line(str(error))).keep(folder)
        raise
    except Exception as error:
        Outcome("failed", _last_line(f"{type(error).__name__}: {error}")).keep(folder)
        raise Failed(traceback.format_exc().rstrip()) from None
    Outcome("done").keep(folder)


def _last_line(text: str) -> str:
    """Return the line of a traceback that says what happened."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def run(job: launch.Job, *, side_by_side: bool) -> None:
    """Run a job, unless an earlier command of the same sweep has done so.

    Args:
        job: validated.
        side_by_side: whether other runs of the sweep share the screen with this one.

    Raises:
        BadInput: if the job does, or its folder holds a run with other settings.
        Failed: if the job fails.
    """
    config = job.config
    if side_by_side:
        config = {**config, "trainer": {**config["trainer"], "enable_progress_bar": False}}
    if config["task"] == "train" and config["ckpt_path"] is None:
        from handgrad.runs import loading  # late: it brings torch, which other tasks may not need

        config = {**config, "ckpt_path": loading.checkpoint_to_continue(job.folder, config)}
        if loading.is_done(job.folder):
            print(f"{job.folder.name} is done already and is not run again", flush=True)
            return
        if config["ckpt_path"]:
            print(f"{job.folder.name} continues where it was interrupted", flush=True)
    launch.run(job._replace(config=config), parallel_launcher=side_by_side)

"""One run of a sweep: not again if it is done, and from where it was if it was interrupted.

Its short name comes from the overrides that tell it from the others. How it ended is kept in its
folder, because another process may have run it.
"""

import hashlib
import re
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from handgrad.config.errors import BadInput, Failed
from handgrad.devices import launch
from handgrad.runs.folder import write_json

FILE = "outcome.json"
CODES = {"done": 0, "pruned": 0, "failed": 1, "unfinished": 1, "refused": 2}
LONGEST = 80  # characters of a name, without its checksum
# Between key and value, between settings, before a checksum; and what is replaced.
STYLE = ("-", "_", "_", r"[^A-Za-z0-9_.+-]+")
STYLE_OF_BEFORE = ("=", ",", "~", r"[^\w.,=+-]+")


class Outcome(NamedTuple):
    """Holds how a run ended, and why it did not end well."""

    how: Literal["done", "pruned", "failed", "refused", "unfinished"]
    why: str = ""

    @classmethod
    def of(cls, folder: Path) -> "Outcome":
        """Read how the run in a folder ended, unfinished without a whole outcome."""
        try:
            return _OUTCOME.validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError):
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


_OUTCOME = TypeAdapter(Outcome)


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
    except Exception as error:
        known = isinstance(error, Failed)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        # The last line of a traceback says what happened.
        Outcome("failed", next(reversed(text.strip().splitlines()), "")).keep(folder)
        if known:
            raise
        raise Failed(traceback.format_exc().rstrip()) from None
    Outcome("done").keep(folder)


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


def settings(overrides: Sequence[str], same: Sequence[str]) -> dict[str, str]:
    """Return what was set for one run alone.

    Args:
        overrides: of the run, KEY=VALUE each.
        same: keys that are the same for all runs of its sweep.
    """
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    return {key: value for key, _, value in pairs if key not in same}


def run_name(overrides: Sequence[str], same: Sequence[str], sweep: str = "") -> str:
    """Return the name of one run's folder, such as `hidden-10_seed-1`, or its name of before.

    Args:
        overrides: of the run.
        same: keys that are the same for all runs of its sweep.
        sweep: the sweep's folder, in which an earlier version may have named the run.
    """
    chosen = settings(overrides, same) or settings(overrides, ())
    before = name_of(chosen, STYLE_OF_BEFORE)
    return before if chosen and Path(sweep, before).is_dir() else name_of(chosen) or "run"


def name_of(chosen: Mapping[str, object], style: tuple[str, str, str, str] = STYLE) -> str:
    """Return a name for settings that neither a shell nor a file system nor Hydra has to quote.

    A key is its last part, where that is enough. Where a character had to go, or the name would be
    too long or could be read in two ways, a checksum of the whole keeps it unique.
    """
    equals, comma, mark, illegal = style
    last = {key: key.rpartition(".")[2] for key in chosen}
    often = Counter(last.values())
    short = {key if often[last[key]] > 1 else last[key]: value for key, value in chosen.items()}
    whole = ",".join(f"{key}={value}" for key, value in short.items())
    spelt = comma.join(f"{key}{equals}{value}" for key, value in short.items())
    name = re.sub(illegal, "-", re.sub("['\"]", "", spelt))
    clear = name == spelt and all(name.count(f"{comma}{key}{equals}") < 2 for key in short)
    if clear and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}{mark}{hashlib.sha256(whole.encode()).hexdigest()[:6]}"

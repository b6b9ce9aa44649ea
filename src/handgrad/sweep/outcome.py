"""How each run of a sweep ended: kept in its folder, because other processes may have run it."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from omegaconf.errors import OmegaConfBaseException

from handgrad.errors import BadInput, Failed
from handgrad.record import write_json

FILE = "outcome.json"
CODES = {"done": 0, "pruned": 0, "failed": 1, "unfinished": 1, "refused": 2}


class Outcome(NamedTuple):
    """How a run ended, and why it did not end well."""

    how: Literal["done", "pruned", "failed", "refused", "unfinished"]
    why: str = ""

    @property
    def code(self) -> int:
        """The exit code that it stands for."""
        return CODES[self.how]

    def __str__(self) -> str:
        return f"{self.how}: {self.why}" if self.why else self.how


def of(folder: Path) -> Outcome:
    """How the run in a folder ended; one that left no word did not come to its end."""
    try:
        return Outcome(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Outcome("unfinished")


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep how what is run within ends; a crash is a failure of this run, not of the sweep.

    Raises:
        BadInput: as within.
        Failed: as within, or with the traceback of any other error.
    """
    (folder / FILE).unlink(missing_ok=True)
    try:
        yield
    except (BadInput, OmegaConfBaseException) as error:
        keep(folder, Outcome("refused", " ".join(str(error).split())))
        raise
    except Failed as error:
        keep(folder, Outcome("failed", last_line(str(error))))
        raise
    except Exception as error:
        keep(folder, Outcome("failed", last_line(f"{type(error).__name__}: {error}")))
        raise Failed(traceback.format_exc().rstrip()) from None
    keep(folder, Outcome("done"))


def keep(folder: Path, outcome: Outcome) -> None:
    """Write how the run in a folder ended."""
    write_json(folder / FILE, outcome._asdict())


def last_line(text: str) -> str:
    """Of a traceback, the line that says what happened."""
    return text.strip().splitlines()[-1] if text.strip() else ""

"""Short names for the runs of a sweep, from the overrides that tell them apart."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

LONGEST = 80  # characters of a name, without its checksum


def settings(overrides: Sequence[str], same: Sequence[str]) -> dict[str, str]:
    """Return what was set for one run alone.

    Args:
        overrides: of the run, KEY=VALUE each.
        same: keys that are the same for all runs of its sweep.
    """
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    return {key: value for key, _, value in pairs if key not in same}


def run_name(overrides: Sequence[str], same: Sequence[str]) -> str:
    """Return the name of one run's folder, such as `hidden=10,seed=1`."""
    return name_of(settings(overrides, same) or settings(overrides, ())) or "run"


def name_of(chosen: Mapping[str, object]) -> str:
    """Return a name for settings that is valid for a file.

    A key is its last part, where that is enough. Where a character had to go, or the name would be
    too long, a checksum of the whole keeps it unique.
    """
    last = {key: key.rpartition(".")[2] for key in chosen}
    often = Counter(last.values())
    short = {key if often[last[key]] > 1 else last[key]: value for key, value in chosen.items()}
    whole = ",".join(f"{key}={value}" for key, value in short.items())
    name = re.sub(r"[^\w.,=+-]+", "-", whole.replace("'", "").replace('"', ""))
    if name == whole and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}~{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def quoted(text: str) -> str:
    """Return text as a value on Hydra's command line."""
    return QuotedString(text, Quote.single).with_quotes()


# A sweep's processes import this module too, before Hydra asks for their folders.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)

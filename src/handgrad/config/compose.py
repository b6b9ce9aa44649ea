"""Composed configurations as plain containers, and the values that overrides name or are given.

Names that classes had before they moved still work in older checkpoints and configurations.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from handgrad.config.errors import BadInput

TYPED = 32  # values of one key that somebody typed; more of them are a range
MOST = 10_000  # values of one key that a grid may have
MOVED = {  # the name that a configuration may contain, and where the class is now
    "handgrad.optimizers.GradientDescent": "handgrad.training.optimizers.GradientDescent",
    "handgrad.data.boolean.Parity": "handgrad.data.sources.Parity",
    "handgrad.data.boolean.Symmetry": "handgrad.data.sources.Symmetry",
    "handgrad.csv_log.CsvLog": "handgrad.dashboard.loggers.CsvLog",
    "handgrad.dashboard.event_log.EventLog": "handgrad.dashboard.loggers.EventLog",
}


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration, resolved, in plain containers, without Hydra's own part.

    Raises:
        BadInput: if a value is missing.
    """
    ours = config.copy()
    with open_dict(ours):
        ours.pop("hydra", None)
    if missing := sorted(OmegaConf.missing_keys(ours)):
        raise BadInput("missing: " + " ".join(f"{key}=VALUE" for key in missing))
    return with_present_names(OmegaConf.to_container(ours, resolve=True))


def with_present_names(value: Any) -> Any:
    """Return a copy of plain containers in which classes have the names they have now.

    Only whole strings are replaced, so that a path or a name that contains an old one stays.
    """
    if isinstance(value, dict):
        return {key: with_present_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_present_names(each) for each in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Return overrides as Hydra reads them, in which `glob` finds the choices of a group."""
    loader = GlobalHydra.instance().config_loader()
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def every_value(overrides: list[str]) -> Iterator[list[str]]:
    """Yield command lines of single runs that together hold every value of a grid.

    They are as many as its longest list, not as its jobs, because each takes time to compose.
    """
    columns = []
    for override in parsed(overrides):
        values = [str(override.input_line)]
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                continue  # a search draws its values later
            found = list(islice(override.sweep_string_iterator(), MOST + 1))
            if not 1 <= len(found) <= MOST:
                word = "matches nothing" if not found else f"has more than {MOST:,} values"
                raise BadInput(f"{override.input_line}: {word}")
            values = [f"{override.get_key_element()}={each}" for each in found]
        columns.append(values[:TYPED])
    for number in range(max(map(len, columns), default=0)):
        yield [column[min(number, len(column) - 1)] for column in columns]


def typed(value: object) -> str:
    """Return a value as Hydra reads it from the command line, in quotes where it has to be."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if isinstance(value, int | float):
        return text
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # not an interpolation
    with suppress(HydraException):
        if escaped == OverridesParser.create().parse_override(f"key={text}").value():
            return text
    return QuotedString(escaped, Quote.double).with_quotes()


def arguments(values: Mapping[str, object]) -> str:
    """Return KEY=VALUE arguments from which a shell and Hydra read exactly these values."""
    return shlex.join(f"{key}={typed(value)}" for key, value in values.items())

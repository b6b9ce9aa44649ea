"""Composed configurations as plain containers, and the values that overrides name.

Names that classes had before they moved still work in older checkpoints and configurations.
"""

from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from handgrad.config.errors import BadInput

TYPED = 32  # values of one key that somebody typed; more of them are a range
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


def every_value(overrides: list[str]) -> Iterator[list[str]]:
    """Yield command lines of single runs that together hold every value of a grid.

    They are as many as its longest list, not as its jobs, because each takes time to compose.
    """
    columns = []
    for override in OverridesParser.create().parse_overrides(overrides):
        values = [str(override.input_line)]
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                continue  # a search draws its values later
            values = [
                f"{override.get_key_element()}={each}" for each in override.sweep_string_iterator()
            ]
        columns.append(values[:TYPED])
    for number in range(max(map(len, columns), default=0)):
        yield [column[min(number, len(column) - 1)] for column in columns]

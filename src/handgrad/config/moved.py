"""Names that classes had before they moved, so that older checkpoints and configurations work."""

from typing import Any

MOVED = {  # the name that a configuration may contain, and where the class is now
    "handgrad.optimizers.GradientDescent": "handgrad.training.optimizers.GradientDescent",
    "handgrad.data.boolean.Parity": "handgrad.data.sources.Parity",
    "handgrad.data.boolean.Symmetry": "handgrad.data.sources.Symmetry",
    "handgrad.csv_log.CsvLog": "handgrad.dashboard.loggers.CsvLog",
    "handgrad.dashboard.event_log.EventLog": "handgrad.dashboard.loggers.EventLog",
}


def with_present_names(value: Any) -> Any:
    """Return a copy of plain containers in which classes have the names they have now.

    Only whole strings are replaced, so that a path or a name that contains an old one stays.
    """
    if isinstance(value, dict):
        return {key: with_present_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_present_names(each) for each in value]
    return MOVED.get(value, value) if isinstance(value, str) else value

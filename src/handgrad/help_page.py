"""`--help` in less than half the time, the same to the letter."""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType

with_a_copy = ConfigLoaderImpl.get_group_options


def get_group_options(
    self: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    """The choices of a group; only a search path of one's own needs a copy of the repository."""
    if config_name or overrides:
        return with_a_copy(self, group_name, results_filter, config_name, overrides)
    return self.repository.get_group_options(group_name, results_filter)


def list_groups_without_copies() -> None:
    """Keep Hydra from copying its whole repository for each group that it lists: 119 times."""
    options: Any = get_group_options
    ConfigLoaderImpl.get_group_options = options

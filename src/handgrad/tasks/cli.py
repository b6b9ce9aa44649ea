"""From the command line to a task: compose, refuse what is wrong, run, answer with an exit code."""

import importlib
import os
import re
import sys
import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from yaml import YAMLError

from handgrad.config.compose import as_typed, every_value, plain
from handgrad.config.errors import BadInput, Failed, printable, warn
from handgrad.devices import ranks
from handgrad.runs.folder import claimed, probe

# FOLDED from help_page.py: '`--help` in less than half the time, the same to the letter.'
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


BAD_INPUT = 2
ODD_CHOICE = (TypeError, ValueError)  # of Hydra, where a group is to be no name, or [false]
ONE_AFTER_THE_OTHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def main(config_path: Path) -> int:
    """Run what the command line asks for.

    Args:
        config_path: the folder of config.yaml.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors reach us as exceptions
    OmegaConf.register_new_resolver("process", os.getpid, replace=True)
    warnings.formatwarning = lambda message, *_, **__: f"train.py: warning: {message}\n"
    list_groups_without_copies()
    codes: list[int] = []  # of the jobs; there are several with --multirun

    @hydra.main(version_base="1.3", config_path=str(config_path), config_name="config")
    def composed(config: DictConfig) -> None:
        codes.append(0)
        codes[-1] = run(config)

    try:
        sys.argv[1:] = flags_first(sys.argv[1:])
        with ranks.one_folder():
            composed()
    except (BadInput, HydraException, OmegaConfBaseException, YAMLError, *ODD_CHOICE) as error:
        if codes:
            raise  # not about the command line: a job was running
        return refuse(error)
    return max(codes, default=0)


def refuse(error: Exception) -> int:
    """Print one line about bad input."""
    print(f"train.py: {printable(one_line(error))}", file=sys.stderr)
    return BAD_INPUT


def flags_first(arguments: list[str]) -> list[str]:
    """The same command line, with Hydra's flags before the overrides, where it wants them.

    Raises:
        BadInput: if a flag does not exist or lacks its value; one line instead of Hydra's usage.
    """

    def refuse_flag(message: str) -> NoReturn:
        raise BadInput(f"{message}; write KEY=VALUE, or a flag such as --help, --cfg job or -m")

    parser = get_args_parser()
    parser.error = refuse_flag
    overrides: list[str] = parser.parse_intermixed_args(arguments).overrides
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags + overrides


def check_choices(overrides: list[str]) -> None:
    """Refuse several choices of a group of which a run has one; Hydra would mix them.

    Raises:
        BadInput: one line that names the group.
    """
    from handgrad.config.schema import BY_TARGET

    for override in overrides:
        group, _, choice = override.partition("=")
        if group in BY_TARGET and choice.startswith("["):
            raise BadInput(f"{override}: one choice; a grid is -m {group}={choice.strip('[]')}")


def given_twice(overrides: list[str]) -> None:
    """Warn of keys that the command line gives more than once, of which the last holds."""
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    for key, count in Counter(keys).items():
        if count > 1:
            last = next(each for each in reversed(overrides) if each.lstrip("+").startswith(key))
            warn(f"{key} is given {count} times; the last one holds, {last}")


def one_line(error: Exception) -> str:
    """Hydra's and our own errors as one line that names the key and what is accepted."""
    from handgrad.config.refusals import unknown_key
    from handgrad.config.schema import GROUPS

    text = str(error)
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = f"'{key or 'KEY'}=\"{value or 'VALUE'}\"'"
        return f"{error.override}: not KEY=VALUE; quote an odd value twice, as in {quoted}"
    if isinstance(error, InterpolationResolutionError | InterpolationKeyError):
        return " ".join(f"{error.full_key}: {error.msg}".split())
    if isinstance(error, TypeError) or "Config group override must be" in text:
        named = [
            each for each in sys.argv[1:] if each.lstrip("+").partition("=")[0] in ("", *GROUPS)
        ]  # Hydra does not say which
        return f"{' '.join(named)}: a group takes the name of a choice, such as none; see --help"
    if match := re.search(r"Could not (?:override|append to config|delete)[^']*'([^'=]+)", text):
        return unknown_key(match[1].lstrip("+~"))
    if match := re.search(r"Could not find '([^']+)'", text):
        options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        choices = ", ".join(options[1].split()) if options else "see --help"
        return f"{match[1].replace('/', '=', 1)} does not exist; accepted: {choices}"
    return " ".join(text.split())


class Gate(Callback):
    """Refuses a wrong configuration before Hydra makes the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Called before the run; leaves by SystemExit, because Hydra swallows exceptions here."""
        given = as_typed(config)
        try:
            self.check(config, given)
            if ranks.is_first():
                HydraConfig.instance().set_config(config)  # the folder's name refers to it
                folder = Path(config.hydra.run.dir)
                with claimed(folder):
                    probe(folder)
        except (BadInput, OmegaConfBaseException) as error:
            sys.exit(refuse(error))
        given_twice(given)

    def check(self, config: DictConfig, given: list[str]) -> None:
        """Refuse a wrong configuration, or overrides that say two things.

        Raises:
            BadInput: one line that names the key and what is accepted.
        """
        from handgrad.config.validate import validate

        validate(plain(config))
        check_choices(given)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called before a sweep; each process of torchrun or srun would run all of it."""
        if launcher := ranks.launched_by():
            message = f"--multirun starts the devices' processes itself: leave {launcher} away"
            sys.exit(refuse(BadInput(message)))
        given = as_typed(config)
        try:
            for overrides in every_value(given):
                self.check(hydra.compose("config", overrides), overrides)
        except (BadInput, HydraException, OmegaConfBaseException) as error:
            sys.exit(refuse(error))
        given_twice(given)


def run(config: DictConfig) -> int:
    """Run one job in its folder.

    Returns:
        Its exit code.
    """
    from handgrad.tasks.sweep import job

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    try:
        with job.kept(folder) if in_sweep else nullcontext():
            start(config, list(hydra_config.overrides.task), folder, in_sweep)
    except (BadInput, OmegaConfBaseException) as error:
        return refuse(error)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def start(config: DictConfig, overrides: list[str], folder: Path, in_sweep: bool) -> None:
    """Validate and start a job.

    Raises:
        BadInput: if its configuration is wrong, or the task finds its input wrong.
        Failed: if the task fails.
    """
    from handgrad.config.validate import validate
    from handgrad.devices import launch
    from handgrad.tasks.sweep import job

    values = plain(config)
    validate(values)
    wanted = launch.Job(run_task, values, overrides, folder)
    if in_sweep:
        side_by_side = HydraConfig.get().launcher._target_ != ONE_AFTER_THE_OTHER
        job.run(wanted, side_by_side=side_by_side)
    else:
        launch.run(wanted, parallel_launcher=False)


def run_task(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Run the task that a validated configuration names, in this process."""
    task = importlib.import_module(f"handgrad.tasks.{config['task']}")
    task.run(config, overrides, folder)

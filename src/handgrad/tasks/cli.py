"""Command line of handgrad: compose, refuse what is wrong, run the task, answer with an exit code.

Nothing heavy is imported before a configuration has passed, so that help and refusals come at once.
"""

import atexit
import difflib
import importlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from handgrad.config.compose import arguments, every_value, plain
from handgrad.config.errors import (
    BadInput,
    Failed,
    files_in_one_line,
    printable,
    survive_output,
    visible,
    warn,
)
from handgrad.devices import ranks
from handgrad.runs.folder import COMPOSED, claimed, probe

BAD_INPUT = 2
# What is raised where configurations are composed; the last two by a group that is null or [false].
WRONG = (BadInput, HydraException, OmegaConfBaseException, YAMLError, TypeError, ValueError)
ONE_AFTER_THE_OTHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def main(config_path: Path) -> int:
    """Run what the command line asks for.

    Args:
        config_path: the folder of config.yaml.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input.
    """
    survive_output()
    if sys.platform not in ("linux", "darwin"):
        told = f"train.py: warning: handgrad is tested on Linux and macOS, not on {sys.platform}"
        print(told, file=sys.stderr, flush=True)
    ranks.forget_leftovers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors reach us as exceptions
    OmegaConf.register_new_resolver("process", os.getpid, replace=True)
    warnings.formatwarning = lambda message, *_, **__: (
        f"train.py: warning: {printable(str(message))}\n"
    )
    ConfigLoaderImpl.get_group_options = get_group_options  # pyright: ignore[reportAttributeAccessIssue]
    ConfigRepository.load_config = load_config
    codes: list[int | None] = []  # of the jobs, None for one that is running

    @hydra.main(version_base="1.3", config_path=str(config_path), config_name="config")
    def composed(config: DictConfig) -> None:
        codes.append(None)
        codes[-1] = _run_job(config)

    try:
        sys.argv[1:] = flags_first(sys.argv[1:], config_path)
        composed()
    except WRONG as error:
        if codes:
            raise  # not about the command line: a job was running
        return _refuse(error)
    except OSError as error:
        if None in codes:
            raise
        place = error.filename or "the current folder or the run's"
        return _refuse(BadInput(f"{place} cannot be written to ({error.strerror})"))
    return max(filter(None, codes), default=0)


def flags_first(arguments: list[str], conf: Path) -> list[str]:
    """Return the command line with Hydra's flags before the overrides, where Hydra needs them.

    Args:
        arguments: as typed.
        conf: the folder of config.yaml.

    Raises:
        BadInput: if a flag does not exist or lacks its value, or a word sets no key; one line
            instead of Hydra's usage.
    """
    from handgrad.config import refusals

    def refuse_flag(message: str) -> NoReturn:
        first = message.partition("unrecognized arguments: ")[2].partition(" ")[0]
        if keys := refusals.meant(first.lstrip("-").partition("=")[0]) if first else []:
            raise BadInput(f"{first}: a key has no dashes; write {keys[0]}=VALUE")
        raise BadInput(f"{message}; write KEY=VALUE, or a flag such as --help, --cfg job or -m")

    parser = get_args_parser()
    parser.error = refuse_flag
    overrides: list[str] = parser.parse_intermixed_args(arguments).overrides
    refusals.check_words(overrides, conf)
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags + overrides


with_a_copy = ConfigLoaderImpl.get_group_options


def get_group_options(
    self: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    """List the choices of a group, in less than half of Hydra's time for `--help`.

    Hydra copies its whole repository for each of the 119 groups. Only a search path of one's own
    requires the copy.
    """
    if config_name or overrides:
        return with_a_copy(self, group_name, results_filter, config_name, overrides)
    return self.repository.get_group_options(group_name, results_filter)


as_hydra_reads = ConfigRepository.load_config


def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Read a configuration's file as Hydra does, and name the file where something is wrong.

    Raises:
        BadInput: one line that says what to write or how to save it.
    """
    from handgrad.config.refusals import check_experiment

    source = self._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() != "file":
        return as_hydra_reads(self, config_path)
    path = Path(source.path, source._normalize_file_name(config_path))
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise BadInput(f"{path} begins with a byte order mark; save it as UTF-8 without BOM")
        if config_path.startswith(("experiment/", "debug/")):
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            check_experiment(str(path), content, source._get_header_dict(text)["package"])
        return as_hydra_reads(self, config_path)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise BadInput(f"{path} is not valid UTF-8 (byte {wrong:#x}); save it as UTF-8") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        hint = "; indent with spaces, not with tabs" if "\\t" in str(problem) else ""
        raise BadInput(f"{place}: {problem or _one_line(error)}{hint}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def _refusing() -> Iterator[None]:
    """Exit where a configuration is wrong: Hydra swallows every other exception here."""
    try:
        yield
    except WRONG as error:
        sys.exit(_refuse(error))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


class Gate(Callback):
    """Refuses a wrong configuration before Hydra makes the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a run with a wrong configuration, or whose folder cannot be used."""
        from handgrad.devices import launch

        given = _as_typed(config)
        with _refusing():
            self.check(config, given)
            launch.settle(plain(config)["trainer"])
            if ranks.is_first():
                HydraConfig.instance().set_config(config)  # the folder's name refers to it
                folder = Path(config.hydra.run.dir)
                with claimed(folder):
                    probe(folder)
            else:
                _leave_nothing(config)
        ranks.tell_of_leftovers()
        _warn_of_repeats(given)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a sweep that contains a wrong value, or that torchrun or srun started.

        Each process of these would run the whole sweep.
        """
        given = _as_typed(config)
        with _refusing():
            if launcher := ranks.launched_by():
                raise BadInput(
                    f"--multirun starts the devices' processes itself: leave out {launcher}"
                )
            for overrides in every_value(given):
                job = hydra.compose("config", overrides)
                self.check(job, overrides)
                if job.trainer.num_nodes > 1:
                    raise BadInput("--multirun runs on one node: give trainer.num_nodes=1")
        _warn_of_repeats(given)

    def check(self, config: DictConfig, given: list[str]) -> None:
        """Refuse a wrong configuration, or several choices of a group of which a run has one.

        Raises:
            BadInput: one line that names the key and what is accepted.
        """
        from handgrad.config.schema import BY_TARGET
        from handgrad.config.validate import validate

        validate(plain(config))
        for override in given:
            group, _, choice = override.partition("=")
            if group in BY_TARGET and choice.startswith("["):  # Hydra would mix them
                grid = f"-m {group}={choice.strip('[]')}"
                raise BadInput(f"{override}: a run takes one choice; for a grid, write {grid}")


def _leave_nothing(config: DictConfig) -> None:
    """Keep Hydra from making a run's folder for a process that is not the first.

    The first process makes it. A folder whose name is the same for all processes is that one.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.output_subdir = None
        name = OmegaConf.to_container(config.hydra.run, resolve=False)["dir"]  # pyright: ignore
        if re.search(r"\$\{(now|process):", name):
            folder = config.hydra.run.dir = tempfile.mkdtemp(prefix="handgrad-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _as_typed(config: DictConfig) -> list[str]:
    """Return the overrides of the command line, with interpolations left as they are."""
    return OmegaConf.to_container(config.hydra.overrides.task)  # pyright: ignore[reportReturnType]


def _warn_of_repeats(overrides: list[str]) -> None:
    """Warn of keys that the command line gives more than once."""
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    for key, count in Counter(keys).items():
        if count > 1:
            last = next(
                each for each in reversed(overrides) if each.lstrip("+").startswith(f"{key}=")
            )
            warn(f"{key} is given {count} times; the last one counts: {last}")


def _refuse(error: Exception) -> int:
    """Print one line about bad input."""
    print(f"train.py: {printable(_one_line(error))}", file=sys.stderr)
    return BAD_INPUT


def _one_line(error: Exception) -> str:
    """Return an error of Hydra's or ours as one line that names the key and what is accepted."""
    from handgrad.config.refusals import did_you_mean, own_file, unknown_key
    from handgrad.config.schema import GROUPS

    text = str(error)
    if isinstance(error, OverrideParseException):
        return _quoting(str(error.override))
    if isinstance(error, OmegaConfBaseException):
        text = (error.msg or type(error).__name__).partition("\n    full_key")[0]
        return f"{error.full_key}: {text}" if error.full_key else text
    if isinstance(error, TypeError) or "Config group override must be" in text:
        named = [
            each for each in sys.argv[1:] if each.lstrip("+").partition("=")[0] in ("", *GROUPS)
        ]  # Hydra does not say which
        return f"{' '.join(named)}: a group takes the name of a choice, such as none; see --help"
    if match := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = match[1].partition("=")
        return (
            f"{match[1]}: for several runs, add -m (--multirun); for a list, write "
            f"{shlex.quote(f'{key}=[{value}]')}; for a text, {arguments({key: value})}"
        )
    if match := re.search(r"Either remove \+ prefix: '(.+)'\n", text):
        return f"+{match[1]}: the key exists; write {shlex.quote(match[1])}"
    if match := re.search(r"Could not (?:override|append to config|delete)[^']*'([^'=]+)", text):
        return unknown_key(match[1].lstrip("+~"))
    if match := re.search(r"Could not find '([^']+)'", text):
        options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        choices = options[1].split() if options else []
        group, _, choice = match[1].partition("/")
        near = own_file(choice) or difflib.get_close_matches(choice.lower(), choices, n=1)
        accepted = ", ".join(choices) or "see --help"
        return f"{group}={choice} does not exist; accepted: {accepted}{did_you_mean(near)}"
    if "backward.mistake=VALUE" in text:
        from handgrad.rules.planted import MISTAKES  # late: it brings torch

        text = f"{text}; accepted: {', '.join(MISTAKES)}"
    if text.startswith("Error merging override"):
        return f"{text}: {error.__cause__}".partition("\n    full_key")[0]
    return text


def _quoting(override: str) -> str:
    """Return one line on an override that Hydra's grammar does not take."""
    key, _, value = override.partition("=")
    if value.startswith(("[", "{")):
        example = {"[": '=["ONE","ANOTHER"]', "{": '={key: "ONE"}'}[value[0]]
        return f"{override} is not KEY=VALUE; quote each text, as in {shlex.quote(key + example)}"
    word = key if re.fullmatch(r"[\w.+@/-]+", key) else "KEY"
    quoted = arguments({word: value or "a value"})
    return f"{override} is not KEY=VALUE; quote a text for the shell and for Hydra: {quoted}"


def _run_job(config: DictConfig) -> int:
    """Run one job in its folder, on as many devices as it asks for, and return its exit code.

    The gate has validated a single run. Of a sweep it has seen every value, but not every
    combination of them, so a job of a sweep is validated here.
    """
    from handgrad.config.validate import validate
    from handgrad.devices import launch
    from handgrad.tasks.sweep import job

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    not_begun = folder / COMPOSED[1]
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    try:
        with files_in_one_line(folder), job.kept(folder) if in_sweep else nullcontext():
            values = plain(config)
            if in_sweep or "gate" not in (hydra_config.callbacks or ()):
                validate(values)
            wanted = launch.Job(run_task, values, list(hydra_config.overrides.task), folder)
            if in_sweep:
                side_by_side = hydra_config.launcher._target_ != ONE_AFTER_THE_OTHER
                job.run(wanted, side_by_side=side_by_side)
            else:
                launch.run(wanted, parallel_launcher=False)
    except (BadInput, OmegaConfBaseException) as error:
        return _refuse(error)
    except Failed as error:
        print(*map(visible, str(error).split("\n")), sep="\n", file=sys.stderr)  # or a traceback
        return 1
    finally:
        shutil.rmtree(not_begun, ignore_errors=True)  # of what was refused, or did not train
    return 0


def run_task(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Run the task that a validated configuration names, in this process."""
    task = importlib.import_module(f"handgrad.tasks.{config['task']}")
    task.run(config, overrides, folder)

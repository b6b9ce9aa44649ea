"""From the command line to a task: compose, refuse what is wrong, run, answer with an exit code."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from handgrad import ranks
from handgrad.errors import BadInput, Failed

BAD_INPUT = 2
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
    codes: list[int] = []  # of the jobs; there are several with --multirun

    @hydra.main(version_base="1.3", config_path=str(config_path), config_name="config")
    def start(config: DictConfig) -> None:
        codes.append(0)
        codes[-1] = run(config)

    try:
        with ranks.one_folder():
            start()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if codes:
            raise  # not about the command line: a job was running
        return refuse(error)
    return max(codes, default=0)


def refuse(error: Exception) -> int:
    """Print one line about bad input."""
    print(f"train.py: {one_line(error)}", file=sys.stderr)
    return BAD_INPUT


def one_line(error: Exception) -> str:
    """Hydra's and our own errors as one line that names the key and what is accepted."""
    from handgrad.config import unknown_key

    text = str(error)
    if match := re.search(r"Could not (?:override|append to config|delete)[^']*'([^'=]+)", text):
        return unknown_key(match[1].lstrip("+~"))
    if match := re.search(r"Could not find '([^']+)'", text):
        options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        choices = ", ".join(options[1].split()) if options else "see --help"
        return f"{match[1].replace('/', '=', 1)} does not exist; accepted: {choices}"
    return " ".join(text.split())


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration, resolved, in plain containers, without Hydra's own part.

    Raises:
        BadInput: if a value is missing.
    """
    ours = config.copy()
    with open_dict(ours):
        ours.pop("hydra", None)
    if missing := sorted(OmegaConf.missing_keys(ours)):
        raise BadInput(f"{missing[0]} is missing: give it as {missing[0]}=VALUE")
    return OmegaConf.to_container(ours, resolve=True)  # pyright: ignore[reportReturnType]


class Gate(Callback):
    """Refuses a wrong configuration before Hydra makes the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Called before the run; leaves by SystemExit, because Hydra swallows exceptions here."""
        from handgrad.config import validate

        try:
            validate(plain(config))
        except (BadInput, OmegaConfBaseException) as error:
            sys.exit(refuse(error))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called before a sweep; each process of torchrun or srun would run all of it."""
        if launcher := ranks.launched_by():
            message = f"--multirun starts the devices' processes itself: leave {launcher} away"
            sys.exit(refuse(BadInput(message)))


def run(config: DictConfig) -> int:
    """Run one job in its folder.

    Returns:
        Its exit code.
    """
    from handgrad import launch
    from handgrad.config import validate

    hydra_config = HydraConfig.get()
    try:
        values = plain(config)
        validate(values)
        folder, overrides = hydra_config.runtime.output_dir, hydra_config.overrides.task
        several_at_once = hydra_config.mode == RunMode.MULTIRUN and (
            hydra_config.launcher._target_ != ONE_AFTER_THE_OTHER
        )
        job = launch.Job(values, list(overrides), Path(folder))
        launch.run(job, parallel_launcher=several_at_once)
    except (BadInput, OmegaConfBaseException) as error:
        return refuse(error)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0

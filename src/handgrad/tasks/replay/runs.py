"""Runs of a replay: composed as on the command line, trained as by task=train."""

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import pandas as pd
from omegaconf import OmegaConf

from handgrad.config.compose import plain
from handgrad.config.validate import validate
from handgrad.runs import loading
from handgrad.tasks import train

ALONE = "replay"  # the name of the only run of an experiment that names none


class PlannedRun(NamedTuple):
    """Holds one training that a replay needs."""

    name: str
    config: dict[str, Any]
    overrides: list[str]
    folder: Path


class TrainedRun(NamedTuple):
    """Holds the results of one run."""

    name: str
    curve: pd.DataFrame  # curves.csv: one row for each epoch
    folder: Path


def plan(config: dict[str, Any], overrides: list[str], folder: Path) -> list[PlannedRun]:
    """Return all runs of a replay: every seed of every named run.

    A run is what `python train.py OVERRIDES` would train, without logger, dashboard and progress
    bar. Overrides of the replay take precedence over those of the run.

    Args:
        config: of the replay.
        overrides: given for it on the command line.
        folder: of the replay.

    Raises:
        BadInput: if a run's configuration is wrong, or the folder holds runs of another replay.
    """
    replay = config["replay"]
    runs: list[PlannedRun] = []
    for named in replay["runs"] or [{"name": ALONE, "overrides": []}]:
        given = [*named["overrides"], *overrides, "task=train"]
        composed = hydra.compose("config", given)
        for seed in range(config["seed"], config["seed"] + replay["seeds"]):
            OmegaConf.update(composed, "seed", seed)
            values = {**plain(composed), "logger": {}}
            values["trainer"]["enable_progress_bar"] = False
            values["dashboard"]["tier"] = "off"
            validate(values)
            place = folder / "runs" / f"{named['name']}_seed{seed}"
            values["ckpt_path"] = loading.checkpoint_to_continue(place, values)
            runs.append(PlannedRun(named["name"], values, [*given, f"seed={seed}"], place))
    return runs


def train_one(run: PlannedRun) -> TrainedRun:
    """Train one run silently, from its last checkpoint if it has one, unless it is done."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if not loading.is_done(run.folder):
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(run.config, run.overrides, run.folder)
    return TrainedRun(run.name, pd.read_csv(run.folder / "curves.csv"), run.folder)

"""Search for the best settings: trials, each validated and trained as task=train does."""

import contextlib
import io
import math
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from rich.console import Console

from handgrad.config.compose import every_value, plain
from handgrad.config.errors import BadInput, Failed
from handgrad.config.validate import validate
from handgrad.devices.lightning import hide_hints
from handgrad.runs import loading
from handgrad.runs.folder import point_to, write_run
from handgrad.tasks import train
from handgrad.tasks.sweep import job, names, results, summary
from handgrad.tasks.sweep.job import Outcome
from handgrad.tasks.sweep.results import Row


class Search(NamedTuple):
    """What all trials have in common."""

    given: list[str]  # overrides of the search, without its own keys
    space: dict[str, dict[str, Any]]
    metric: str
    folder: Path

    def place(self, number: int, chosen: dict[str, Any]) -> Path:
        """The folder of a trial, such as `3,lr=0.37,hidden=30`."""
        short = {key: f"{v:.3g}" if isinstance(v, float) else v for key, v in chosen.items()}
        return self.folder / f"{number},{names.name_of(short)}"

    def row(self, number: int, chosen: dict[str, Any]) -> Row:
        """What a trial left."""
        place = self.place(number, chosen)
        told = {key: spelt(value) for key, value in chosen.items()}
        return Row(place.name, told, job.of(place), summary.numbers(place))


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Run the trials that are left, then show all, and the command of the best.

    Raises:
        BadInput: if Optuna is missing, a bound is refused, or the data are wrong.
        Failed: if no trial came to a figure.
    """
    if not find_spec("optuna"):
        raise BadInput('task=tune needs Optuna: pip install -e ".[sweep]"')
    from handgrad.tasks.sweep import studies

    hide_hints()
    tune, console = config["tune"], Console()
    metric = tune["monitor"] or config["callbacks"]["checkpoint"]["monitor"]
    given = [each for each in overrides if not each.startswith(("tune.", "tune=", "task="))]
    search = Search(given, tune["space"], metric, folder)
    check_values(search)
    study = studies.open_study(folder, config, metric)
    write_run(folder, config)
    while trial := studies.next_trial(study, tune, config["seed"]):
        chosen = studies.draw(trial, search.space)
        attempt(search, trial.number, chosen, studies.Pruning(trial, metric))
        row = search.row(trial.number, chosen)
        studies.tell(study, trial, row.outcome, results.value(row, metric))
        line = f"{row.name}: {results.spelt(row.figures.get(metric), metric)} {row.outcome}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    finish(search, [search.row(trial.number, trial.params) for trial in study.trials])


def check_values(search: Search) -> None:
    """Refuse bounds and choices that no configuration takes, before anything is trained.

    Raises:
        BadInput: one line that names the key.
    """
    bounds = {
        key: node.get("choices") or [node["low"], node["high"]]
        for key, node in search.space.items()
    }
    lists = [f"{key}={','.join(map(spelt, values))}" for key, values in bounds.items()]
    for overrides in every_value([*search.given, *lists, "task=train"]):
        validate(plain(hydra.compose("config", overrides)))


def attempt(search: Search, number: int, chosen: dict[str, Any], pruning: Any) -> None:
    """Train one trial silently, from where it was if it was interrupted; a failure is kept.

    Raises:
        BadInput: if the configuration or the data are wrong.
    """
    place = search.place(number, chosen)
    if job.of(place).how in ("done", "pruned", "failed"):
        return  # it was interrupted after its end
    place.mkdir(parents=True, exist_ok=True)
    own = [f"{key}={spelt(value)}" for key, value in chosen.items()]
    overrides = [*search.given, *own, "task=train"]
    with contextlib.suppress(Failed), job.kept(place):
        config = plain(hydra.compose("config", overrides))
        validate(config)
        config["trainer"]["enable_progress_bar"] = False
        config["ckpt_path"] = loading.checkpoint_to_continue(place, config)
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(config, overrides, place, watchers=[pruning])
        refuse_divergence(place)
    if pruning.pruned and job.of(place).how == "done":
        job.keep(place, Outcome("pruned"))


def refuse_divergence(place: Path) -> None:
    """A cost that is no number is a failure, whatever the metric is.

    Raises:
        Failed: one line that names the cost.
    """
    for name, figure in summary.numbers(place).items():
        if name.startswith("cost/") and not math.isfinite(figure):
            raise Failed(f"diverged: {name} is not finite")


def spelt(value: Any) -> str:
    """A value as on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", text):
        return names.quoted(text)
    return text


def finish(search: Search, rows: list[Row]) -> None:
    """Show all trials, and the command that trains the best one again.

    Raises:
        Failed: if there is none.
    """
    best, *_ = summary.show(rows, search.metric, search.folder)
    if math.isnan(results.value(best, search.metric)):
        raise Failed(f"no trial came to {search.metric}; see results.md in {search.folder}")
    point_to(search.folder / best.name)
    own = [f"{key}={text}" for key, text in best.settings.items()]
    line = shlex.join(["python", "train.py", *search.given, *own])
    Console().print(f"The best: {line}", soft_wrap=True, markup=False, highlight=False)

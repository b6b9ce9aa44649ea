"""Search for the best settings by trials, each validated and trained as task=train does.

The trials are an Optuna study in a file that a later command continues. What a trial tries
follows from the seed, its number and the trials before it, so that a search that was interrupted
tries the same as one that was not.
"""

import contextlib
import io
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from handgrad.config.compose import every_value, plain, typed, with_present_names
from handgrad.config.errors import BadInput, Failed, warn
from handgrad.config.validate import validate
from handgrad.runs import loading
from handgrad.runs.folder import point_to, write_run
from handgrad.tasks import train
from handgrad.tasks.sweep import job, summary
from handgrad.tasks.sweep.job import Outcome
from handgrad.tasks.sweep.results import Row, figures, larger_is_better, spelt

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import Study
    from optuna.trial import Trial, TrialState
except ImportError:
    raise BadInput('task=tune requires Optuna: pip install -e ".[sweep]"') from None

FILE = "study.journal"
OPEN = (TrialState.RUNNING, TrialState.WAITING)


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Run the trials that are left, then show all, and the command of the best.

    Raises:
        BadInput: if a bound is refused, the folder contains another search, or the data are wrong.
        Failed: if no trial has the figure.
    """
    tune = config["tune"]
    metric = tune["monitor"] or config["callbacks"]["checkpoint"]["monitor"]
    given = [each for each in overrides if not each.startswith(("tune.", "tune=", "task="))]
    search = _Search(given, tune["space"], metric, folder)
    search.check_values()
    study = _open_study(folder, config, metric)
    write_run(folder, config)
    while trial := _next_trial(study, tune, config["seed"]):
        chosen = {key: _suggest(trial, key, node) for key, node in search.space.items()}
        search.attempt(trial.number, chosen, Pruning(trial, metric))
        row = search.row(trial.number, chosen)
        if row.outcome.how == "done" and not math.isnan(row.value(metric)):
            study.tell(trial, row.value(metric))
        else:  # the study counts a failed trial and passes it over
            pruned = row.outcome.how == "pruned"
            study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        print(f"{row.name}: {spelt(row.figures.get(metric), metric)} {row.outcome}", flush=True)
    search.finish([search.row(trial.number, trial.params) for trial in study.trials])


class _Search(NamedTuple):
    """Holds what all trials have in common."""

    given: list[str]  # overrides of the search, without its own keys
    space: dict[str, dict[str, Any]]
    metric: str
    folder: Path

    def place(self, number: int, chosen: dict[str, Any]) -> Path:
        """Return the folder of a trial, such as `3_lr-0.37_hidden-30`, or the one that it has."""
        short = {key: f"{v:.3g}" if isinstance(v, float) else v for key, v in chosen.items()}
        before = self.folder.glob(f"{number},*")  # as an earlier version named it
        return next(before, self.folder / f"{number}_{job.name_of(short)}")

    def row(self, number: int, chosen: dict[str, Any]) -> Row:
        """Read what a trial left."""
        place = self.place(number, chosen)
        return Row.of(place, place.name, {key: typed(value) for key, value in chosen.items()})

    def check_values(self) -> None:
        """Refuse bounds and choices that no configuration takes, before anything is trained.

        Raises:
            BadInput: one line that names the key.
        """
        lists = []
        for key, node in self.space.items():
            values = node.get("choices") or [node["low"], node["high"]]
            lists.append(f"{key}={','.join(map(typed, values))}")
        for overrides in every_value([*self.given, *lists, "task=train"]):
            validate(plain(hydra.compose("config", overrides)))

    def attempt(self, number: int, chosen: dict[str, Any], pruning: "Pruning") -> None:
        """Train one trial silently, from where it was if it was interrupted, and keep a failure.

        Raises:
            BadInput: if the configuration or the data are wrong.
        """
        place = self.place(number, chosen)
        if Outcome.of(place).how in ("done", "pruned", "failed"):
            return  # it was interrupted after its end
        place.mkdir(parents=True, exist_ok=True)
        own = [f"{key}={typed(value)}" for key, value in chosen.items()]
        overrides = [*self.given, *own, "task=train"]
        with contextlib.suppress(Failed), job.kept(place):
            config = plain(hydra.compose("config", overrides))
            validate(config)
            config["trainer"]["enable_progress_bar"] = False
            config["ckpt_path"] = loading.checkpoint_to_continue(place, config)
            with contextlib.redirect_stdout(io.StringIO()):
                train.run(config, overrides, place, watchers=[pruning])
            for name, figure in figures(place).items():
                if name.startswith("cost/") and not math.isfinite(figure):  # whatever the metric is
                    raise Failed(f"diverged: {name} is not finite")
        if pruning.pruned and Outcome.of(place).how == "done":
            Outcome("pruned").keep(place)

    def finish(self, rows: Sequence[Row]) -> None:
        """Show all trials, and the command that trains the best one again.

        Raises:
            Failed: if there is none.
        """
        best, *_ = summary.show(rows, self.metric, self.folder)
        if math.isnan(best.value(self.metric)):
            raise Failed(f"no trial has {self.metric}; see results.md in {self.folder}")
        point_to(self.folder / best.name)
        own = [f"{key}={text}" for key, text in best.settings.items()]
        print(f"The best: {shlex.join(['python', 'train.py', *self.given, *own])}")


def _open_study(folder: Path, config: dict[str, Any], metric: str) -> Study:
    """Return the study in a folder, or a new one if there is none.

    Args:
        folder: of the search.
        config: of the search.
        metric: what is searched for.

    Raises:
        BadInput: if the study in the folder is of another search, or damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_half_a_line(folder / FILE)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / FILE))),
            study_name="tune",
            direction="maximize" if larger_is_better(metric) else "minimize",
            pruner=pruner(config["tune"]["pruner"], config["trainer"]["max_epochs"]),
            load_if_exists=True,
        )
    except Exception as error:  # Optuna believes every line of the file
        raise BadInput(
            f"{folder / FILE}: damaged, not what a search has written ({type(error).__name__}); "
            "name another folder, or restore this file"
        ) from None
    mine = loading.settings(config)
    mine |= {f"tune.{name}": node for name, node in config["tune"].items() if name != "trials"}
    was = with_present_names(study.user_attrs.get("settings", mine))
    for name in mine:
        if was.get(name) != mine[name]:
            raise BadInput(
                f"hydra.run.dir={folder}: contains a search with other settings of {name}; name "
                "another folder for this one"
            )
    study.set_user_attr("settings", mine)
    return study


def _drop_half_a_line(journal: Path) -> None:
    """Drop the end of a journal that was cut short, to which Optuna would append."""
    content = journal.read_bytes() if journal.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        warn(f"{journal} was cut short: its last line is dropped, and the search goes on before it")
        temporary = journal.with_name(f".{journal.name}.tmp")
        temporary.write_bytes(whole)
        temporary.replace(journal)


def pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """Return what prunes unpromising trials: those below the median, or by successive halving."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(1, epochs if epochs > 0 else "auto")
    return optuna.pruners.NopPruner()


def _next_trial(study: Study, tune: dict[str, Any], seed: int) -> Trial | None:
    """Return an interrupted trial, else a new one, or None when all are done."""
    trials = study.get_trials(deepcopy=False)
    interrupted = next((trial for trial in trials if trial.state in OPEN), None)
    number = interrupted.number if interrupted else len(trials)
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[tune["sampler"]](seed=own_seed)
    if interrupted:
        return Trial(study, interrupted._trial_id)
    return study.ask() if number < tune["trials"] else None


def _suggest(trial: Trial, key: str, node: dict[str, Any]) -> Any:
    """Draw one value: among choices, a whole number where both bounds are, or any number.

    For an interrupted trial it is what it was.
    """
    if node.get("choices"):
        return trial.suggest_categorical(key, node["choices"])
    low, high, step, log = node["low"], node["high"], node.get("step"), node.get("log", False)
    if all(isinstance(each, int) for each in (low, high, step or 1)):
        return trial.suggest_int(key, low, high, step=step or 1, log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


class Pruning(Callback):
    """Reports the metric after every epoch, and ends the training where the study asks for that.

    Args:
        trial: of the study.
        metric: of the validation, or of the training.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.reported = set(trial.study.trials[trial.number].intermediate_values)
        self.pruned = False

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, known = trainer.current_epoch + 1, trainer.callback_metrics
        if self.metric in known and step not in self.reported:  # by a trial that was interrupted
            self.trial.report(float(known[self.metric]), step)
            if self.trial.should_prune():
                self.pruned = trainer.should_stop = True

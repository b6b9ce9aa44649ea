"""A search for the best settings: an Optuna study in a file that a later command goes on with.

What a trial tries follows from the seed, its number and the trials before it, so that a search that
was interrupted tries the same as one that was not.
"""

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import optuna
from lightning.pytorch.callbacks import Callback
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import Trial, TrialState
from typing_extensions import override

from handgrad.config.errors import BadInput
from handgrad.runs.loading import FREE, bare
from handgrad.tasks.sweep.job import Outcome
from handgrad.tasks.sweep.results import larger_is_better

FILE = "study.journal"
OPEN = (TrialState.RUNNING, TrialState.WAITING)


def open_study(folder: Path, config: dict[str, Any], metric: str) -> Study:
    """The study in a folder; a new one, if there is none.

    Args:
        folder: of the search.
        config: of the search.
        metric: what is searched for.

    Raises:
        BadInput: if the study in the folder is of another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / FILE))),
        study_name="tune",
        direction="maximize" if larger_is_better(metric) else "minimize",
        pruner=pruner(config["tune"]["pruner"], config["trainer"]["max_epochs"]),
        load_if_exists=True,
    )
    mine = {name: bare(config[name]) for name in config.keys() - set(FREE)}
    mine |= {f"tune.{name}": node for name, node in config["tune"].items() if name != "trials"}
    was = study.user_attrs.get("settings", mine)
    for name in mine:
        if was.get(name) != mine[name]:
            raise BadInput(
                f"hydra.run.dir={folder}: holds a search with other settings of {name}; name "
                "another folder for this one"
            )
    study.set_user_attr("settings", mine)
    return study


def pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """What ends hopeless trials: those below the median of the others, or by successive halving."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(1, epochs if epochs > 0 else "auto")
    return optuna.pruners.NopPruner()


def next_trial(study: Study, tune: dict[str, Any], seed: int) -> Trial | None:
    """The trial to run next: one that was interrupted, else a new one; None when all are done."""
    trials = study.get_trials(deepcopy=False)
    interrupted = next((trial for trial in trials if trial.state in OPEN), None)
    number = interrupted.number if interrupted else len(trials)
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study.sampler = samplers[tune["sampler"]](seed=own_seed)
    if interrupted:
        return Trial(study, interrupted._trial_id)
    return study.ask() if number < tune["trials"] else None


def tell(study: Study, trial: Trial, ended: Outcome, figure: float) -> None:
    """Tell the study how a trial ended; a failed one is counted and passed over."""
    if ended.how == "done" and not math.isnan(figure):
        study.tell(trial, figure)
    else:
        pruned = ended.how == "pruned"
        study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def draw(trial: Trial, space: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values that a trial tries; those of an interrupted one are what they were."""
    return {key: suggest(trial, key, node) for key, node in space.items()}


def suggest(trial: Trial, key: str, node: dict[str, Any]) -> Any:
    """One value: among choices, a whole number where both bounds are, or any number."""
    if node.get("choices"):
        return trial.suggest_categorical(key, node["choices"])
    low, high, step, log = node["low"], node["high"], node.get("step"), node.get("log", False)
    if all(isinstance(each, int) for each in (low, high, step or 1)):
        return trial.suggest_int(key, low, high, step=step or 1, log=log)
    return trial.suggest_float(key, low, high, step=step, log=log)


class Pruning(Callback):
    """Reports the metric after every epoch, and ends the training where the study calls for that.

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

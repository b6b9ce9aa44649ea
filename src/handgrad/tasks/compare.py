"""Runs side by side: their figures, what differs between them, and their curves in one picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from handgrad.config.errors import BadInput
from handgrad.runs import loading
from handgrad.runs.loading import load
from handgrad.tasks.sweep import job, picture, results, summary
from handgrad.tasks.sweep.results import Row

# FOLDED from sweep/past.py: 'Runs that were trained before: their figures, their curves, and how they differ.'
CURVES = ("cost/train", "cost/val", "accuracy/train", "accuracy/val")
OF_BATCHES = ("data.", "seed", "optimizer.accumulate", "trainer.limit_train_batches")
OF_WEIGHTS = ("model.hidden", "model.init", "model.init_range")
NOT_OF_BATCHES = ("data.microbatch", "data.root", "data.download")  # where and how, not what


class Past(NamedTuple):
    """A run that was trained before."""

    name: str
    config: dict[str, Any]  # flat: "model.hidden" and its value
    figures: dict[str, float]
    folder: Path


def read(folders: Sequence[str]) -> list[Past]:
    """The runs in these folders; a sweep's folder stands for its runs.

    Raises:
        BadInput: if a folder holds no trained run.
    """
    found = [run for folder in folders for run in runs_in(Path(folder))]
    found = list(dict.fromkeys(found))
    names = [run.name for run in found]
    unique = len(set(names)) == len(names)
    return [
        Past(
            run.name if unique else f"{run.parent.name}/{run.name}",
            dict(flat(load(loading.last_state(run))["config"])),
            summary.numbers(run),
            run,
        )
        for run in found
    ]


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, if a run was trained in it; else all runs below.

    Raises:
        BadInput: if there is none.
    """
    if loading.last_state(folder).is_file():
        return [folder.resolve()]
    below = sorted(path.parents[1].resolve() for path in folder.rglob("checkpoints/last.ckpt"))
    if not below:
        raise BadInput(f"compare.runs: {folder} holds no trained run (no checkpoints/last.ckpt)")
    return below


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key with its value; a group's class is the group's own value."""
    for key, value in config.items():
        if not prefix and key in loading.FREE and key != "logger":
            continue
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.rstrip("."), str(value or "none").rpartition(".")[2]
        else:
            yield f"{prefix}{key}", value


def differences(runs: Sequence[Past]) -> list[str]:
    """The keys whose values are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [
        key for key in keys if any(run.config.get(key) != runs[0].config.get(key) for run in runs)
    ]


def shared(runs: Sequence[Past]) -> list[str]:
    """Whether the runs began with the same weights, and saw the same batches; one line each."""
    differ = differences(runs)
    batches = [
        key
        for key in differ
        if (key == "data" or key.startswith(OF_BATCHES)) and key not in NOT_OF_BATCHES
    ]
    weights = [key for key in differ if key in OF_WEIGHTS or key in ("data", "seed")]
    return [
        told(runs, "batches in the same order", batches),
        told(runs, "initial weights", weights),
    ]


def told(runs: Sequence[Past], what: str, differ: Sequence[str]) -> str:
    """One line: the same, or what makes the difference."""
    if not differ:
        return f"The same {what}."
    values = {
        key: dict.fromkeys(str(run.config.get(key, "not there")) for run in runs) for key in differ
    }
    causes = "; ".join(f"{key} is {', '.join(each)}" for key, each in values.items())
    return f"Not the same {what}: {causes}."


def curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Updates and values of the costs and accuracies, from a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in set(CURVES) & set(events.Tags()["scalars"]):
        points = events.Scalars(tag)
        found[tag] = ([point.step for point in points], [point.value for point in points])
    return found


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Compare the runs of `compare.runs`; leave results.csv, results.md and results.png.

    Raises:
        BadInput: if there are fewer than two, or a folder holds none.
    """
    runs = read(config["compare"]["runs"])
    if len(runs) < 2:
        raise BadInput("compare.runs: two runs at least, or a sweep's folder")
    keys = differences(runs)
    rows = [
        Row(
            each.name,
            {key: str(each.config.get(key, "")) for key in keys},
            job.Outcome("done" if each.figures else "unfinished"),
            each.figures,
        )
        for each in runs
    ]
    Console().print(results.differences(rows))
    metric = config["callbacks"]["checkpoint"]["monitor"]
    ordered = summary.show(rows, metric, folder, shared(runs), results.settings_page(rows))
    places = {each.name: each.folder for each in runs}
    drawn = {row.name: curves(places[row.name]) for row in ordered}
    picture.draw_curves(drawn).savefig(folder / "results.png")

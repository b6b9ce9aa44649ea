"""Runs side by side: their figures, what differs between them, and their curves in one picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from handgrad.config.errors import BadInput, printable
from handgrad.runs import loading
from handgrad.runs.tables import markdown_table
from handgrad.tasks.sweep import picture, summary
from handgrad.tasks.sweep.job import Outcome
from handgrad.tasks.sweep.results import Row, figures

CURVES = ("cost/train", "cost/val", "accuracy/train", "accuracy/val")
OF_BATCHES = ("data.", "seed", "optimizer.accumulate", "trainer.limit_train_batches")
OF_WEIGHTS = ("model.hidden", "model.init", "model.init_range")
NOT_OF_BATCHES = ("data.microbatch", "data.root", "data.download")  # where and how, not what


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Compare the runs of `compare.runs` in results.csv, results.md and results.png.

    Raises:
        BadInput: if there are fewer than two, or a folder contains none.
    """
    runs = read(config["compare"]["runs"])
    if len(runs) < 2:
        raise BadInput("compare.runs: at least two runs, or a sweep's folder, are required")
    keys = _differences(runs)
    rows = []
    for each in runs:
        settings = {key: str(each.config.get(key, "")) for key in keys}
        outcome = Outcome("done" if each.figures else "unfinished")
        rows.append(Row(each.name, settings, outcome, each.figures))
    head = ["what differs", *(row.name for row in rows)]
    lines = [(key, *(row.settings[key] for row in rows)) for key in keys]
    Console().print(summary.table(head, lines or [("nothing", *[""] * len(runs))], ""))
    metric = config["callbacks"]["checkpoint"]["monitor"]
    ordered = summary.show(rows, metric, folder, shared(runs), markdown_table(head, lines))
    folders = {each.name: each.folder for each in runs}
    drawn = {row.name: curves(folders[row.name]) for row in ordered}
    picture.draw_curves(drawn).savefig(folder / "results.png")


class PastRun(NamedTuple):
    """Holds a run that was trained before."""

    name: str
    config: dict[str, Any]  # flat: "model.hidden" and its value
    figures: dict[str, float]
    folder: Path


def read(folders: Sequence[str]) -> list[PastRun]:
    """Read the runs in these folders, where a sweep's folder stands for its runs.

    Raises:
        BadInput: if a folder contains no trained run.
    """
    found = list(dict.fromkeys(run for folder in folders for run in _runs_in(Path(folder))))
    unique = len({run.name for run in found}) == len(found)
    return [
        PastRun(
            run.name if unique else f"{run.parent.name}/{run.name}",
            _settings(run),
            figures(run),
            run,
        )
        for run in found
    ]


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder itself, if a run was trained in it, else all runs below.

    Raises:
        BadInput: if there is none.
    """
    if loading.last_state(folder).is_file():
        return [folder.resolve()]
    below = sorted(path.parents[1].resolve() for path in folder.rglob("checkpoints/last.ckpt"))
    if not below:
        raise BadInput(f"compare.runs: {folder} contains no trained run (no checkpoints/last.ckpt)")
    return below


def _settings(run: Path) -> dict[str, Any]:
    """Read the flat configuration of a run, with texts that a terminal may show."""
    was = loading.load(loading.last_state(run), checked=False)["config"]
    return {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in _flat(was)
    }


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, where a group's class is the group's own value."""
    for key, value in config.items():
        if (not prefix and key in loading.FREE and key != "logger") or key in loading.UNTRAINED:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.rstrip("."), str(value or "none").rpartition(".")[2]
        else:
            yield f"{prefix}{key}", value


def _differences(runs: Sequence[PastRun]) -> list[str]:
    """Return the keys whose values are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [
        key for key in keys if any(run.config.get(key) != runs[0].config.get(key) for run in runs)
    ]


def shared(runs: Sequence[PastRun]) -> list[str]:
    """Return a line on whether the runs saw the same batches, and one on their first weights."""
    differ = _differences(runs)
    batches = [
        key
        for key in differ
        if (key == "data" or key.startswith(OF_BATCHES)) and key not in NOT_OF_BATCHES
    ]
    weights = [key for key in differ if key in OF_WEIGHTS or key in ("data", "seed")]
    told = {"batches in the same order": batches, "initial weights": weights}
    lines = []
    for what, keys in told.items():
        causes = []
        for key in keys:
            values = dict.fromkeys(str(run.config.get(key, "not set")) for run in runs)
            causes.append(f"{key} is {', '.join(values)}")
        lines.append(f"Not the same {what}: {'; '.join(causes)}." if keys else f"The same {what}.")
    return lines


def curves(folder: Path) -> picture.Curves:
    """Read the updates and values of the costs and accuracies from a run's event files."""
    # Late, because it takes a second and refusals do not need it.
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in set(CURVES) & set(events.Tags()["scalars"]):
        points = events.Scalars(tag)
        found[tag] = ([point.step for point in points], [point.value for point in points])
    return found

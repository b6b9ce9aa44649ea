"""Runs side by side: their figures, what differs between them, and their curves in one picture."""

from pathlib import Path
from typing import Any

from rich.console import Console

from handgrad.errors import BadInput
from handgrad.sweep import curves, outcome, past, results, summary
from handgrad.sweep.results import Row


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Compare the runs of `compare.runs`; leave results.csv, results.md and results.png.

    Raises:
        BadInput: if there are fewer than two, or a folder holds none.
    """
    runs = past.read(config["compare"]["runs"])
    if len(runs) < 2:
        raise BadInput("compare.runs: two runs at least, or a sweep's folder")
    keys = past.differences(runs)
    rows = [
        Row(
            each.name,
            {key: str(each.config.get(key, "")) for key in keys},
            outcome.Outcome("done" if each.figures else "unfinished"),
            each.figures,
        )
        for each in runs
    ]
    Console().print(results.differences(rows))
    metric = config["callbacks"]["checkpoint"]["monitor"]
    ordered = summary.show(rows, metric, folder, past.shared(runs), results.settings_page(rows))
    places = {each.name: each.folder for each in runs}
    drawn = {row.name: past.curves(places[row.name]) for row in ordered}
    curves.draw(drawn).savefig(folder / "results.png")

"""The summary of a sweep, from what its runs left in their folders."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from handgrad.runs import loading
from handgrad.runs.folder import made_on
from handgrad.tasks.sweep import job, picture, results
from handgrad.tasks.sweep.names import settings
from handgrad.tasks.sweep.results import Row


def summarise(folder: Path, order_by: str | None) -> int:
    """Print the table of a sweep's runs; leave results.csv, results.md and results.png.

    Args:
        folder: of the sweep.
        order_by: the figure that orders the runs; None for what they monitor.

    Returns:
        The worst of the runs' exit codes.
    """
    runs = sorted(path.parents[1] for path in folder.rglob(".hydra/overrides.yaml"))
    rows = [read(run, folder) for run in runs]
    config = OmegaConf.load(runs[0] / ".hydra" / "config.yaml")
    show(rows, order_by or config.callbacks.checkpoint.monitor, folder)
    return max(row.outcome.code for row in rows)


def read(run: Path, sweep: Path) -> Row:
    """What one run left."""
    overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    hydra = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra
    same = hydra.job.config.override_dirname.exclude_keys
    return Row(
        run.relative_to(sweep).as_posix(),
        settings(list(overrides), list(same)),
        job.of(run),
        numbers(run),
    )


def numbers(run: Path) -> dict[str, float]:
    """The final figures of a run that are numbers."""
    final = loading.figures(run)
    return {name: figure for name, figure in final.items() if isinstance(figure, int | float)}


def show(
    rows: Sequence[Row],
    wanted: str,
    folder: Path,
    notes: Sequence[str] = (),
    appendix: Sequence[str] = (),
) -> list[Row]:
    """Print a table of runs; leave it in a folder, as results.csv, .md and .png.

    Args:
        rows: in any order.
        wanted: the figure that is to order them.
        folder: for the files; its name is the title.
        notes: what is to be said below the table.
        appendix: lines of Markdown for results.md alone.

    Returns:
        The rows in their order.
    """
    metric = results.order_key(rows, wanted)
    best_first = results.ordered(rows, metric)
    results.write_csv(best_first, metric, folder / "results.csv")
    said = [*notes, "\n".join(appendix), f"Made on {', '.join(made_on().values())}."]
    page = results.markdown(best_first, metric, folder.name, said)
    (folder / "results.md").write_text(page, encoding="utf-8")
    if any(metric in row.figures for row in rows):
        picture.draw(best_first, metric, folder.name).savefig(folder / "results.png")
    console = Console()
    for table in results.tables(best_first, metric, folder.name):
        console.print(table)
    for line in (
        *results.reasons(best_first),
        *notes,
        f"results.csv, results.md and results.png are in {folder}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return best_first

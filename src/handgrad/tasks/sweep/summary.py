"""Summarises many runs: tables on the terminal, results.csv, results.md and results.png."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from handgrad.config.errors import Failed
from handgrad.runs import tables
from handgrad.runs.folder import made_on
from handgrad.tasks.sweep import job, picture
from handgrad.tasks.sweep.results import Row, ordered, over_seeds, spelt

FIGURES = (
    *("accuracy/val", "cost/val", "accuracy/test", "cost/test", "accuracy/train", "cost/train"),
    *("run/updates", "run/fit_seconds"),
)
SHOWN = ("accuracy/val", "accuracy/test", "cost/test", "run/fit_seconds")  # on the terminal
MOST_ROWS = 40  # on the terminal; results.md and results.csv hold all
OVER_SEEDS = ("over seeds", "runs", "median", "least", "most")


def summarise(folder: Path, order_by: str | None) -> int:
    """Print the table of a sweep's runs, and leave results.csv, results.md and results.png.

    Args:
        folder: of the sweep.
        order_by: the figure that orders the runs; None for what they monitor.

    Returns:
        The worst of the runs' exit codes.

    Raises:
        Failed: if no run is left.
    """
    rows, composed = [], [path.parent for path in sorted(folder.rglob(".hydra/overrides.yaml"))]
    for own in composed:
        name = own.parent.relative_to(folder).as_posix()
        names = OmegaConf.load(own / "hydra.yaml").hydra.job.config.override_dirname
        same = list(names.exclude_keys)
        settings = job.settings(list(OmegaConf.load(own / "overrides.yaml")), same)
        rows.append(Row.of(own.parent, name, settings))
    if not composed:
        raise Failed(f"{folder} contains no run: it was removed or moved while the runs needed it")
    config = OmegaConf.load(composed[0] / "config.yaml")
    show(rows, order_by or config.callbacks.checkpoint.monitor, folder)
    return max(row.outcome.code for row in rows)


def show(
    rows: Sequence[Row], wanted: str, folder: Path, notes: Sequence[str] = (), appendix: str = ""
) -> list[Row]:
    """Print a table of runs, and leave it in a folder as results.csv, .md and .png.

    Args:
        rows: in any order.
        wanted: the figure that orders them; the first known one where no run has it.
        folder: for the files; its name is the title.
        notes: printed below the table.
        appendix: Markdown for results.md alone.

    Returns:
        The rows in their order.
    """
    known = {name for row in rows for name in row.figures}
    metric = next((name for name in (wanted, *FIGURES) if name in known), wanted)
    best_first = ordered(rows, metric)
    write_csv(best_first, metric, folder / "results.csv")
    said = [*notes, *filter(None, [appendix]), f"Made on {', '.join(made_on().values())}."]
    page = _page(best_first, metric, folder.name, said)
    (folder / "results.md").write_text(page, encoding="utf-8")
    if metric in known:
        picture.draw(best_first, metric, folder.name).savefig(folder / "results.png")
    console = Console()
    for shown in _tables(best_first, metric, folder.name):
        console.print(shown)
    why = {row.outcome.why: row.name for row in reversed(best_first) if row.outcome.why}
    reasons = [f"{name}: {each}" for each, name in reversed(why.items())]  # each once
    print(*reasons, *notes, f"results.csv, results.md and results.png are in {folder}", sep="\n")
    return best_first


def write_csv(rows: Sequence[Row], metric: str, path: Path) -> None:
    """Write one line a run: name, what was set for it, its figures, how it ended."""
    figures = _columns(rows, metric)
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    lines = []
    for row in rows:
        settings, numbers = map(row.settings.get, keys), map(row.figures.get, figures)
        overrides = " ".join(f"{key}={text}" for key, text in row.settings.items())
        lines.append([row.name, *settings, *numbers, str(row.outcome), overrides])
    tables.write_csv(path, ["run", *keys, *figures, "ended", "overrides"], lines)


def _page(rows: Sequence[Row], metric: str, title: str, notes: Sequence[str]) -> str:
    """Return the whole result as Markdown."""
    figures = _columns(rows, metric)
    lines = [_cells(row, figures, str(row.outcome)) for row in rows]
    said = [
        f"# {title}",
        f"Ordered by {metric}, the best first.",
        tables.markdown_table(["run", *figures, "ended"], lines),
    ]
    if groups := _groups(rows, metric):
        said += [f"## {metric} over seeds", tables.markdown_table(OVER_SEEDS, groups)]
    return "\n\n".join([*said, *notes]) + "\n"


def _tables(rows: Sequence[Row], metric: str, title: str) -> list[Table]:
    """Return the runs, and what they are over seeds, for the terminal."""
    figures = [name for name in _columns(rows, metric) if name in (metric, *SHOWN)]
    lines = [_cells(row, figures, row.outcome.how) for row in rows[:MOST_ROWS]]
    made = [table(["run", *figures, "ended"], lines, title)]
    if len(rows) > MOST_ROWS:
        made[0].caption = f"and {len(rows) - MOST_ROWS} more"
    if groups := _groups(rows, metric):
        made.append(table(OVER_SEEDS, groups[:MOST_ROWS], f"{metric} over seeds"))
    return made


def _columns(rows: Sequence[Row], metric: str) -> list[str]:
    """Return the figures that any run has, the one that orders them first."""
    known = {name for row in rows for name in row.figures}
    return [name for name in dict.fromkeys((metric, *FIGURES)) if name in known]


def _cells(row: Row, figures: Sequence[str], ended: str) -> list[str]:
    """Return a run's name, its figures, and how it ended, or nothing where it ended well."""
    numbers = [spelt(row.figures.get(name), name) for name in figures]
    return [row.name, *numbers, "" if row.outcome.how == "done" else ended]


def _groups(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """Return a line of cells for each group of `over_seeds`."""
    return [
        [
            str(settings),
            f"{known:.0f} of {runs:.0f}",
            *(spelt(each, metric) if known else "" for each in spread),
        ]
        for settings, (runs, known, *spread) in over_seeds(rows, metric).iterrows()
    ]


def table(head: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> Table:
    """Return text in columns, without an empty column "ended"."""
    made = tables.titled(title)
    needless = head[-1] == "ended" and not any(line[-1] for line in lines)
    width = len(head) - needless
    for number, name in enumerate(head[:width]):
        text = number == 0 or name == "ended"
        made.add_column(
            escape(name).replace("/", "/\n"),  # narrow, so that the whole table fits
            justify="left" if text else "right",
            no_wrap=name != "ended",
            overflow="fold",
        )
    for line in lines:
        made.add_row(*map(escape, line[:width]))
    return made

"""task=replay: published figures beside those of this project, over several seeds.

runs.py       the runs of an experiment, each trained by task=train
verdict.py    the value of each run, and the statistic over the seeds beside the published figure
report.py     the table, results.md, results.csv, and the curves beside the published ones
"""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from joblib import Parallel, delayed
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import track

from handgrad.config.schema import PublishedFigure
from handgrad.dashboard.pictures.canvas import publish
from handgrad.runs.folder import point_to, write_run
from handgrad.tasks import build
from handgrad.tasks.replay import report, runs
from handgrad.tasks.replay.verdict import Comparison


def run(config: dict[str, Any], overrides: list[str], folder: Path) -> None:
    """Train every run of the experiment, compare, and write results.md, .csv and .png.

    In the folder of an interrupted replay, runs that are done are not trained again.

    Raises:
        BadInput: if a run's configuration or data are wrong.
        Failed: if a run fails.
    """
    replay = config["replay"]
    name = HydraConfig.get().runtime.choices["experiment"] or "replay"
    planned = runs.plan(config, overrides, folder)
    write_run(folder, config)
    side_by_side = Parallel(n_jobs=replay["jobs"], return_as="generator")
    training = side_by_side(delayed(runs.train_one)(run) for run in planned)
    found = track(training, name, len(planned), console=Console(stderr=True))
    trained: list[runs.TrainedRun] = list(found)  # pyright: ignore - joblib has no types
    point_to(folder)  # not to its last run
    figures = [PublishedFigure.model_validate(node) for node in replay["figures"]]
    rows = [Comparison.of(each, trained, replay["solved_within"]) for each in figures]
    page = report.markdown(name, config, overrides, rows)
    (folder / "results.md").write_text(page, encoding="utf-8")
    report.write_csv(name, config, rows, folder / "results.csv")
    loggers = build.loggers(config, folder)
    drawn = report.draw(name, replay, trained, rows)
    publish(drawn, "replay/figures", loggers, folder / "results.png")
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("replay/results", page)
            logger.experiment.flush()
    Console().print(report.table(name, rows))
    print(f"Everything is in {folder}")

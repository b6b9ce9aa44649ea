"""Lightning's metrics.csv, which goes on where a run that was stopped goes on."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

END = ("cost/test", "run/fit_seconds")  # what a training that is over writes, also once more


class CsvLog(CSVLogger):
    """Writes each point into metrics.csv at once; Lightning's own would begin a new file.

    Args:
        settings: of `CSVLogger`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, flush_logs_every_n_steps=1)

    def forget_after(self, step: int) -> None:
        """Keep the rows of an earlier life up to the update that the run resumes from.

        Args:
            step: the update; -1 to keep none.
        """
        path, rows = Path(self.log_dir, "metrics.csv"), []
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last one may be torn
            rows = [row for row in csv.DictReader(whole) if int(row["step"]) <= step]
            rows = [row for row in rows if not any(row.get(name) for name in END)]
        for row in rows:  # the writer of the experiment removes the file when it is made
            self.experiment.metrics.append({name: cell for name, cell in row.items() if cell})
        self.save()

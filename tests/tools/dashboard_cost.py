"""What looking costs: `python tests/tools/dashboard_cost.py ROOT_OF_MNIST`, by paired runs.

Each round trains 784-100-10 with batches of 64 once in each way, the next round in the other
order, all in one process. A ratio is of two runs of the same round; its median is what counts.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import csv
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers
import lightning as L
from conftest import composed

from handgrad.devices.launch import Job, run_task
from handgrad.tasks import cli

UNCHECKED = tuple(
    f"check.{each}"
    for each in ("at_start=false", "checksum_every_n_updates=null", "audit_every_n_updates=null")
)
WAYS = {  # and the share of the training that each may cost
    "off": (("dashboard=off", *UNCHECKED), 0.0),
    "lite": (("dashboard=lite", *UNCHECKED), 0.05),
    "lite and check": (("dashboard=lite",), 0.08),
    "full": (("dashboard=full", *UNCHECKED), 0.25),
}


class Timed:
    """Lightning's fit, whose seconds are kept: of the process, and of the clock."""

    fit = L.Trainer.fit
    cpu = wall = 0.0

    @classmethod
    def run(cls, trainer: L.Trainer, *arguments, **named) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        cls.fit(trainer, *arguments, **named)
        cls.cpu, cls.wall = time.process_time() - cpu, time.perf_counter() - wall


def measure(way: str, root: Path, epochs: int) -> dict[str, str | float]:
    """Train once in one way; seconds of the training, and of the whole command after its start."""
    common = ("data=mnist", f"data.root={root}", "data.batch_size=64", "model.hidden=100")
    length = (f"trainer.max_epochs={epochs}", "trainer.enable_progress_bar=false")
    config = composed(*common, *length, *WAYS[way][0])
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(L.Trainer, "fit", lambda *a, **k: Timed.run(*a, **k)),
    ):
        start = time.perf_counter()
        run_task(Job(cli.run_task, config, [], Path(folder)))
        whole = time.perf_counter() - start
        updates = json.loads((Path(folder) / "metrics.json").read_text())["run/updates"]
    seconds = {"cpu": Timed.cpu, "wall": Timed.wall, "whole": whole}
    return {"way": way, "updates": updates, **seconds}


def summary(rows: list[dict[str, str]]) -> str:
    """The median and the range of the ratios to `off`, round by round."""
    rounds: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        rounds[row["round"]][row["way"]] = row
    complete = [each for each in rounds.values() if len(each) == len(WAYS)]
    lines = [f"{len(complete)} rounds of {rows[0]['updates']} updates"]
    for way, (_, share) in WAYS.items():
        if way == "off":
            continue
        for kind in ("cpu", "wall"):
            ratios = [float(r[way][kind]) / float(r["off"][kind]) - 1 for r in complete]
            told = f"{median(ratios):+.1%} ({min(ratios):+.1%} .. {max(ratios):+.1%})"
            lines.append(f"{way:15} {kind:5} {told}, must be at most {share:.0%}")
        more = median(float(r[way]["whole"]) - float(r["off"]["whole"]) for r in complete)
        lines.append(f"{way:15} the whole command: {more:+.1f} s")
    return "\n".join(lines)


def main() -> None:
    """Measure some rounds, add them to those measured before, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="where MNIST lies")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--results", type=Path, default=Path("dashboard_cost.csv"))
    given = parser.parse_args()
    root, results = given.root.resolve(), given.results.resolve()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        measure("lite", root, epochs=1)  # what happens only once in a process
        for _ in range(given.rounds):
            name = f"{random.getrandbits(32):08x}"
            ways = [*WAYS] if random.random() < 0.5 else [*reversed(WAYS)]
            rows = [{"round": name, **measure(way, root, given.epochs)} for way in ways]
            new = not results.exists()
            with results.open("a", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                if new:
                    writer.writeheader()
                writer.writerows(rows)
    with results.open(newline="") as file:
        print(summary([*csv.DictReader(file)]))


if __name__ == "__main__":
    main()

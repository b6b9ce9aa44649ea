"""Gather replays into one page: python tests/results.py FOLDER... > .github/docs/results.md

Each folder is a replay's, with its results.md and results.csv. The page is written by the replays
alone: a verdict that is not in such a folder cannot get into it.
"""

import csv
import sys
from pathlib import Path

HEAD = """\
# Published figures, replayed

Generated from the folders of `task=replay` by `tests/results.py`; nothing here is typed by hand.
The statistic is the source's (such as the best epoch of the best of three runs); beside it stand
the median and the least and most over all seeds. Where a source leaves its settings open, there is
no verdict on the number.

| experiment | PASS | FAIL | no verdict | seeds |
|---|---|---|---|---|"""


def page(folders: list[Path]) -> str:
    """The whole page: a summary, then each replay's own results."""
    summary, sections = [], []
    for folder in folders:
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        name = rows[0]["experiment"]
        verdicts = [row["verdict"] for row in rows]
        counts = [str(verdicts.count(verdict)) for verdict in ("PASS", "FAIL", "")]
        seeds = max(len(row["values"].split()) for row in rows)
        summary.append(f"| [{name}](#{name}) | {' | '.join(counts)} | {seeds} |")
        sections.append("#" + (folder / "results.md").read_text(encoding="utf-8").rstrip())
    return "\n\n".join(["\n".join([HEAD, *summary]), *sections]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page([Path(argument) for argument in sys.argv[1:]]))

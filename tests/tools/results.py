"""Gather replays into one page: python tests/tools/results.py FOLDER...

Each folder is that of a replay. The page `.github/docs/results.md`, its pictures and the lines of
the README are generated from these folders alone, so that every figure in them was measured.
"""

import argparse
import csv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
DOCS = ROOT / ".github" / "docs"
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))
BEGIN, END = "<!-- python tests/tools/results.py -->\n", "<!-- end -->"
WIDTH, COLOURS = 900, 128  # of a picture; keeps all of them together small
HEADLINES = (
    "nielsen_chapter1",
    "nielsen_chapter3_weight_decay_100_hidden",
    "lecun_1998_300_hidden",
    "lillicrap_2016",
    "xor",
)

HEAD = """\
# Published figures, replayed

`tests/tools/results.py` generated this page from the folders of `task=replay`. The statistic is
that of the source, such as the best epoch of the best of three runs. The median, the least and the
most are over all seeds. If a source leaves its settings open, the figure has no verdict.

| experiment | PASS | FAIL | no verdict | seeds |
|---|---|---|---|---|"""


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the lines of the results.csv of a replay."""
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(folders: list[Path]) -> str:
    """Return the whole page: a summary, then the results and the picture of each replay."""
    summary, sections = [], []
    for folder in folders:
        rows = rows_of(folder)
        name = rows[0]["experiment"]
        verdicts = [row["verdict"] for row in rows]
        counts = [str(verdicts.count(verdict)) for verdict in ("PASS", "FAIL", "")]
        seeds = max(len(row["values"].split()) for row in rows)
        summary.append(f"| [{name}](#{name}) | {' | '.join(counts)} | {seeds} |")
        sections.append("#" + (folder / "results.md").read_text(encoding="utf-8").rstrip())
        sections.append(f"![{name}: published and ours](results/{name}.png)")
    done = {rows_of(folder)[0]["experiment"] for folder in folders}
    left = [f"`{name}`" for name in EXPERIMENTS if name not in done]
    missing = [f"Not replayed for this page: {', '.join(left)}."] if left else []
    return "\n\n".join(["\n".join([HEAD, *summary]), *missing, *sections]) + "\n"


def headlines(folders: list[Path]) -> list[str]:
    """Return the lines for the README: the first figure with a verdict of some experiments."""
    lines = ["| experiment | figure | published | accepted | ours | |", "|---|---|---|---|---|---|"]
    for folder in folders:
        rows = [row for row in rows_of(folder) if row["verdict"]]
        if rows and rows[0]["experiment"] in HEADLINES:
            row = rows[0]
            what = f"{row['run']} {row['figure']}".strip()
            cells = (row["experiment"], what, row["published"], row["accepted"])
            lines.append(f"| {' | '.join(cells)} | {float(row['ours']):.4g} | {row['verdict']} |")
    return lines


def picture(folder: Path, into: Path) -> None:
    """Write the picture of a replay, smaller and in few colours."""
    image = Image.open(folder / "results.png").convert("RGB")
    image.thumbnail((WIDTH, WIDTH))
    image.quantize(COLOURS).save(into, optimize=True)


def main(folders: list[Path]) -> None:
    """Write the page, its pictures, and the lines of the README between their two marks."""
    (DOCS / "results.md").write_text(page(folders), encoding="utf-8")
    (DOCS / "results").mkdir(exist_ok=True)
    for folder in folders:
        picture(folder, DOCS / "results" / f"{rows_of(folder)[0]['experiment']}.png")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = "\n".join(headlines(folders))
    readme.write_text(f"{before}{BEGIN}\n{lines}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folders", nargs="+", type=Path, help="of replays")
    main(arguments.parse_args().folders)

"""metrics.csv of a run that is continued holds every point once, as if it had never stopped."""

import csv
import shutil
from pathlib import Path

import pytest
from conftest import Train

RUN = (
    *("data=iris", "data.batch_size=20", "model.hidden=5", "logger=csv"),
    *("trainer.log_every_n_steps=2", "callbacks.checkpoint.every_n_updates=5"),
)


def curves(folder: Path) -> list[tuple[str, str, str]]:
    """Each point of training and validation, as it is written, in the order of the file."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = [name for name in rows[0] if name.endswith(("/train", "/val"))]
    return [(name, row["step"], row[name]) for row in rows for name in wanted if row[name]]


@pytest.mark.parametrize("begin", ["last", "previous"])
def test_a_run_that_is_continued_has_every_point_once(train: Train, begin: str) -> None:
    whole = train(*RUN, "trainer.max_epochs=4")
    first = train(*RUN, "trainer.max_epochs=2")
    assert (whole.code, first.code) == (0, 0), whole.err + first.err
    path = first.folder / "metrics.csv"
    with path.open("a", encoding="utf-8") as file:
        file.write("0.5,0")  # torn when the machine stopped
    from_where = f"ckpt_path={first.folder / 'checkpoints' / begin}.ckpt"
    again = train(*RUN, "trainer.max_epochs=4", from_where, into=first.folder)
    assert again.code == 0, again.err
    assert len(curves(whole.folder)) > 30
    assert curves(first.folder) == curves(whole.folder)


def test_a_run_from_the_beginning_forgets_what_lay_in_its_folder(train: Train) -> None:
    one = train(*RUN, "trainer.max_epochs=1")
    shutil.rmtree(one.folder / "checkpoints")  # as if it had been killed before the first
    (one.folder / "metrics.json").unlink()
    two = train(*RUN, "trainer.max_epochs=1", into=one.folder)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    steps = [step for name, step, _ in curves(one.folder) if name == "cost/train"]
    assert len(steps) == len(set(steps)) > 2

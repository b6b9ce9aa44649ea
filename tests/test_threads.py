"""Small products are made by one thread, larger ones by all that there are."""

from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import composed
from lightning.pytorch.callbacks import Callback

from handgrad.tasks import train

QUIET = ("dashboard=off", "logger=none", "check.at_start=false")
SMALL, LARGE = ("data=iris",), ("data=digits", "data.batch_size=full", "model.hidden=64")


class Threads(Callback):
    """Notes how many threads compute while the network trains."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.seen.add(torch.get_num_threads())


@pytest.mark.parametrize(
    ("overrides", "threads"), [(SMALL, 1), (LARGE, 3), ((*LARGE, "reproducible=bitwise"), 1)]
)
def test_small_products_are_made_by_one_thread(
    tmp_path: Path, overrides: tuple[str, ...], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        watch = Threads()
        train.run(
            composed(*QUIET, *overrides, "trainer.max_epochs=1"), [], tmp_path, watchers=[watch]
        )
        assert watch.seen == {threads}
        assert torch.get_num_threads() == 3  # what runs next in this process decides anew
    finally:
        torch.set_num_threads(before)

"""Cost and accuracy of a training: gathered, logged, published, and kept in its checkpoints."""

import math
from typing import Any

import lightning as L

from handgrad.backprop import Cost
from handgrad.training.metrics import Sums, Tally
from handgrad.training.nonfinite import NonFinite


class Gathering(L.LightningModule):
    """A module whose updates and evaluations are counted by tallies.

    Args:
        cost: that trains.
        multilabel: whether outputs are labels of their own, instead of classes that exclude each
            other.
    """

    def __init__(self, cost: Cost, multilabel: bool) -> None:
        super().__init__()
        self.cost = cost
        self.window, self.evaluation = Tally(cost, multilabel), Tally(cost, multilabel)
        self.epoch = Sums()
        self.skipped = 0  # updates that were left out
        self.figures: dict[str, float] = {}  # the newest points of the curves
        self.published: dict[str, float] = {}  # of the last epoch, or of the test

    def log_window(self) -> None:
        """Log cost and accuracy over the examples since the last point, once.

        Raises:
            NonFinite: if the cost is not finite.
        """
        sums = self.window.read(self.device)
        if sums.examples:
            if not math.isfinite(sums.cost):  # the weights are: 16-mixed leaves such updates out
                raise NonFinite(self.trainer.global_step, "J", [], [])
            self.epoch = self.epoch.plus(sums)
            self.write_scalars("train", sums)

    def write_scalars(self, part: str, sums: Sums) -> None:
        """Give cost and accuracy of a part to the loggers, at the present update."""
        figures = {f"cost/{part}": sums.cost, f"accuracy/{part}": sums.accuracy}
        self.figures.update(figures)
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.trainer.global_step)

    def gathered(self) -> dict[str, Any]:
        """What the curves have gathered for their next points, over all devices."""
        return {
            "window": list(self.window.peek(self.device)),
            "epoch": list(self.epoch),
            "figures": dict(self.figures),
            "published": dict(self.published),
            "skipped": self.skipped,
        }

    def go_on_gathering(self, gathered: dict[str, Any]) -> None:
        """Go on from what was gathered before."""
        self.window.resume(Sums(*gathered["window"]), self.device)
        self.epoch = Sums(*gathered["epoch"])
        self.figures, self.published = dict(gathered["figures"]), dict(gathered["published"])
        self.skipped = gathered["skipped"]

    def publish(self, part: str, sums: Sums) -> None:
        """Make cost and accuracy of a part known to callbacks that monitor them."""
        figures = {f"cost/{part}": sums.cost, f"accuracy/{part}": sums.accuracy}
        self.published.update(figures)
        self.log_dict(figures, logger=False)

"""The time that the dashboard may take, kept by the clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of the tier's share. The rest is for what no clock sees: the hooks, and shorter blocks of updates.
PARTS = {"scalars": 0.6, "histograms": 0.1, "pictures": 0.15}


class Allowance:
    """A share of the training's time, for one kind of thing to look at.

    What is due and not affordable is left out: the interval stretches by whole steps until the
    share is kept, and the points stay at round numbers of updates.

    Args:
        share: of the time without what is spent here, such as 0.05.
        clock: seconds.
        expected: seconds, what it will cost the first time.
    """

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.perf_counter,
        expected: float = 0.0,
    ) -> None:
        self.share, self.clock = share, clock
        self.started = clock()
        self.spent = 0.0  # seconds
        self.newest = expected  # seconds, what it cost the last time

    @property
    def elapsed(self) -> float:
        """Seconds of training, without what was spent here."""
        return self.clock() - self.started - self.spent

    def affords(self, times: int = 1) -> bool:
        """Whether what is due may be made now, so often, if it costs what it cost the last time.

        The share of the first second is there from the beginning: the first points tell most.
        """
        return self.spent + times * self.newest <= self.share * max(self.elapsed, 1.0)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time within."""
        start = self.clock()
        try:
            yield
        finally:
            self.newest = self.clock() - start
            self.spent += self.newest


def allowances(share: float) -> dict[str, Allowance]:
    """One for each kind, so that none takes another's time; they count from now on."""
    return {kind: Allowance(part * share) for kind, part in PARTS.items()}

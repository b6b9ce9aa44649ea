"""Time budgets of the dashboard, kept by the clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of the tier's share. The rest is for what no clock sees: the hooks, and shorter blocks of updates.
PARTS = {"scalars": 0.6, "histograms": 0.1, "pictures": 0.15}


class TimeBudget:
    """Holds the share of the training's time that one kind of output may take.

    An output that is due but not affordable is skipped. The interval stretches by whole steps
    until the share is kept, and the points stay at round numbers of updates.

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
        """Return the seconds of training, without what was spent here."""
        return self.clock() - self.started - self.spent

    def affords(self, times: int = 1) -> bool:
        """Return whether an output may be made now, `times` times, at the cost of the last time.

        The share of the first second is granted from the beginning: the first points tell most.
        """
        return self.spent + times * self.newest <= self.share * max(self.elapsed, 1.0)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time spent in the block."""
        start = self.clock()
        try:
            yield
        finally:
            self.newest = self.clock() - start
            self.spent += self.newest


def time_budgets(share: float) -> dict[str, TimeBudget]:
    """Return one budget for each kind, so that none takes another's time, counted from now on."""
    return {kind: TimeBudget(part * share) for kind, part in PARTS.items()}

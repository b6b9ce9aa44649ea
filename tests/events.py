"""Contents of a run's event files."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TEXTS = ("about/equations", "about/report", "config/composed")  # of a run with a dashboard


def read(folder: Path) -> EventAccumulator:
    """Return all events of a folder, not thinned."""
    everything = dict.fromkeys(("scalars", "tensors", "histograms", "images"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each scalar."""
    events = read(folder)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }

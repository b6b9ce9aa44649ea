"""The curves of several runs in one picture: costs on the left, accuracies on the right."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curves = dict[str, tuple[list[int], list[float]]]
STYLES = {"val": "-", "train": ":"}


def draw(runs: dict[str, Curves]) -> Figure:
    """One colour a run; the validation as a line, the training dotted.

    Args:
        runs: by their names, the updates and values of each curve.
    """
    figure = Figure(figsize=(12, 5), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    colours = matplotlib.colormaps["tab10" if len(runs) <= 10 else "viridis"]
    for number, (name, curves) in enumerate(runs.items()):
        colour = colours(number if len(runs) <= 10 else number / (len(runs) - 1))
        draw_run(left, "cost", name, curves, colour)
        draw_run(right, "accuracy", name, curves, colour)
    left.set(xlabel="updates", ylabel="cost", yscale="log")
    right.set(xlabel="updates", ylabel="accuracy in percent")
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.set_title("line: validation; dotted: training", fontsize=9)
    if right.lines:
        right.legend(frameon=False, fontsize=8)
    return figure


def draw_run(axis: Axes, kind: str, name: str, curves: Curves, colour: object) -> None:
    """One run's curves of one kind; the first that it has carries its name."""
    label: str | None = name
    for part, style in STYLES.items():
        if f"{kind}/{part}" in curves:
            updates, values = curves[f"{kind}/{part}"]
            scale = 100 if kind == "accuracy" else 1
            shown = [scale * value for value in values]
            axis.plot(updates, shown, style, color=colour, lw=1.4, label=label)  # pyright: ignore[reportArgumentType]
            label = None

"""Canvas and colours of all pictures, and their way to pixels and files.

One scale has one meaning everywhere: blue is negative or off, white is zero or undecided, red is
positive or on. Blue and red of this map are told apart with every kind of colour blindness.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

SIGNED: Colormap = matplotlib.colormaps["RdBu_r"]
AMOUNT: Colormap = matplotlib.colormaps["Blues"]
NEGATIVE, POSITIVE, INK, FAINT = "#2166ac", "#b2182b", "#222222", "#666666"
CLASSES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", "#444444")
ACTIVATIONS = {0: "0 off", 0.5: "0.5", 1: "1 on"}  # labels of their scale
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
DOTS_PER_INCH = 100


def titled(width: float, height: float, title: str, explanation: str) -> Figure:
    """Return an empty figure with its heading: the finding, and how to read the picture.

    Args:
        width: in inches of 100 pixels.
        height: likewise, the heading included.
        title: the finding.
        explanation: what place, size and colour mean.
    """
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    figure.text(0.16 / width, 1 - 0.1 / height, title, va="top", size=13, weight="bold", color=INK)
    figure.text(0.16 / width, 1 - 0.37 / height, explanation, va="top", size=10, color=FAINT)
    return figure


def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place given in inches from the lower left corner."""
    whole_width, whole_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )
    axes.tick_params(labelsize=10, length=3, color=FAINT)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.6)
    return axes


def scale_bar(axes: Axes, colours: Colormap, labels: dict[float, str]) -> None:
    """Draw the scale of the colours as a bar that fills the axes.

    Args:
        axes: a place of its own.
        colours: the map.
        labels: of some values; the first value has the first colour, the last one the last.
    """
    low, *_, high = labels
    bar = axes.figure.colorbar(ScalarMappable(Normalize(low, high), colours), cax=axes)
    bar.set_ticks(list(labels), labels=list(labels.values()))
    bar.outline.set(color=FAINT, linewidth=0.6)  # pyright: ignore[reportCallIssue]
    axes.tick_params(labelsize=10, length=3)


def signed_bar(axes: Axes, limit: float) -> None:
    """Draw the scale of signed values: -limit, 0 and limit."""
    scale_bar(axes, SIGNED, {-limit: f"-{limit:.2g}", 0: "0", limit: f"+{limit:.2g}"})


def mosaic(tiles: np.ndarray, columns: int, gap: int, filling: float) -> np.ndarray:
    """Lay tiles side by side in rows, as one matrix.

    Args:
        tiles: (number, rows, columns of a tile).
        columns: tiles in a row.
        gap: empty pixels between tiles.
        filling: the value of what is empty.

    Returns:
        The matrix; tile k begins at row (k // columns) * (rows + gap), likewise its column.
    """
    number, height, width = tiles.shape
    rows = -(-number // columns)
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), filling)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        whole[top : top + height, left : left + width] = tile
    return whole


def pixels(figure: Figure) -> np.ndarray:
    """Return the figure as uint8 (height, width, 3)."""
    agg = FigureCanvasAgg(figure)
    agg.draw()
    return np.asarray(agg.buffer_rgba())[..., :3].copy()


def publish(
    figure: Figure, tag: str, loggers: list[Logger], path: Path | None, step: int = 0
) -> None:
    """Show a figure in TensorBoard, and save it as a PNG.

    Args:
        figure: any.
        tag: its name in TensorBoard.
        loggers: of which TensorBoard's are given the picture.
        path: of the PNG; None for none.
        step: updates done.
    """
    drawn = pixels(figure)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, drawn, step, dataformats="HWC")
            logger.experiment.flush()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path)


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array of float32 or wider."""
    return tensor.detach().cpu().to(torch.promote_types(tensor.dtype, torch.float32)).numpy()


def shortened(name: str, most: int) -> str:
    """Return a name, cut where it is too long for its place."""
    return name if len(name) <= most else f"{name[: most - 1]}."


def mark_classes(axes: Axes, sorted_labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Write each class below its examples, and draw a line where the next one begins."""
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
    ends = np.append(starts[1:], len(sorted_labels))
    axes.vlines(starts[1:] - 0.5, *axes.get_ylim(), colors=INK, linewidth=0.6)
    room = max(1, round(55 / len(starts)))
    names = [shortened(class_names[sorted_labels[s]], room) for s in starts]
    axes.set_xticks((starts + ends - 1) / 2, names)
    axes.tick_params(axis="x", length=0)

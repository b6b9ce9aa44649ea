"""Pictures of the weights: W1 as the images that the hidden units look for, W2 as squares."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.backprop import Parameters
from handgrad.dashboard.pictures.canvas import (
    INK,
    NEGATIVE,
    POSITIVE,
    SIGNED,
    array,
    canvas,
    mosaic,
    place,
    shortened,
    signed_bar,
)
from handgrad.dashboard.pictures.plane import strongest_units

MOST_TILES = 100
BAND = 34  # hidden units in a band of the Hinton diagram
MOST_BANDED = 36  # rows in all its bands
MOST_OUTPUTS = 40
OUTLIERS = 99.5  # percent of all values lie within the colours


def tiles(params: Parameters, gradient: Tensor | None, image_shape: tuple[int, int]) -> Figure:
    """Draw the weights of each hidden unit as an image, beside the gradient of these weights.

    Args:
        params: of the network.
        gradient: dW1, shaped like W1, of the newest update; None: there is none yet.
        image_shape: rows and columns of an example.
    """
    units = strongest_units(params, MOST_TILES)
    which = "each hidden unit" if len(units) == len(params.b1) else "the strongest hidden units"
    matrices = {"W1": array(params.W1)}
    if gradient is not None:
        matrices["dW1 (of the newest update)"] = array(gradient)
    figure = canvas(
        0.1 + 4.95 * len(matrices),
        5.05,
        f"What {which} looks for" if len(matrices) == 1 else f"What {which} looks for, and learns",
        "red: positive, blue: negative; descent moves W1 against dW1"
        if len(matrices) > 1
        else "red: positive weights, blue: negative",
    )
    for k, (name, matrix) in enumerate(matrices.items()):
        limit = _robust_limit(matrix[units])
        axes = place(figure, 0.15 + 4.95 * k, 0.12, 4.0, 4.0)
        axes.imshow(
            _mosaic_of(matrix[units], image_shape),
            cmap=SIGNED,
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
        )
        axes.set_axis_off()
        axes.set_title(name, size=11, color=INK, pad=4)
        signed_bar(place(figure, 4.22 + 4.95 * k, 0.5, 0.12, 3.2), limit)
    return figure


def _mosaic_of(rows: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Lay rows (n, pixels) as images in a nearly square mosaic, a pixel of NaN apart."""
    images = rows.reshape(len(rows), *image_shape)
    aspect = image_shape[0] / image_shape[1]
    return mosaic(images, int(np.ceil(np.sqrt(len(rows) * aspect))), 1, np.nan)


def _robust_limit(values: np.ndarray) -> float:
    """Return the bound of all values but outliers, where the colours end."""
    limit = float(np.nanpercentile(np.abs(values), OUTLIERS)) if values.size else 0.0
    return limit if np.isfinite(limit) and limit > 0 else 1.0


def hinton(params: Parameters, class_names: tuple[str, ...]) -> Figure:
    """Draw the output weights as squares whose area is |W2|, in bands of hidden units.

    G. Hinton, T. Shallice, Lesioning an attractor network, Psychological Review 98(1), 1991.

    Args:
        params: of the network.
        class_names: of the outputs; of both classes where there is one output.
    """
    outputs = np.arange(min(len(params.b2), MOST_OUTPUTS))
    units = strongest_units(params, BAND * max(1, MOST_BANDED // len(outputs)))
    weights, bias = array(params.W2)[outputs][:, units], array(params.b2)[outputs]
    which = "" if len(units) == len(params.b1) else f"; the {len(units)} strongest units"
    largest = max(float(np.abs(weights).max()), float(np.abs(bias).max()), 1e-12)
    bands = [slice(start, start + BAND) for start in range(0, len(units), BAND)]
    columns = min(len(units), BAND) + 2  # an empty one, and b2
    named = 0.55 if max(map(len, class_names)) <= 3 else 1.25
    cell = min((6.2 - named) / columns, 0.5)
    high = cell * len(outputs)
    figure = canvas(
        6.4,
        0.85 + len(bands) * (high + 0.35) + 0.25,
        "How hidden units speak for and against: W2",
        f"area: size, the largest is {largest:.2g}; red: for, blue: against{which}",
    )
    names = class_names[-1:] if len(outputs) == 1 else class_names
    for k, band in enumerate(bands):
        bottom = 0.55 + (len(bands) - 1 - k) * (high + 0.35)
        axes = place(figure, named, bottom, columns * cell, high)
        _draw_band(axes, weights[:, band], bias[:, None], largest, units[band], columns)
        axes.set_yticks(range(len(outputs)), [shortened(names[each], 12) for each in outputs])
    figure.axes[-1].set_xlabel("hidden unit, and the bias b2")
    return figure


def _draw_band(
    axes: Axes,
    weights: np.ndarray,
    bias: np.ndarray,
    largest: float,
    units: np.ndarray,
    columns: int,
) -> None:
    """Draw squares for the weights of some units, and apart from them for the biases.

    Args:
        axes: the band's place.
        weights: (outputs, units).
        bias: (outputs, 1).
        largest: the size that fills a cell.
        units: the numbers of the hidden units, from 0.
        columns: cells in a row.
    """
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(weights) - 0.5, -0.5), facecolor="#f2f2f2")
    axes.add_collection(_squares(weights, np.arange(len(units)), largest))
    axes.add_collection(_squares(bias, np.array([columns - 1]), largest))
    step = -(-columns // 8)
    ticks = [*range(0, len(units), step), columns - 1]
    axes.set_xticks(ticks, [*(str(unit + 1) for unit in units[::step]), "b2"])
    axes.tick_params(length=0)


def _squares(values: np.ndarray, columns: np.ndarray, largest: float) -> PolyCollection:
    """Return a square for each value, centred in its cell, with an area in proportion to its size.

    Args:
        values: (rows, columns).
        columns: the place of each column, (columns,).
        largest: the size of a value whose square fills 0.9 of the cell's width.
    """
    halves = 0.45 * np.sqrt(np.abs(values) / largest)  # (rows, columns)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    across, down = np.meshgrid(columns, np.arange(len(values)))
    centres = np.stack([across, down], axis=-1)  # (rows, columns, 2)
    shapes = centres[:, :, None, :] + halves[:, :, None, None] * corners  # (rows, columns, 4, 2)
    colours = np.where(values.ravel() > 0, POSITIVE, NEGATIVE)
    return PolyCollection(list(shapes.reshape(-1, 4, 2)), facecolors=list(colours))

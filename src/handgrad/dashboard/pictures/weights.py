"""Pictures of the weights: W1 as the images that the hidden units look for, W2 as squares."""

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.backprop import Parameters
from handgrad.dashboard.pictures.canvas import (
    INK,
    NEGATIVE,
    POSITIVE,
    SIGNED,
    bare,
    canvas,
    mosaic,
    place,
    signed_bar,
)
from handgrad.dashboard.pictures.plane import array, chosen, shortened

MOST_TILES = 100
MOST_COLUMNS = 60  # of the Hinton diagram
MOST_OUTPUTS = 40
OUTLIERS = 99.5  # percent of all values lie within the colours


def tiles(params: Parameters, gradient: Tensor | None, image_shape: tuple[int, int]) -> Figure:
    """The weights of each hidden unit as an image, beside the gradient at the same places.

    Args:
        params: of the network.
        gradient: dW1, shaped like W1, of the newest update; None: there is none yet.
        image_shape: rows and columns of an example.
    """
    units = chosen(params, MOST_TILES)
    which = "each hidden unit" if len(units) == len(params.b1) else "the strongest hidden units"
    matrices = {"W1": array(params.W1)}
    if gradient is not None:
        matrices["dW1 (of the newest update)"] = array(gradient)
    figure = canvas(
        0.1 + 4.75 * len(matrices),
        5.05,
        f"What {which} looks for" if len(matrices) == 1 else f"What {which} looks for, and learns",
        "red: positive, blue: negative; descent moves W1 against dW1"
        if len(matrices) > 1
        else "red: positive weights, blue: negative",
    )
    for k, (name, matrix) in enumerate(matrices.items()):
        limit = robust_limit(matrix[units])
        axes = bare(place(figure, 0.15 + 4.75 * k, 0.12, 4.0, 4.0))
        axes.imshow(
            mosaic_of(matrix[units], image_shape),
            cmap=SIGNED,
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
        )
        axes.set_axis_off()
        axes.set_title(name, size=11, color=INK, pad=4)
        signed_bar(place(figure, 4.22 + 4.75 * k, 0.5, 0.12, 3.2), limit)
    return figure


def mosaic_of(rows: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Rows (n, pixels) as images in a nearly square mosaic, a pixel apart; NaN between them."""
    images = rows.reshape(len(rows), *image_shape)
    aspect = image_shape[0] / image_shape[1]
    return mosaic(images, int(np.ceil(np.sqrt(len(rows) * aspect))), 1, np.nan)


def robust_limit(values: np.ndarray) -> float:
    """The size that all values but outliers stay within; the colours end there."""
    limit = float(np.nanpercentile(np.abs(values), OUTLIERS)) if values.size else 0.0
    return limit if np.isfinite(limit) and limit > 0 else 1.0


def hinton(params: Parameters, class_names: tuple[str, ...]) -> Figure:
    """The weights of the output layer as squares whose area is |W2|; the biases stand apart.

    G. Hinton, T. Shallice, Lesioning an attractor network, Psychological Review 98(1), 1991.

    Args:
        params: of the network.
        class_names: of the outputs; of both classes where there is one output.
    """
    units = chosen(params, MOST_COLUMNS)
    outputs = np.arange(min(len(params.b2), MOST_OUTPUTS))
    weights, bias = array(params.W2)[outputs][:, units], array(params.b2)[outputs]
    which = "" if len(units) == len(params.b1) else f"; the {len(units)} strongest units"
    largest = max(float(np.abs(weights).max()), float(np.abs(bias).max()), 1e-12)
    rows, columns = len(outputs), len(units) + 2
    cell = min(8.2 / columns, 4.6 / rows, 0.6)
    named = 0.55 if max(map(len, class_names)) <= 3 else 1.15
    width = max(6.4, named + columns * cell + 0.25)
    figure = canvas(
        width,
        1.25 + max(rows * cell, 0.6),
        "How hidden units speak for and against each answer: W2",
        f"area: size, the largest is {largest:.2g}; red: positive, blue: negative{which}",
    )
    axes = place(figure, named, 0.5, columns * cell, rows * cell)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), facecolor="#f2f2f2")
    places = np.arange(columns)
    for values, at in ((weights, places[:-2]), (bias[:, None], places[-1:])):
        axes.add_collection(squares(values, at, largest))
    step = max(1, round(0.3 / cell))
    axes.set_xticks([*range(0, len(units), step), columns - 1])
    axes.set_xticklabels([*(str(unit + 1) for unit in units[::step]), "b2"])
    axes.set_yticks(range(rows))
    names = class_names[-1:] if rows == 1 else class_names
    axes.set_yticklabels([shortened(names[k], 12) for k in outputs])
    axes.set_xlabel("hidden unit", size=11)
    axes.tick_params(length=0)
    return figure


def squares(values: np.ndarray, columns: np.ndarray, largest: float) -> PolyCollection:
    """A square for each value, centred in its cell; its area is the value's share of the largest.

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

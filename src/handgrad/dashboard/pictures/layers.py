"""Pictures of the layers: the hidden sigmoids, W1 as images and W2 as squares."""

import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.backprop import Activations, Parameters
from handgrad.dashboard.pictures import canvas
from handgrad.dashboard.pictures.snapshot import strongest_units
from handgrad.statistics.gradients import SATURATED, saturation

MOST_EXAMPLES = 160
MOST_UNITS = 120
BINS = 60
REACH = 8.0  # |z1| up to which the curve is drawn at least
MOST_TILES = 100
BAND = 34  # hidden units in a band of the Hinton diagram
MOST_BANDED = 36  # rows in all its bands
MOST_OUTPUTS = 40
OUTLIERS = 99.5  # percent of all values lie within the colours


def saturation_map(
    activations: Activations, labels: np.ndarray, class_names: tuple[str, ...]
) -> Figure:
    """Draw the hidden activations, a column for each example by class, a row for each unit.

    Args:
        activations: of the examples.
        labels: their classes, (m,).
        class_names: of all classes.
    """
    measured = saturation(activations.A1)
    order = columns_of(labels)
    shown = canvas.array(activations.A1)[order, :MOST_UNITS].T  # (units, examples)
    units = activations.A1.shape[1]
    dead = int(measured.dead.sum())
    figure = canvas.titled(
        6.4,
        5.0,
        f"{float(measured.share):.0%} of A1 is saturated; {dead} of {units} units are dead",
        f"strong colours: A1 below {SATURATED} or above {1 - SATURATED}, where little is learned",
    )
    axes = canvas.place(figure, 0.75, 0.65, 4.75, 3.65)
    axes.imshow(shown, cmap=canvas.SIGNED, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set(xlabel="examples, sorted by class", ylabel="hidden unit")
    number = len(shown)
    ticks = np.unique(np.linspace(0, number - 1, min(number, 6)).round().astype(int))
    axes.set_yticks(ticks, ticks + 1)
    canvas.mark_classes(axes, labels[order], class_names)
    canvas.scale_bar(
        canvas.place(figure, 5.62, 0.65, 0.14, 3.65), canvas.SIGNED, canvas.ACTIVATIONS
    )
    return figure


def columns_of(labels: np.ndarray) -> np.ndarray:
    """Choose at most MOST_EXAMPLES examples, sorted by class and evenly spaced."""
    order = np.argsort(labels, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(len(order), MOST_EXAMPLES)).round().astype(int)]


def slopes(z1: Tensor) -> Figure:
    """Draw the slope of the sigmoid, and below it the histogram of the hidden units' z1.

    Args:
        z1: of examples, (m, n_h).
    """
    measured = saturation(torch.sigmoid(z1))
    values = canvas.array(z1).ravel()
    values = values[np.isfinite(values)]
    reach = max(REACH, float(np.percentile(np.abs(values), 99.5)) if len(values) else 0.0)
    at = torch.linspace(-reach, reach, 241, dtype=torch.float64)
    curve = saturation(torch.sigmoid(at)[None]).slope  # (241,)
    edge = float(torch.logit(torch.tensor(1 - SATURATED, dtype=torch.float64)))
    figure = canvas.titled(
        6.4,
        4.9,
        f"The hidden sigmoids pass on {float(measured.mean_slope):.3f} of the error on average",
        f"dz1 = W2^T dz2 * s'(z1), at most 0.25; shaded: {float(measured.share):.0%} of all z1",
    )
    upper, lower = (
        canvas.place(figure, 0.8, 2.55, 5.3, 1.7),
        canvas.place(figure, 0.8, 0.62, 5.3, 1.7),
    )
    for axes in (upper, lower):
        for side in (-1, 1):
            axes.axvspan(side * edge, side * reach, color="#e8e8e8", linewidth=0)
        axes.set_xlim(-reach, reach)
    upper.plot(at, curve, color=canvas.INK, linewidth=2)
    upper.set(ylim=(0, 0.27), yticks=[0, 0.25], xticklabels=[], ylabel="slope s'(z)")
    upper.axhline(float(measured.mean_slope), color=canvas.POSITIVE, linewidth=1.5, linestyle="--")
    upper.text(reach * 0.98, float(measured.mean_slope) + 0.008, "mean s'(z1)", size=10)
    upper.texts[-1].set(ha="right", color=canvas.POSITIVE)
    counts, edges = np.histogram(values, BINS, range=(-reach, reach))
    shares = counts / max(len(values), 1)
    lower.stairs(shares, edges, fill=True, color=canvas.NEGATIVE)
    lower.set(xlabel="z1 of the hidden units", ylabel="share of all z1")
    lower.set_yticks([0, float(f"{shares.max():.2g}")])
    lower.tick_params(color=canvas.FAINT)
    return figure


def tiles(params: Parameters, gradient: Tensor | None, image_shape: tuple[int, int]) -> Figure:
    """Draw the weights of each hidden unit as an image, beside the gradient of these weights.

    Args:
        params: of the network.
        gradient: dW1, shaped like W1, of the newest update; None: there is none yet.
        image_shape: rows and columns of an example.
    """
    units = strongest_units(params, MOST_TILES)
    which = "each hidden unit" if len(units) == len(params.b1) else "the strongest hidden units"
    matrices = {"W1": canvas.array(params.W1)}
    if gradient is not None:
        matrices["dW1 (of the newest update)"] = canvas.array(gradient)
    figure = canvas.titled(
        0.1 + 4.95 * len(matrices),
        5.05,
        f"What {which} looks for" if len(matrices) == 1 else f"What {which} looks for, and learns",
        "red: positive, blue: negative; descent moves W1 against dW1"
        if len(matrices) > 1
        else "red: positive weights, blue: negative",
    )
    for k, (name, matrix) in enumerate(matrices.items()):
        rows = matrix[units]
        limit = float(np.nanpercentile(np.abs(rows), OUTLIERS)) if rows.size else 0.0
        limit = limit if np.isfinite(limit) and limit > 0 else 1.0
        images = rows.reshape(len(rows), *image_shape)
        columns = int(np.ceil(np.sqrt(len(rows) * image_shape[0] / image_shape[1])))
        axes = canvas.place(figure, 0.15 + 4.95 * k, 0.12, 4.0, 4.0)
        axes.imshow(
            canvas.mosaic(images, columns, 1, np.nan),
            cmap=canvas.SIGNED,
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
        )
        axes.set_axis_off()
        axes.set_title(name, size=11, color=canvas.INK, pad=4)
        canvas.signed_bar(canvas.place(figure, 4.22 + 4.95 * k, 0.5, 0.12, 3.2), limit)
    return figure


def hinton(params: Parameters, class_names: tuple[str, ...]) -> Figure:
    """Draw the output weights as squares whose area is |W2|, in bands of hidden units.

    G. Hinton, T. Shallice, Lesioning an attractor network, Psychological Review 98(1), 1991.

    Args:
        params: of the network.
        class_names: of the outputs; of both classes where there is one output.
    """
    outputs = np.arange(min(len(params.b2), MOST_OUTPUTS))
    units = strongest_units(params, BAND * max(1, MOST_BANDED // len(outputs)))
    weights, bias = canvas.array(params.W2)[outputs][:, units], canvas.array(params.b2)[outputs]
    which = "" if len(units) == len(params.b1) else f"; the {len(units)} strongest units"
    largest = max(float(np.abs(weights).max()), float(np.abs(bias).max()), 1e-12)
    bands = [slice(start, start + BAND) for start in range(0, len(units), BAND)]
    columns = min(len(units), BAND) + 2  # an empty one, and b2
    named = 0.55 if max(map(len, class_names)) <= 3 else 1.25
    cell = min((6.2 - named) / columns, 0.5)
    high = cell * len(outputs)
    figure = canvas.titled(
        6.4,
        0.85 + len(bands) * (high + 0.35) + 0.25,
        "How hidden units speak for and against: W2",
        f"area: size, the largest is {largest:.2g}; red: for, blue: against{which}",
    )
    names = class_names[-1:] if len(outputs) == 1 else class_names
    for k, band in enumerate(bands):
        bottom = 0.55 + (len(bands) - 1 - k) * (high + 0.35)
        axes = canvas.place(figure, named, bottom, columns * cell, high)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(outputs) - 0.5, -0.5), facecolor="#f2f2f2")
        numbers = units[band] + 1
        axes.add_collection(_squares(weights[:, band], np.arange(len(numbers)), largest))
        axes.add_collection(_squares(bias[:, None], np.array([columns - 1]), largest))
        step = -(-columns // 8)
        axes.set_xticks(
            [*range(0, len(numbers), step), columns - 1], [*map(str, numbers[::step]), "b2"]
        )
        axes.tick_params(length=0)
        axes.set_yticks(
            range(len(outputs)), [canvas.shortened(names[each], 12) for each in outputs]
        )
    figure.axes[-1].set_xlabel("hidden unit, and the bias b2")
    return figure


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
    colours = np.where(values.ravel() > 0, canvas.POSITIVE, canvas.NEGATIVE)
    return PolyCollection(list(shapes.reshape(-1, 4, 2)), facecolors=list(colours))

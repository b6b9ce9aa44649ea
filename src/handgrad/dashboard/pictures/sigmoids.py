"""Pictures of the hidden sigmoids: where they are saturated, and the error that they pass on."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.backprop import Activations
from handgrad.dashboard.pictures.canvas import (
    ACTIVATIONS,
    FAINT,
    INK,
    NEGATIVE,
    POSITIVE,
    SIGNED,
    array,
    canvas,
    place,
    scale_bar,
    shortened,
)
from handgrad.statistics.gradients import SATURATED, saturation

MOST_EXAMPLES = 160
MOST_UNITS = 120
BINS = 60
REACH = 8.0  # |z1| up to which the curve is drawn at least


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
    shown = array(activations.A1)[order, :MOST_UNITS].T  # (units, examples)
    units = activations.A1.shape[1]
    dead = int(measured.dead.sum())
    figure = canvas(
        6.4,
        5.0,
        f"{float(measured.share):.0%} of A1 is saturated; {dead} of {units} units are dead",
        f"strong colours: A1 below {SATURATED} or above {1 - SATURATED}, where little is learned",
    )
    axes = place(figure, 0.75, 0.65, 4.75, 3.65)
    axes.imshow(shown, cmap=SIGNED, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set(xlabel="examples, sorted by class", ylabel="hidden unit")
    number = len(shown)
    ticks = np.unique(np.linspace(0, number - 1, min(number, 6)).round().astype(int))
    axes.set_yticks(ticks, ticks + 1)
    mark_classes(axes, labels[order], class_names)
    scale_bar(place(figure, 5.62, 0.65, 0.14, 3.65), SIGNED, ACTIVATIONS)
    return figure


def columns_of(labels: np.ndarray) -> np.ndarray:
    """Choose at most MOST_EXAMPLES examples, sorted by class and evenly spaced."""
    order = np.argsort(labels, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(len(order), MOST_EXAMPLES)).round().astype(int)]


def mark_classes(axes, sorted_labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Write each class below its examples, and draw a line where the next one begins."""
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
    ends = np.append(starts[1:], len(sorted_labels))
    axes.vlines(starts[1:] - 0.5, *axes.get_ylim(), colors=INK, linewidth=0.6)
    room = max(1, round(55 / len(starts)))
    names = [shortened(class_names[sorted_labels[s]], room) for s in starts]
    axes.set_xticks((starts + ends - 1) / 2, names)
    axes.tick_params(axis="x", length=0)


def slopes(z1: Tensor) -> Figure:
    """Draw the slope of the sigmoid, and below it the histogram of the hidden units' z1.

    Args:
        z1: of examples, (m, n_h).
    """
    measured = saturation(torch.sigmoid(z1))
    values = array(z1).ravel()
    values = values[np.isfinite(values)]
    reach = max(REACH, float(np.percentile(np.abs(values), 99.5)) if len(values) else 0.0)
    at = torch.linspace(-reach, reach, 241, dtype=torch.float64)
    curve = saturation(torch.sigmoid(at)[None]).slope  # (241,)
    edge = float(torch.logit(torch.tensor(1 - SATURATED, dtype=torch.float64)))
    figure = canvas(
        6.4,
        4.9,
        f"The hidden sigmoids pass on {float(measured.mean_slope):.3f} of the error on average",
        f"dz1 = W2^T dz2 * s'(z1), at most 0.25; shaded: {float(measured.share):.0%} of all z1",
    )
    upper, lower = place(figure, 0.8, 2.55, 5.3, 1.7), place(figure, 0.8, 0.62, 5.3, 1.7)
    for axes in (upper, lower):
        for side in (-1, 1):
            axes.axvspan(side * edge, side * reach, color="#e8e8e8", linewidth=0)
        axes.set_xlim(-reach, reach)
    upper.plot(at, curve, color=INK, linewidth=2)
    upper.set(ylim=(0, 0.27), yticks=[0, 0.25], xticklabels=[], ylabel="slope s'(z)")
    upper.axhline(float(measured.mean_slope), color=POSITIVE, linewidth=1.5, linestyle="--")
    upper.text(reach * 0.98, float(measured.mean_slope) + 0.008, "mean s'(z1)", size=10)
    upper.texts[-1].set(ha="right", color=POSITIVE)
    counts, edges = np.histogram(values, BINS, range=(-reach, reach))
    shares = counts / max(len(values), 1)
    lower.stairs(shares, edges, fill=True, color=NEGATIVE)
    lower.set(xlabel="z1 of the hidden units", ylabel="share of all z1")
    lower.set_yticks([0, float(f"{shares.max():.2g}")])
    lower.tick_params(color=FAINT)
    return figure

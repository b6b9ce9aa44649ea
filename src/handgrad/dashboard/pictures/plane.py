"""Pictures of a network with two inputs: its answer and its hidden units over the plane."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.backprop import Activations, Parameters, forward
from handgrad.dashboard.pictures import canvas
from handgrad.dashboard.pictures.snapshot import Shown, strengths, strongest_units

POINTS = 121  # of the grid along each axis
MARGIN = 0.12  # of the examples' range, on each side
MOST_LINES = 24
MOST_UNITS = 36
EVERY = 3  # the small multiples take every third point of the grid


class Plane(NamedTuple):
    """Holds a rectangle around the examples, and the activations at each point of its grid."""

    axes: tuple[np.ndarray, np.ndarray]  # the grid's coordinates in the data's unit, (POINTS,) each
    offset: np.ndarray  # (2,): scaled = (coordinate - offset) / divisor
    divisor: np.ndarray  # (2,)
    inputs: Tensor  # scaled, (POINTS * POINTS, 2), the first coordinate runs fastest
    activations: Activations  # of the inputs
    names: tuple[str, str]  # of the two features

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top."""
        across, up = self.axes
        return float(across[0]), float(across[-1]), float(up[0]), float(up[-1])

    @classmethod
    def around(
        cls,
        params: Parameters,
        inputs: Tensor,
        offset: np.ndarray,
        divisor: np.ndarray,
        names: tuple[str, str],
    ) -> "Plane":
        """Return the plane around some examples.

        Args:
            params: of a network with two inputs.
            inputs: the examples, scaled, (m, 2).
            offset: of the scaling, (2,) or (1,).
            divisor: likewise.
            names: of the two features.
        """
        offset, divisor = np.broadcast_to(offset, 2), np.broadcast_to(divisor, 2)
        examples = inputs.double().cpu().numpy()
        low, high = examples.min(axis=0), examples.max(axis=0)
        room = MARGIN * np.maximum(high - low, 1e-6)
        across, up = np.linspace(low - room, high + room, POINTS).T
        grid = np.stack([axis.ravel() for axis in np.meshgrid(across, up)], axis=1)
        points = torch.from_numpy(grid).to(params.W1.device, params.W1.dtype)
        in_unit = (across * divisor[0] + offset[0], up * divisor[1] + offset[1])
        return cls(in_unit, offset, divisor, points, forward(params, points), names)

    def unit_lines(self, params: Parameters) -> np.ndarray:
        """Return two points, in the data's unit, of the line on which each unit is undecided.

        Returns:
            (n_h, 2, 2); NaN for a unit without weights, which has no line.
        """
        weights, bias = canvas.array(params.W1).astype(float), canvas.array(params.b1).astype(float)
        square = (weights**2).sum(axis=1)
        square[square == 0] = np.nan
        foot = -(bias / square)[:, None] * weights  # the line's nearest point to the origin
        along = np.stack([-weights[:, 1], weights[:, 0]], axis=1) / np.sqrt(square)[:, None]
        far = float(self.inputs.abs().max()) * 4 + np.abs(foot).max(axis=1, keepdims=True)
        ends = np.stack([foot - far * along, foot + far * along], axis=1)
        return ends * self.divisor + self.offset

    def unit_tiles(self, units: np.ndarray) -> np.ndarray:
        """Return activations on the thinned grid, (units, rows, columns), top row first."""
        whole = canvas.array(self.activations.A1)[:, units].T.reshape(len(units), POINTS, POINTS)
        return whole[:, ::-EVERY, ::EVERY]


def boundary(here: Plane, params: Parameters, shown: Shown) -> Figure:
    """Draw the network's answer over the plane, the lines of its hidden units, and the examples.

    Args:
        here: the plane.
        params: of the network.
        shown: the examples.
    """
    wrong = shown.labels != shown.answers
    strongest = strengths(params).argsort()[::-1][:MOST_LINES]
    lines = "lines: the hidden units, thick where W2 is large"
    if len(strongest) < len(params.b1):
        lines = f"lines: the {MOST_LINES} strongest of {len(params.b1)} hidden units"
    figure = canvas.titled(
        6.4,
        5.4,
        f"{wrong.sum():,} of {len(wrong):,} {shown.of} examples are wrong (ringed)",
        f"black: where the answer changes; {lines}",
    )
    axes = canvas.place(figure, 0.75, 0.6, 4.75, 4.05)
    _draw_answer(
        axes, canvas.place(figure, 5.65, 0.6, 0.14, 4.05), here, shown.examples.class_names
    )
    _draw_lines(axes, here, params, strongest)
    _draw_examples(axes, here, shown, wrong)
    left, right, bottom, top = here.extent
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=here.names[0])
    axes.set_ylabel(here.names[1], labelpad=1)
    return figure


def _draw_answer(axes: Axes, bar: Axes, here: Plane, class_names: tuple[str, ...]) -> None:
    """Draw the answer as colours, and the line at which it changes."""
    answer = canvas.array(here.activations.A2).reshape(POINTS, POINTS, -1)
    if answer.shape[2] == 1:
        colours = canvas.SIGNED(0.15 + 0.7 * answer[..., 0])[..., :3]
        contours = [(answer[..., 0], 0.5)]
        softened = ListedColormap(canvas.SIGNED(np.linspace(0.15, 0.85, 256)))
        off, on = (canvas.shortened(name, 8) for name in class_names)
        canvas.scale_bar(bar, softened, {0: off, 0.5: "A2 = .5", 1: on})
    else:
        palette = np.array(
            [to_rgb(canvas.CLASSES[k % len(canvas.CLASSES)]) for k in range(answer.shape[2])]
        )
        sureness = answer.max(axis=2)[..., None]
        colours = 1 - 0.45 * sureness * (1 - palette[answer.argmax(axis=2)])
        others = [np.delete(answer, k, axis=2).max(axis=2) for k in range(answer.shape[2])]
        contours = [(answer[..., k] - other, 0.0) for k, other in enumerate(others)]
        bar.set_axis_off()
    axes.imshow(
        colours, extent=here.extent, origin="lower", aspect="auto", interpolation="bilinear"
    )
    for heights, level in contours:
        if heights.min() < level < heights.max():
            axes.contour(*here.axes, heights, levels=[level], colors=canvas.INK, linewidths=2)


def _draw_lines(axes: Axes, here: Plane, params: Parameters, units: np.ndarray) -> None:
    """Draw the line W1_j x + b1_j = 0 of each of these units."""
    segments = here.unit_lines(params)[units]
    strength = strengths(params)[units]
    relative = strength / max(strength.max(initial=0), 1e-12)
    out = canvas.array(params.W2)
    colours = canvas.FAINT
    if len(out) == 1:
        colours = [canvas.POSITIVE if out[0, unit] > 0 else canvas.NEGATIVE for unit in units]
    axes.add_collection(
        LineCollection(
            list(segments), linewidths=0.4 + 2 * relative, alpha=0.75, colors=colours, zorder=2
        ),
        autolim=False,
    )


def _draw_examples(axes: Axes, here: Plane, shown: Shown, wrong: np.ndarray) -> None:
    """Draw the examples in a colour and shape for each class, and a ring around the wrong ones."""
    class_names, points = shown.examples.class_names, canvas.array(shown.inputs)
    points = points * here.divisor + here.offset
    colours = (canvas.NEGATIVE, canvas.POSITIVE) if len(class_names) == 2 else canvas.CLASSES
    size = 26 if len(points) < 300 else 12
    for k, name in enumerate(class_names):
        of_class = points[shown.labels == k]
        axes.scatter(
            *of_class.T,
            s=size,
            color=colours[k % len(colours)],
            marker=canvas.MARKERS[k % len(canvas.MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            label=canvas.shortened(name, 14),
            zorder=3,
        )
    axes.scatter(
        *points[wrong].T,
        s=5 * size,
        facecolors="none",
        edgecolors=canvas.INK,
        linewidths=1.4,
        zorder=4,
    )
    if len(class_names) <= len(canvas.MARKERS):
        axes.legend(
            fontsize=9, loc="upper right", framealpha=0.85, borderpad=0.3, handletextpad=0.1
        )


def hidden_units(here: Plane, params: Parameters) -> Figure:
    """Draw each hidden unit's activation over the same plane, as small multiples.

    Args:
        here: the plane.
        params: of the network.
    """
    shown = strongest_units(params, MOST_UNITS)
    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    tiles = here.unit_tiles(shown)
    which = "" if len(shown) == len(params.b1) else f" (the {len(shown)} strongest)"
    figure = canvas.titled(
        6.4,
        1.0 + rows * 5.3 / columns,
        f"What each of the {len(params.b1)} hidden units sees{which}",
        "A1 over the plane of the decision boundary; above each its weight to the output",
    )
    height = figure.get_size_inches()[1] - 0.9
    axes = canvas.place(figure, 0.2, 0.15, 5.3, height)
    high, wide = tiles.shape[1:]
    gap = round(0.21 * columns * wide / (5.3 - 0.21 * columns))  # room for a line of text
    whole = canvas.mosaic(tiles, columns, gap, np.nan)
    axes.imshow(canvas.SIGNED(whole), interpolation="nearest", aspect="auto")
    axes.set(xlim=(-0.5, columns * (wide + gap) - gap - 0.5), ylim=(len(whole) - 0.5, -gap - 0.5))
    axes.set_axis_off()
    for k, unit in enumerate(shown):
        left, top = k % columns * (wide + gap), k // columns * (high + gap)
        out = canvas.array(params.W2)[
            :, unit
        ]  # to a single output the weight, to several their norm
        strength = f"{out[0]:+.1f}" if len(out) == 1 else f"|W2| {np.linalg.norm(out):.1f}"
        text = f"{unit + 1}: {strength}"
        axes.text(
            left + wide / 2, top - 1, text, ha="center", va="bottom", size=9, color=canvas.INK
        )
    canvas.scale_bar(
        canvas.place(figure, 5.62, 0.3, 0.14, height - 0.45), canvas.SIGNED, canvas.ACTIVATIONS
    )
    return figure

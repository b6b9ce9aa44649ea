"""Choice of the pictures that fit the data, each drawn from one snapshot of the training."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.audit.numerical import Curve, error_versus_h
from handgrad.dashboard.pictures import answers, canvas, layers, plane
from handgrad.dashboard.pictures.snapshot import Shown, Snapshot, classes_of
from handgrad.data.examples import Examples
from handgrad.statistics.gradients import cosines, gradient_products

ROWS = 64  # of the examples for the numerical derivatives: about 2,000 forward passes
COLOURS = {"forward": "#d1495b", "central": "#edae49", "complex": "#00798c"}


def pictures(snapshot: Snapshot, *, more: bool) -> Iterator[tuple[str, Figure]]:
    """Yield each picture that fits the data, with its tag, drawn from the same snapshot.

    Args:
        snapshot: of the training.
        more: whether to draw also what the tiers above lite add.
    """
    params, shown = snapshot.params, snapshot.shown
    examples, labels, names = shown.examples, shown.labels, shown.examples.class_names
    exclusive = not examples.multi_label
    # Multi-label data are sorted as one nameless class.
    classes = (labels, names) if exclusive else (np.zeros_like(labels), ("",))
    if len(examples.feature_names) == 2:
        scaling, (first, second) = snapshot.splits["train"].scaling, examples.feature_names
        fitted = (scaling.offset, scaling.divisor, (first, second))
        here = plane.Plane.around(params, shown.inputs, *fitted)
        if exclusive:
            yield "pictures/boundary", plane.boundary(here, params, shown)
        yield "pictures/hidden_units", plane.hidden_units(here, params)
    if shape := examples.image_shape:
        yield "pictures/tiles", layers.tiles(params, snapshot.gradient, shape)
    yield "pictures/hinton", layers.hinton(params, names)
    yield "pictures/saturation", layers.saturation_map(shown.activations, *classes)
    yield "pictures/slopes", layers.slopes(shown.activations.z1)
    if exclusive:
        yield "pictures/confusion", answers.confusion(shown)
    yield "pictures/hardest", _hardest(shown)
    if more:
        yield "pictures/agreement", _agreement(shown, *classes)


def numerical_errors(snapshot: Snapshot) -> Iterator[tuple[str, Figure]]:
    """Yield the error of the numerical derivatives against their step, with its tag."""
    rows = (snapshot.shown.inputs[:ROWS], snapshot.shown.targets[:ROWS])
    curves = error_versus_h(snapshot.params, *rows, snapshot.cost)
    yield "pictures/error_versus_h", error_curves(curves)


def error_curves(curves: list[Curve]) -> Figure:
    """Draw the error of each numerical derivative against its step h, one panel for each dtype."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    dtypes = list(dict.fromkeys(curve.dtype for curve in curves))
    axes = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    for axis, dtype in zip(axes, dtypes, strict=True):
        for curve in curves:
            if curve.dtype == dtype:
                _draw_curve(axis, curve)
        axis.set(xscale="log", yscale="log", title=dtype, xlabel="step h")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("relative error of the derivative")
    axes[0].legend(title="thin: W1, b1, W2, b2 alone", frameon=False, loc="lower left")
    figure.suptitle("A difference quotient has a best step; the complex step needs none")
    return figure


def _draw_curve(axis: Axes, curve: Curve) -> None:
    """Draw one method on one block of parameters, with an exact zero at the lower edge."""
    whole = curve.block == "all"
    name = "complex step" if curve.method == "complex" else f"{curve.method} difference"
    axis.plot(
        curve.steps,
        np.maximum(np.asarray(curve.errors, dtype=float), 1e-17),
        color=COLOURS[curve.method],
        linewidth=2.2 if whole else 0.7,
        alpha=1.0 if whole else 0.5,
        label=name if whole else None,
    )


def _agreement(shown: Shown, labels: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw which examples pull in the same direction."""
    order = layers.columns_of(labels)
    products = gradient_products(
        shown.activations._replace(A1=shown.activations.A1[order]),
        shown.gradients._replace(dz2=shown.gradients.dz2[order], dz1=shown.gradients.dz1[order]),
        shown.inputs[order],
    )
    return answers.agreement(canvas.array(cosines(products)), labels[order], names, shown.of)


def _hardest(shown: Shown) -> Figure:
    """Draw the examples with the largest gradients."""
    order = shown.norms.argsort(descending=True)[: answers.HARDEST].cpu()
    rows = shown.indices[order.numpy()]  # a tensor of one index would be a number
    features = np.asarray(shown.examples.X[rows], dtype=float)
    told = (*_told(shown.targets[order], shown.activations.A2[order], shown.examples), shown.of)
    if shape := shown.examples.image_shape:
        return answers.hardest_images(features.reshape(-1, *shape), *told)
    scaled, names = canvas.array(shown.inputs[order]), shown.examples.feature_names
    return answers.hardest_rows(features, scaled, names, *told)


def _told(
    targets: Tensor, outputs: Tensor, examples: Examples
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Describe the labels of examples and the network's answers, and return where they differ.

    Args:
        targets: (m, n_y).
        outputs: A2, (m, n_y).
        examples: which know the names of the classes.
    """
    if examples.multi_label:
        on, said = targets > 0.5, outputs > 0.5
        captions = [
            (f"is {_labels_of(a, examples)}", f"said {_labels_of(b, examples)}")
            for a, b in zip(on, said, strict=True)
        ]
        return captions, (on != said).any(dim=1).cpu().numpy()
    labels, chosen = classes_of(targets), classes_of(outputs)
    sureness = outputs.max(dim=1).values
    if outputs.shape[1] == 1:
        sureness = sureness.maximum(1 - sureness)
    names = [canvas.shortened(name, 12) for name in examples.class_names]
    captions = [
        (f"is {names[label]}", f"said {names[answer]} ({sure:.0%})")
        for label, answer, sure in zip(labels, chosen, sureness.tolist(), strict=True)
    ]
    return captions, labels != chosen


def _labels_of(on: Tensor, examples: Examples) -> str:
    """Return the names of the outputs that are on."""
    names = [name for name, one in zip(examples.class_names, on.tolist(), strict=True) if one]
    return canvas.shortened("+".join(names) or "none", 16)

"""Which pictures fit the data, each drawn from one moment of the training."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.audit.numerical import error_versus_h
from handgrad.dashboard.pictures import answers, plane, sigmoids, weights
from handgrad.dashboard.pictures.canvas import publish
from handgrad.dashboard.pictures.evidence import error_curves
from handgrad.dashboard.pictures.snapshot import Scene, capture, classes_of
from handgrad.data.examples import Examples
from handgrad.statistics.gradients import cosines, gradient_products

__all__ = ["capture", "numerical", "pictures", "publish"]
ROWS = 64  # of the examples for the numerical derivatives: about 2,000 forward passes


def pictures(scene: Scene, *, more: bool) -> Iterator[tuple[str, Figure]]:
    """Each picture that fits the data, with its tag, drawn from the same scene.

    Args:
        scene: what there is to show.
        more: whether what the tiers above lite add is drawn too.
    """
    every = (boundary, hidden_units, tiles, hinton, saturation, slopes, confusion, hardest)
    for draw in (*every, agreement) if more else every:
        figure = draw(scene)
        if figure is not None:
            yield f"pictures/{draw.__name__}", figure


def numerical(scene: Scene) -> Iterator[tuple[str, Figure]]:
    """The error of the numerical derivatives against their step, with its tag."""
    curves = error_versus_h(
        scene.moment.params, scene.inputs[:ROWS], scene.targets[:ROWS], scene.moment.cost
    )
    yield "pictures/error_versus_h", error_curves(curves)


def boundary(scene: Scene) -> Figure | None:
    """The decision boundary in the plane; None unless there are two inputs and classes."""
    if scene.inputs.shape[1] != 2 or not scene.exclusive:
        return None
    return plane.boundary(
        plane_of(scene),
        scene.moment.params,
        scene.inputs,
        scene.labels,
        scene.answers,
        scene.examples.class_names,
        scene.of,
    )


def hidden_units(scene: Scene) -> Figure | None:
    """Each hidden unit over the plane; None unless there are two inputs."""
    if scene.inputs.shape[1] != 2:
        return None
    return plane.hidden_units(plane_of(scene), scene.moment.params)


def plane_of(scene: Scene) -> plane.Plane:
    """The plane around the examples of the scene."""
    offset, divisor = scene.scaling.offset, scene.scaling.divisor
    first, second = scene.examples.feature_names
    return plane.plane(scene.moment.params, scene.inputs, offset, divisor, (first, second))


def tiles(scene: Scene) -> Figure | None:
    """W1 and dW1 as images; None unless the examples are images."""
    shape = scene.examples.image_shape
    return weights.tiles(scene.moment.params, scene.moment.gradient, shape) if shape else None


def hinton(scene: Scene) -> Figure:
    """W2 as squares."""
    return weights.hinton(scene.moment.params, scene.examples.class_names)


def saturation(scene: Scene) -> Figure:
    """Which hidden unit is saturated at which example."""
    labels, names = classes_or_one(scene)
    return sigmoids.saturation_map(scene.activations, labels, names)


def classes_or_one(scene: Scene) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes of the examples and their names; one without a name where they have several."""
    if scene.exclusive:
        return scene.labels, scene.examples.class_names
    return np.zeros(len(scene.inputs), np.int64), ("",)


def slopes(scene: Scene) -> Figure:
    """How much of the error the hidden sigmoids pass on."""
    return sigmoids.slopes(scene.activations.z1)


def agreement(scene: Scene) -> Figure:
    """Which examples pull in the same direction."""
    labels, names = classes_or_one(scene)
    order = sigmoids.columns_of(labels)
    activations, gradients = scene.activations, scene.gradients
    products = gradient_products(
        activations._replace(A1=activations.A1[order]),
        gradients._replace(dz2=gradients.dz2[order], dz1=gradients.dz1[order]),
        scene.inputs[order],
    )
    return answers.agreement(plane.array(cosines(products)), labels[order], names, scene.of)


def confusion(scene: Scene) -> Figure | None:
    """What is taken for what; None unless classes exclude each other."""
    if not scene.exclusive:
        return None
    names = scene.examples.class_names
    return answers.confusion(scene.labels, scene.answers, names, scene.of)


def hardest(scene: Scene) -> Figure:
    """The examples with the largest gradients."""
    order = scene.norms.argsort(descending=True)[: answers.HARDEST].cpu()
    features = np.asarray(scene.examples.X[scene.indices[order]], dtype=float)
    targets, outputs = scene.targets[order], scene.activations.A2[order]
    captions, wrong = told(targets, outputs, scene.examples)
    shape = scene.examples.image_shape
    if shape:
        return answers.hardest_images(features.reshape(-1, *shape), captions, wrong, scene.of)
    scaled, names = plane.array(scene.inputs[order]), scene.examples.feature_names
    return answers.hardest_rows(features, scaled, names, captions, wrong, scene.of)


def told(
    targets: Tensor, outputs: Tensor, examples: Examples
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """What examples are and what the network says, in words, and where they differ.

    Args:
        targets: (m, n_y).
        outputs: A2, (m, n_y).
        examples: which know the names of the classes.
    """
    if examples.multi_label:
        on, said = targets > 0.5, outputs > 0.5
        captions = [
            (f"is {labels_of(a, examples)}", f"said {labels_of(b, examples)}")
            for a, b in zip(on, said, strict=True)
        ]
        return captions, (on != said).any(dim=1).cpu().numpy()
    labels, chosen = classes_of(targets), classes_of(outputs)
    sureness = outputs.max(dim=1).values
    if outputs.shape[1] == 1:
        sureness = sureness.maximum(1 - sureness)
    names = [plane.shortened(name, 12) for name in examples.class_names]
    captions = [
        (f"is {names[label]}", f"said {names[answer]} ({sure:.0%})")
        for label, answer, sure in zip(labels, chosen, sureness.tolist(), strict=True)
    ]
    return captions, labels != chosen


def labels_of(on: Tensor, examples: Examples) -> str:
    """The names of the outputs that are on."""
    names = [name for name, one in zip(examples.class_names, on.tolist(), strict=True) if one]
    return plane.shortened("+".join(names) or "none", 16)

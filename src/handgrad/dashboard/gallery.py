"""Which pictures fit the data, each drawn from one moment of the training."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from handgrad.dashboard.moment import Moment, capture, classes_of
from handgrad.dashboard.pictures import answers, plane, sigmoids, weights
from handgrad.data.examples import Examples

__all__ = ["capture", "pictures"]


def pictures(moment: Moment) -> Iterator[tuple[str, Figure]]:
    """Each picture that fits the data, with its name, drawn from the same moment."""
    for draw in (boundary, hidden_units, tiles, hinton, saturation, slopes, confusion, hardest):
        figure = draw(moment)
        if figure is not None:
            yield draw.__name__, figure


def boundary(moment: Moment) -> Figure | None:
    """The decision boundary in the plane; None unless there are two inputs and exclusive classes."""
    if moment.inputs.shape[1] != 2 or not moment.exclusive:
        return None
    return plane.boundary(
        plane_of(moment),
        moment.params,
        moment.inputs,
        moment.labels,
        moment.answers,
        moment.examples.class_names,
        moment.of,
    )


def hidden_units(moment: Moment) -> Figure | None:
    """Each hidden unit over the plane; None unless there are two inputs."""
    if moment.inputs.shape[1] != 2:
        return None
    return plane.hidden_units(plane_of(moment), moment.params)


def plane_of(moment: Moment) -> plane.Plane:
    """The plane around the examples of the moment."""
    offset, divisor = moment.scaling.offset, moment.scaling.divisor
    first, second = moment.examples.feature_names
    return plane.plane(moment.params, moment.inputs, offset, divisor, (first, second))


def tiles(moment: Moment) -> Figure | None:
    """W1 and dW1 as images; None unless the examples are images."""
    shape = moment.examples.image_shape
    return weights.tiles(moment.params, moment.gradient, shape) if shape else None


def hinton(moment: Moment) -> Figure:
    """W2 as squares."""
    return weights.hinton(moment.params, moment.examples.class_names)


def saturation(moment: Moment) -> Figure:
    """Which hidden unit is saturated at which example."""
    if moment.exclusive:
        labels, names = moment.labels, moment.examples.class_names
    else:
        labels, names = np.zeros(len(moment.inputs), np.int64), ("",)
    return sigmoids.saturation_map(moment.activations, labels, names)


def slopes(moment: Moment) -> Figure:
    """How much of the error the hidden sigmoids pass on."""
    return sigmoids.slopes(moment.activations.z1)


def confusion(moment: Moment) -> Figure | None:
    """What is taken for what; None unless classes exclude each other."""
    if not moment.exclusive:
        return None
    names = moment.examples.class_names
    return answers.confusion(moment.labels, moment.answers, names, moment.of)


def hardest(moment: Moment) -> Figure:
    """The examples with the largest gradients."""
    order = moment.norms.argsort(descending=True)[: answers.HARDEST].cpu()
    features = np.asarray(moment.examples.X[moment.indices[order]], dtype=float)
    targets, outputs = moment.targets[order], moment.activations.A2[order]
    captions, wrong = told(targets, outputs, moment.examples)
    shape = moment.examples.image_shape
    if shape:
        return answers.hardest_images(features.reshape(-1, *shape), captions, wrong, moment.of)
    scaled, names = plane.array(moment.inputs[order]), moment.examples.feature_names
    return answers.hardest_rows(features, scaled, names, captions, wrong, moment.of)


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

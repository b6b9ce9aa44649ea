"""Pictures of the answers: confusion matrix, agreement of gradients, and hardest examples."""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from handgrad.dashboard.pictures import canvas
from handgrad.dashboard.pictures.snapshot import Shown

MOST_COUNTED = 20  # classes up to which the cells have numbers
MOST_NAMED = 40  # classes up to which rows and columns have names
MOST_FEATURES = 30
HARDEST = 16
ACROSS = 4


def confusion(shown: Shown) -> Figure:
    """Draw the confusion matrix: the classes of the examples against the network's answers."""
    classes = len(shown.examples.class_names)
    counts = confusion_matrix(shown.labels, shown.answers, labels=range(classes))
    right = np.trace(counts) / max(counts.sum(), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = canvas.titled(
        6.4,
        5.6,
        f"{right:.1%} of {len(shown.labels):,} {shown.of} examples are right",
        "rows: what it is; columns: what the network says; colour: share of the row",
    )
    names = [canvas.shortened(name, 12) for name in shown.examples.class_names]
    left = 0.75 if max(map(len, names)) <= 4 else 1.55
    axes = canvas.place(figure, left, 0.65, 6.2 - left, 4.25)
    axes.imshow(shares, cmap=canvas.AMOUNT, norm=PowerNorm(0.5, 0, 1), aspect="auto")
    if classes <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.4 else canvas.INK
            text = {"ha": "center", "va": "center", "size": 11 if classes <= 12 else 8}
            if count:
                axes.text(column, row, str(count), color=colour, **text)
    axes.set(xlabel="the network says", ylabel="it is", xticks=[], yticks=[])
    if classes <= MOST_NAMED:
        axes.set_xticks(range(classes), [canvas.shortened(n, round(60 / classes)) for n in names])
        axes.set_yticks(range(classes), names)
    axes.tick_params(length=0)
    return figure


def agreement(
    cosines: np.ndarray, sorted_labels: np.ndarray, class_names: tuple[str, ...], of: str
) -> Figure:
    """Draw which examples pull the weights in the same direction: cosines of their gradients.

    Args:
        cosines: of examples sorted by class, (m, m).
        sorted_labels: their classes, (m,).
        class_names: of all classes.
        of: which examples they are, such as "validation".
    """
    same = sorted_labels[:, None] == sorted_labels
    np.fill_diagonal(same, False)
    inside = float(cosines[same].mean()) if same.any() else 0.0
    others = ~same & ~np.eye(len(same), dtype=bool)
    across = f", across classes {cosines[others].mean():+.2f}" if others.any() else ""
    figure = canvas.titled(
        6.4,
        6.1,
        f"Gradients of one class agree by {inside:+.2f}{across}",
        f"cosine of the gradients of two {of} examples; red: one step helps both",
    )
    axes = canvas.place(figure, 0.75, 0.5, 4.75, 4.75)
    axes.imshow(
        cosines, cmap=canvas.SIGNED, vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
    )
    axes.set(xlabel="examples, sorted by class", yticks=[])
    canvas.mark_classes(axes, sorted_labels, class_names)
    canvas.signed_bar(canvas.place(figure, 5.62, 0.5, 0.14, 4.75), 1.0)
    return figure


def hardest_images(
    images: np.ndarray, captions: list[tuple[str, str]], wrong: np.ndarray, of: str
) -> Figure:
    """Draw the hardest examples as images, each with its label and the network's answer.

    Args:
        images: (examples, rows, columns), the hardest first; dark is large.
        captions: of each the label and the answer.
        wrong: whether the answer is wrong, (examples,).
        of: which examples they are, such as "validation".
    """
    rows = -(-len(images) // ACROSS)
    explanation = "the largest gradients, largest first; red: wrong; percent: A2 of the answer"
    figure = canvas.titled(6.4, 0.7 + 1.72 * rows, _hardest_title(wrong, of), explanation)
    axes = canvas.place(figure, 0, 0, 6.4, 1.72 * rows)  # its unit is an inch
    for k, (image, (label, answer)) in enumerate(zip(images, captions, strict=True)):
        middle, top = 0.9 + 1.53 * (k % ACROSS), 1.72 * (rows - k // ACROSS)
        box = (middle - 0.6, middle + 0.6, top - 1.2, top)
        axes.imshow(image, cmap="gray_r", extent=box, interpolation="nearest")
        colour = canvas.POSITIVE if wrong[k] else canvas.INK
        told = {"ha": "center", "va": "top", "size": 10, "color": colour}
        axes.text(middle, top - 1.22, f"{label}\n{answer}", **told)
    axes.set(xlim=(0, 6.4), ylim=(0, 1.72 * rows), aspect="auto")
    axes.set_axis_off()
    return figure


def _hardest_title(wrong: np.ndarray, of: str) -> str:
    """Return how many of them are wrong, as a title."""
    return f"The {len(wrong)} hardest of the {of} examples: {wrong.sum()} wrong"


def hardest_rows(
    values: np.ndarray,
    scaled: np.ndarray,
    feature_names: tuple[str, ...],
    captions: list[tuple[str, str]],
    wrong: np.ndarray,
    of: str,
) -> Figure:
    """Draw the hardest examples as rows of a table, each with its label and the answer.

    Args:
        values: in the data's own units, (examples, features), the hardest first.
        scaled: what the network gets for them, shaped alike; gives the colours.
        feature_names: of the features.
        captions: of each the label and the answer.
        wrong: whether the answer is wrong, (examples,).
        of: which examples they are, such as "validation".
    """
    shown = min(len(feature_names), MOST_FEATURES)
    limit = max(float(np.abs(scaled[:, :shown]).max()), 1e-12)
    long_names = shown > 6 or max(map(len, feature_names[:shown])) > 10
    foot = 1.75 if long_names else 0.35
    figure = canvas.titled(
        7.0,
        0.8 + 0.27 * len(values) + foot,
        _hardest_title(wrong, of),
        "the largest gradients, largest first; red text: wrong; cells: red is large",
    )
    axes = canvas.place(figure, 2.9, foot, 3.9, 0.27 * len(values))
    axes.imshow(scaled[:, :shown], cmap=canvas.SIGNED, vmin=-limit, vmax=limit, aspect="auto")
    for row, (label, answer) in enumerate(captions):
        colour = canvas.POSITIVE if wrong[row] else canvas.INK
        text = f"{label}, {answer}"
        axes.text(-0.6, row, text, ha="right", va="center", size=10, color=colour)
    if shown <= 8:
        for (row, column), value in np.ndenumerate(values[:, :shown]):
            colour = "white" if abs(scaled[row, column]) > 0.65 * limit else canvas.INK
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", size=9, color=colour)
    axes.set_yticks([])
    names = [canvas.shortened(name, 20) for name in feature_names[:shown]]
    axes.set_xticks(range(shown), names, rotation=90 if long_names else 0)
    axes.tick_params(length=0)
    return figure

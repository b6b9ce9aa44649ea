"""The picture of the numerical derivatives: their error against their step."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from handgrad.audit.numerical import Curve

COLOURS = {"forward": "#d1495b", "central": "#edae49", "complex": "#00798c"}


def error_curves(curves: list[Curve]) -> Figure:
    """The error of each numerical derivative against its step h, one panel for each dtype."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    dtypes = list(dict.fromkeys(curve.dtype for curve in curves))
    axes = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)[0]
    for axis, dtype in zip(axes, dtypes, strict=True):
        for curve in curves:
            if curve.dtype == dtype:
                draw_curve(axis, curve)
        axis.set(xscale="log", yscale="log", title=dtype, xlabel="step h")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("relative error of the derivative")
    axes[0].legend(title="thin: W1, b1, W2, b2 alone", frameon=False, loc="lower left")
    figure.suptitle("A difference quotient has a best step; the complex step needs none")
    return figure


def draw_curve(axis: Axes, curve: Curve) -> None:
    """One method on one block of parameters; an exact zero is drawn at the lower edge."""
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

"""Sections of the dashboard in reading order, their charts, and the equation of each tag.

SECTIONS is the only place that knows a tag's meaning: the descriptions of the charts, the
custom-scalars layout, the pinned cards and the report's tags come from it. The same file gives the
command and the address that open the dashboard.
"""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

TIERS = ("off", "lite", "full", "deep")  # each shows what the one before it does, and more
BATCH = "Of the newest update's batch: of device 0's shard, and of its microbatches the last."
STEP = "Of the whole update, over all examples and devices, whatever the optimizer does."
PARAMETERS = ("W1", "b1", "W2", "b2")
COST = "`J = -(1/m) sum [Y log A2 + (1 - Y) log(1 - A2)]`, or `(1/2m) sum (A2 - Y)^2` with the"
COST += " quadratic cost; summed over outputs, averaged over examples."

Series = list[Any]  # of TensorBoard: "Multiline" with patterns, or "Margin" with three tags


def _band(tag: str, description: str) -> dict[str, str]:
    """Return the curves of a band: the median, the tenth and the ninetieth percentile."""
    return {
        f"{tag}_q{percent}": f"{description} The {percent}% quantile. {BATCH}"
        for percent in (50, 10, 90)
    }


# Each section answers one question. It holds charts, a chart holds curves, and a curve has a tag
# and a description in Markdown with the equation. Braces stand for several tags, as in a shell.
SECTIONS = {
    "1 The cost: does it learn?": {
        "cost J": {
            "cost/train": f"{COST} Over the examples since the last point.",
            "cost/val": f"{COST} Over the whole validation split.",
            "cost/test": f"{COST} Over the test split, by the best network.",
            "cost/chance": f"{COST} At `A2 = 1/2`: the cost of not knowing.",
        },
        "accuracy": {
            "accuracy/{train,val,test}": "Share of the examples whose largest `A2` is the right "
            "one (with one output: that lies on the right side of 1/2).",
        },
    },
    "2 The backward pass: where does the gradient shrink?": {
        "dz2 to W2^T dz2 to dz1 (log10)": {
            "backward/log10_dz2": f"`dz2 = A2 - Y`, root mean square. {BATCH}",
            "backward/log10_W2T_dz2": "`W2^T dz2`, the error carried back, root mean square. "
            + BATCH,
            "backward/log10_dz1": f"`dz1 = W2^T dz2 * sigma'(z1)`, root mean square. {BATCH}",
        },
        "what each factor keeps": {
            "backward/kept_by_W2": "`|W2^T dz2| / |dz2|`: below 1 the weights shrink the error, "
            f"above 1 they enlarge it. {BATCH}",
            "backward/kept_by_slope": "`|dz1| / |W2^T dz2|`: the factor "
            f"`sigma'(z1) = A1 (1 - A1)`, which is at most 1/4. {BATCH}",
        },
        "norms of the gradients (log10)": {
            "backward/log10_norm_{dW1,db1,dW2,db2}": "`dW2 = (1/m) dz2 A1^T`, "
            "`db2 = (1/m) sum dz2`, `dW1 = (1/m) dz1 X^T`, `db1 = (1/m) sum dz1`: the norm, log10, "
            "as the optimizer got it.",
        },
    },
    "3 The noise: is the batch big enough?": {
        "noise scale and batch size (log10)": {
            "noise/log10_scale": "`B = tr(Sigma) / |G|^2`, Sigma the covariance of one example's "
            "gradient, G the mean gradient: the batch size at which noise and signal weigh the "
            f"same. log10 of a running average of both. {BATCH}",
            "noise/log10_batch_size": "Examples in one update, log10.",
        },
        "norm of one example's gradient |g_i|": _band(
            "noise/example_norm",
            "`|g_i|^2 = |dz2_i|^2 (|A1_i|^2 + 1) + |dz1_i|^2 (|X_i|^2 + 1)`.",
        ),
        "weights whose sign the batch knows": {
            "noise/known_signs_{W1,b1,W2,b2}": "Share of the entries with "
            "`|mean gradient| > 2 standard errors` in this batch; chance alone gives 0.05. "
            + BATCH,
        },
        "do the examples agree? (cosine)": {
            "noise/agreement": "Mean cosine between the gradients of two examples, from "
            "`<g_i, g_j> = <dz2_i, dz2_j> (<A1_i, A1_j> + 1) + <dz1_i, dz1_j> (<X_i, X_j> + 1)`: "
            f"1 where all ask for the same step, 0 where nobody helps anybody. {BATCH}",
        },
    },
    "4 The step: is it right?": {
        "update to weight (log10)": {
            "step/log10_update_to_weight_{W1,b1,W2,b2}": "`|update| / |W|`, log10: about -3 is "
            f"healthy. {STEP}",
        },
        "learning rate": {"step/learning_rate": "`alpha` in `W := W - alpha dW`."},
        "angle to the gradient before": {
            "step/angle_to_previous": "Degrees between the gradient of this update and that of the "
            "point before: 90 is no relation, towards 180 the step jumps to and fro.",
        },
        "distance from the start": {
            "step/distance_from_start_{W1,W2}": "`|W - W_start| / |W_start|`.",
        },
        "learning rate times curvature": {
            "step/rate_times_curvature": "`alpha lambda`, lambda the largest eigenvalue of the "
            f"cost's Hessian (by the R-operator): plain descent is stable below 2. {BATCH}",
            "step/stable_below": "The bound 2 of plain descent.",
        },
        "curvature of the cost (log10)": {
            "step/log10_curvature": "The largest eigenvalue `lambda` of the cost's Hessian, log10. "
            + BATCH,
            "step/log10_gauss_newton_{W1,b1,W2,b2}": "Trace of the Gauss-Newton matrix over these "
            f"parameters, log10. {BATCH}",
        },
    },
    "5 The sigmoids' health": {
        "saturated sigmoids": {
            "health/saturated_hidden": f"Share of all `A1` below 0.05 or above 0.95. {BATCH}",
            "health/saturated_output": "Share of all `A2` below 0.05 or above 0.95: how sure the "
            f"network is. {BATCH}",
            "health/dead_units": "Share of hidden units whose `A1` is saturated at every example. "
            + BATCH,
        },
        "mean slope of each hidden unit": _band(
            "health/slope", "`sigma'(z1) = A1 (1 - A1)`, at most 1/4, averaged for each unit."
        ),
    },
    "6 The check: is the gradient right?": {
        "residual over tolerance (log10, wrong above 0)": {
            "check/checksum_{dW2,db2,dW1,db1}": "`dW r = (1/m) dz (A^T r)` with a random vector r: "
            "the difference over what rounding explains, log10. Above 0 the line is wrong.",
            "check/audit_{dz2,dW2,db2,dz1,dW1,db1}": "The line against the derivative of that one "
            "operation: residual over tolerance, log10. Above 0 the line is wrong.",
        },
        "angle to the true gradient (degrees)": {
            "check/angle_{dz2,dW2,db2,dz1,dW1,db1}": "Of a rule that deviates on purpose: the "
            "angle between its line and the true one. Below 90 it still descends.",
        },
    },
    "7 The run": {
        "speed": {
            "run/examples_per_second": "Examples trained on in a second, on all devices, since the "
            "last point.",
        },
        "time for looking": {
            "run/dashboard_share": "Share of the training's time that this dashboard took; it "
            "skips points where it would take more than `dashboard.share`.",
        },
        "epoch": {"run/epoch": "Epochs, as a function of the updates on the x axis."},
    },
}
ADDED = {  # charts that only a tier above lite shows, and the tiers above that one
    "weights whose sign the batch knows": "full",
    "do the examples agree? (cosine)": "full",
    "angle to the gradient before": "full",
    "distance from the start": "full",
    "learning rate times curvature": "deep",
    "curvature of the cost (log10)": "deep",
}
PINNED = (  # the key curves of the sections, in their order
    *("cost/train", "accuracy/val", "backward/kept_by_slope", "noise/log10_scale"),
    *("step/log10_update_to_weight_W1", "health/saturated_hidden", "check/checksum_dW1"),
)
HISTOGRAMS = {
    "parameters": PARAMETERS,
    "gradients": ("dz2", "dW2", "dz1", "dW1"),
    "activations": ("z1", "A1", "z2", "A2"),
}
TOTALS = {
    "run/updates": "Updates made in all.",
    "run/fit_seconds": "Seconds of wall time from the first update to the last, with everything.",
    "run/devices": "Devices that trained together.",
}


def _tags(curves: Iterable[str]) -> list[str]:
    """Return the tags of a chart's curves, with their braces written out."""
    parts = (curve.rstrip("}").partition("{") for curve in curves)
    return [start + name for start, _, names in parts for name in names.split(",")]


DESCRIPTIONS = TOTALS | {
    tag: description
    for charts in SECTIONS.values()
    for curves in charts.values()
    for curve, description in curves.items()
    for tag in _tags([curve])
}


def pinned(tier: str) -> list[str]:
    """Return the tags of the cards on top, in the order of the sections.

    Every tier has the tags that the module and the check write themselves.
    """
    return [tag for tag in PINNED if tier != "off" or re.match("cost|accuracy|check", tag)]


PORT = 6006
# TensorBoard's own numbers are smaller: ten pictures of a tag, for instance.
SAMPLES = "images=200,histograms=200,pr_curves=200,text=50"


def command(logs: Path) -> str:
    """Return the command that serves a folder of runs to this machine alone, with every picture."""
    return (
        f"tensorboard --logdir {shlex.quote(str(logs))} --host 127.0.0.1 --port {PORT} "
        f"--samples_per_plugin {SAMPLES}"
    )


def url(tier: str) -> str:
    """Return the address of the time series, with key cards pinned and without smoothing.

    Smoothing would hide the first points.
    """
    cards = [{"plugin": "scalars", "tag": tag} for tag in pinned(tier)]
    said = quote(json.dumps(cards, separators=(",", ":")), safe=":,/")
    smoothing = "#timeseries&_smoothingWeight=0"  # the second one is for the other tabs
    return f"http://127.0.0.1:{PORT}/?pinnedCards={said}&smoothing=0{smoothing}"


def charts_of(tier: str) -> dict[str, dict[str, list[str]]]:
    """Return the tags of each chart that a tier above off shows, by section and chart."""
    shown = TIERS[: TIERS.index(tier) + 1]
    return {
        section: {
            title: _tags(curves)
            for title, curves in charts.items()
            if ADDED.get(title, "lite") in shown
        }
        for section, charts in SECTIONS.items()
    }


def layout(tier: str) -> dict[str, dict[str, Series]]:
    """Return the custom-scalars tab of a tier: each section's charts under its title.

    The format is that of `SummaryWriter.add_custom_scalars`.
    """
    return {
        section: {
            # A band has three tags: the middle, the lower and the upper one.
            title: ["Margin", tags]
            if tags[0].endswith("_q50")
            else ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
            for title, tags in charts.items()
        }
        for section, charts in charts_of(tier).items()
    }

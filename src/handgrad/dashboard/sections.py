"""Sections of the dashboard in reading order, their charts, and the equation of each tag.

SECTIONS is the only place that knows a tag's meaning: the descriptions of the charts, the
custom-scalars layout, the pinned cards and the report's tags come from it. The same file gives the
command and the address that open the dashboard.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

TIERS = ("off", "lite", "full", "deep")  # each shows what the one before it does, and more
BATCH = "Of the newest update's batch: of device 0's shard, and of its microbatches the last."
STEP = "Of the whole update, over all examples and devices, whatever the optimizer does."
PARAMETERS = ("W1", "b1", "W2", "b2")

Series = list[Any]  # of TensorBoard: "Multiline" with patterns, or "Margin" with three tags


class Quantity(NamedTuple):
    """Describes one curve."""

    tag: str  # {} stands for what follows in `names`
    description: str  # Markdown, with the equation
    tier: str = "lite"
    names: tuple[str, ...] = ()

    @property
    def tags(self) -> list[str]:
        """Return the tags, written out."""
        return [self.tag.format(name) for name in self.names] if self.names else [self.tag]


class Chart(NamedTuple):
    """Describes one chart of the custom-scalars tab: several curves, or a band of quantiles."""

    title: str
    quantities: tuple[Quantity, ...]
    band: bool = False  # the middle, the lower and the upper quantile

    def for_tier(self, tier: str) -> "Chart":
        """Return the chart with the quantities that a tier shows."""
        shown = TIERS[: TIERS.index(tier) + 1]
        return self._replace(quantities=tuple(q for q in self.quantities if q.tier in shown))

    @property
    def series(self) -> Series:
        """Return the curves, or the three tags of the band."""
        tags = [tag for quantity in self.quantities for tag in quantity.tags]
        if self.band:
            return ["Margin", tags]  # the middle, the lower and the upper one
        return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]


class Section(NamedTuple):
    """Holds the charts that answer one question."""

    title: str
    charts: tuple[Chart, ...]
    pinned: tuple[str, ...]


def _band(tag: str, title: str, description: str) -> Chart:
    """Return a chart of the median with the tenth and the ninetieth percentile."""
    return Chart(
        title,
        tuple(
            Quantity(f"{tag}_q{percent}", f"{description} The {percent}% quantile. {BATCH}")
            for percent in (50, 10, 90)
        ),
        band=True,
    )


COST = "`J = -(1/m) sum [Y log A2 + (1 - Y) log(1 - A2)]`, or `(1/2m) sum (A2 - Y)^2` with the"
COST += " quadratic cost; summed over outputs, averaged over examples."
LINES = ("dz2", "dW2", "db2", "dz1", "dW1", "db1")

SECTIONS = (
    Section(
        "1 The cost: does it learn?",
        (
            Chart(
                "cost J",
                (
                    Quantity("cost/train", f"{COST} Over the examples since the last point."),
                    Quantity("cost/val", f"{COST} Over the whole validation split."),
                    Quantity("cost/test", f"{COST} Over the test split, by the best network."),
                    Quantity("cost/chance", f"{COST} At `A2 = 1/2`: the cost of not knowing."),
                ),
            ),
            Chart(
                "accuracy",
                (
                    Quantity(
                        "accuracy/{}",
                        "Share of the examples whose largest `A2` is the right one (with one "
                        "output: that lies on the right side of 1/2).",
                        names=("train", "val", "test"),
                    ),
                ),
            ),
        ),
        pinned=("cost/train", "accuracy/val"),
    ),
    Section(
        "2 The backward pass: where does the gradient shrink?",
        (
            Chart(
                "dz2 to W2^T dz2 to dz1 (log10)",
                (
                    Quantity("backward/log10_dz2", f"`dz2 = A2 - Y`, root mean square. {BATCH}"),
                    Quantity(
                        "backward/log10_W2T_dz2",
                        f"`W2^T dz2`, the error carried back, root mean square. {BATCH}",
                    ),
                    Quantity(
                        "backward/log10_dz1",
                        f"`dz1 = W2^T dz2 * sigma'(z1)`, root mean square. {BATCH}",
                    ),
                ),
            ),
            Chart(
                "what each factor keeps",
                (
                    Quantity(
                        "backward/kept_by_W2",
                        "`|W2^T dz2| / |dz2|`: below 1 the weights shrink the error, above 1 they "
                        f"enlarge it. {BATCH}",
                    ),
                    Quantity(
                        "backward/kept_by_slope",
                        "`|dz1| / |W2^T dz2|`: the factor `sigma'(z1) = A1 (1 - A1)`, which is "
                        f"at most 1/4. {BATCH}",
                    ),
                ),
            ),
            Chart(
                "norms of the gradients (log10)",
                (
                    Quantity(
                        "backward/log10_norm_{}",
                        "`dW2 = (1/m) dz2 A1^T`, `db2 = (1/m) sum dz2`, `dW1 = (1/m) dz1 X^T`, "
                        "`db1 = (1/m) sum dz1`: the norm, log10, as the optimizer got it.",
                        names=("dW1", "db1", "dW2", "db2"),
                    ),
                ),
            ),
        ),
        pinned=("backward/kept_by_slope",),
    ),
    Section(
        "3 The noise: is the batch big enough?",
        (
            Chart(
                "noise scale and batch size (log10)",
                (
                    Quantity(
                        "noise/log10_scale",
                        "`B = tr(Sigma) / |G|^2`, Sigma the covariance of one example's gradient, "
                        "G the mean gradient: the batch size at which noise and signal weigh the "
                        "same. log10 of a running average of both. " + BATCH,
                    ),
                    Quantity("noise/log10_batch_size", "Examples in one update, log10."),
                ),
            ),
            _band(
                "noise/example_norm",
                "norm of one example's gradient |g_i|",
                "`|g_i|^2 = |dz2_i|^2 (|A1_i|^2 + 1) + |dz1_i|^2 (|X_i|^2 + 1)`.",
            ),
            Chart(
                "weights whose sign the batch knows",
                (
                    Quantity(
                        "noise/known_signs_{}",
                        "Share of the entries with `|mean gradient| > 2 standard errors` in this "
                        f"batch; chance alone gives 0.05. {BATCH}",
                        "full",
                        PARAMETERS,
                    ),
                ),
            ),
            Chart(
                "do the examples agree? (cosine)",
                (
                    Quantity(
                        "noise/agreement",
                        "Mean cosine between the gradients of two examples, from "
                        "`<g_i, g_j> = <dz2_i, dz2_j> (<A1_i, A1_j> + 1) + "
                        "<dz1_i, dz1_j> (<X_i, X_j> + 1)`: 1 where all ask for the same step, 0 "
                        f"where nobody helps anybody. {BATCH}",
                        "full",
                    ),
                ),
            ),
        ),
        pinned=("noise/log10_scale",),
    ),
    Section(
        "4 The step: is it right?",
        (
            Chart(
                "update to weight (log10)",
                (
                    Quantity(
                        "step/log10_update_to_weight_{}",
                        f"`|update| / |W|`, log10: about -3 is healthy. {STEP}",
                        names=PARAMETERS,
                    ),
                ),
            ),
            Chart(
                "learning rate",
                (Quantity("step/learning_rate", "`alpha` in `W := W - alpha dW`."),),
            ),
            Chart(
                "angle to the gradient before",
                (
                    Quantity(
                        "step/angle_to_previous",
                        "Degrees between the gradient of this update and that of the point "
                        "before: 90 is no relation, towards 180 the step jumps to and fro.",
                        "full",
                    ),
                ),
            ),
            Chart(
                "distance from the start",
                (
                    Quantity(
                        "step/distance_from_start_{}",
                        "`|W - W_start| / |W_start|`.",
                        "full",
                        ("W1", "W2"),
                    ),
                ),
            ),
            Chart(
                "learning rate times curvature",
                (
                    Quantity(
                        "step/rate_times_curvature",
                        "`alpha lambda`, lambda the largest eigenvalue of the cost's Hessian (by "
                        f"the R-operator): plain descent is stable below 2. {BATCH}",
                        "deep",
                    ),
                    Quantity("step/stable_below", "The bound 2 of plain descent.", "deep"),
                ),
            ),
            Chart(
                "curvature of the cost (log10)",
                (
                    Quantity(
                        "step/log10_curvature",
                        "The largest eigenvalue `lambda` of the cost's Hessian, log10. " + BATCH,
                        "deep",
                    ),
                    Quantity(
                        "step/log10_gauss_newton_{}",
                        "Trace of the Gauss-Newton matrix over these parameters, log10. " + BATCH,
                        "deep",
                        PARAMETERS,
                    ),
                ),
            ),
        ),
        pinned=("step/log10_update_to_weight_W1",),
    ),
    Section(
        "5 The sigmoids' health",
        (
            Chart(
                "saturated sigmoids",
                (
                    Quantity(
                        "health/saturated_hidden",
                        f"Share of all `A1` below 0.05 or above 0.95. {BATCH}",
                    ),
                    Quantity(
                        "health/saturated_output",
                        "Share of all `A2` below 0.05 or above 0.95: how sure the network is. "
                        + BATCH,
                    ),
                    Quantity(
                        "health/dead_units",
                        f"Share of hidden units whose `A1` is saturated at every example. {BATCH}",
                    ),
                ),
            ),
            _band(
                "health/slope",
                "mean slope of each hidden unit",
                "`sigma'(z1) = A1 (1 - A1)`, at most 1/4, averaged for each unit.",
            ),
        ),
        pinned=("health/saturated_hidden",),
    ),
    Section(
        "6 The check: is the gradient right?",
        (
            Chart(
                "residual over tolerance (log10, wrong above 0)",
                (
                    Quantity(
                        "check/checksum_{}",
                        "`dW r = (1/m) dz (A^T r)` with a random vector r: the difference over "
                        "what rounding explains, log10. Above 0 the line is wrong.",
                        names=("dW2", "db2", "dW1", "db1"),
                    ),
                    Quantity(
                        "check/audit_{}",
                        "The line against the derivative of that one operation: residual over "
                        "tolerance, log10. Above 0 the line is wrong.",
                        names=LINES,
                    ),
                ),
            ),
            Chart(
                "angle to the true gradient (degrees)",
                (
                    Quantity(
                        "check/angle_{}",
                        "Of a rule that deviates on purpose: the angle between its line and the "
                        "true one. Below 90 it still descends.",
                        names=LINES,
                    ),
                ),
            ),
        ),
        pinned=("check/checksum_dW1",),
    ),
    Section(
        "7 The run",
        (
            Chart(
                "speed",
                (
                    Quantity(
                        "run/examples_per_second",
                        "Examples trained on in a second, on all devices, since the last point.",
                    ),
                ),
            ),
            Chart(
                "time for looking",
                (
                    Quantity(
                        "run/dashboard_share",
                        "Share of the training's time that this dashboard took; it skips points "
                        "where it would take more than `dashboard.share`.",
                    ),
                ),
            ),
            Chart(
                "epoch",
                (Quantity("run/epoch", "Epochs, as a function of the updates on the x axis."),),
            ),
        ),
        pinned=(),
    ),
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
DESCRIPTIONS = TOTALS | {
    tag: each.description
    for section in SECTIONS
    for chart in section.charts
    for each in chart.quantities
    for tag in each.tags
}


def pinned(tier: str) -> list[str]:
    """Return the tags of the cards on top, in the order of the sections.

    Every tier has the tags that the module and the check write themselves.
    """
    every = [tag for section in SECTIONS for tag in section.pinned]
    return every if tier != "off" else [t for t in every if re.match("cost|accuracy|check", t)]


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


def layout(tier: str) -> dict[str, dict[str, Series]]:
    """Return the custom-scalars tab of a tier: each section's charts under its title.

    The format is that of `SummaryWriter.add_custom_scalars`.
    """
    return {
        section.title: {
            chart.title: only.series
            for chart in section.charts
            if (only := chart.for_tier(tier)).quantities
        }
        for section in SECTIONS
    }

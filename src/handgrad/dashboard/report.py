"""report.md: five questions about a run, each answered with a number and the tag to look at."""

from statistics import median
from typing import Any, NamedTuple

SURE = 10.0  # times the batch by which the noise scale must differ before we say a word
LARGE, SMALL = -2.0, -4.0  # log10 of update to weight, about the healthy -3
STABLE = 2.0  # learning rate times curvature, of plain descent
LEARNED = 0.9  # of the cost of not knowing, above which nothing was learned
STEEPEST = 0.25  # the largest slope of a sigmoid


class Facts(NamedTuple):
    """Holds the results of a run at its end."""

    figures: dict[str, Any]  # as in metrics.json
    points: dict[str, list[float]]  # of the dashboard's curves
    checked: bool  # whether the first batch was audited
    batch_size: int


def render(run: str, facts: Facts) -> str:
    """Return the report as Markdown."""
    answers = {
        "Did it learn?": _learned(facts),
        "Is the gradient proved?": _proved(facts),
        "Where does the gradient shrink?": _shrinks(facts),
        "Is the batch too big or too small?": _batch(facts),
        "Is the step too big or too small?": _step(facts),
    }
    sections = [f"## {question}\n\n{answer}\n" for question, answer in answers.items()]
    return "\n".join([f"# {run}\n", *sections])


def _median_of(facts: Facts, tag: str) -> float | None:
    """Return the median of a curve, or None where it has no point."""
    points = facts.points.get(tag)
    return median(points) if points else None


def _learned(facts: Facts) -> str:
    """Answer whether the cost fell, and whether the network generalizes to other examples."""
    cost, chance = facts.figures.get("cost/train"), _median_of(facts, "cost/chance")
    if cost is None or chance is None:
        return "Unknown: the run ended before its first figures (`cost/train`)."
    said = f"the cost of the training split is {cost:.4g} (`cost/train`), where answering 1/2 to "
    said += f"everything costs {chance:.4g} (`cost/chance`). "
    said = f"**No**: {said}" if not cost < LEARNED * chance else f"**Yes**: {said}"
    for split, word in (("test", "test"), ("val", "validation")):
        right = facts.figures.get(f"accuracy/{split}")
        if right is not None:
            said += f"Of the {word} examples, {right:.2%} are right (`accuracy/{split}`). "
            break
    beyond = facts.figures.get("cost/val")
    if beyond is not None and beyond > 2 * cost and cost < LEARNED * chance:
        said += f"The validation split costs {beyond / cost:.1f} times as much (`cost/val`): the "
        said += "network knows its training examples better than others of their kind. "
    return said.strip()


def _proved(facts: Facts) -> str:
    """Answer whether the check found a wrong line."""
    wrong = facts.figures.get("check/wrong", [])
    if wrong:
        return (
            f"**No**: the check found {', '.join(wrong)} wrong (`check/audit_{wrong[0]}`). "
            "`python train.py task=check` says more."
        )
    if not facts.checked:
        return "**Not checked**: `check.at_start=false`. `python train.py task=check` proves it."
    return (
        "**Yes**: on the first batch each line of the backward pass agreed with the derivative of "
        "that one operation, and no check since found a line wrong; on the charts a line is right "
        "below 0 (`check/audit_dW1`, `check/checksum_dW1`)."
    )


def _shrinks(facts: Facts) -> str:
    """Answer which factor of dz1 = W2^T dz2 * sigma'(z1) loses most of the error."""
    weights, slope = (_median_of(facts, f"backward/kept_by_{by}") for by in ("W2", "slope"))
    if weights is None or slope is None:
        return "Unknown: the rule gives no dz1, or the run ended too early."
    said = f"On its way to the hidden layer the error is multiplied by {weights:.2g} in `W2^T` "
    said += f"(`backward/kept_by_W2`) and by {slope:.2g} in the sigmoid's slope "
    said += f"(`backward/kept_by_slope`, at most {STEEPEST}); by {weights * slope:.2g} in all. "
    if weights < slope:
        return said + "**Most is lost in the weights**: those of W2 are small."
    if slope < STEEPEST / 2:
        return said + (
            "**Most is lost in the slope**: many hidden units are saturated "
            "(`health/saturated_hidden`)."
        )
    return said + "**Most is lost in the slope**, as with any sigmoid; the units are not saturated."


def _batch(facts: Facts) -> str:
    """Answer how the batch compares with the noise scale."""
    size, scale = facts.batch_size, _median_of(facts, "noise/log10_scale")
    if scale is None:
        return (
            f"Unknown: in batches of {size} the gradient's noise hid its signal "
            "(`noise/log10_scale` has no point), or the rule gives no dz1."
        )
    wanted = 10**scale
    said = f"Noise and signal of the gradient weigh the same in a batch of {wanted:.2g} "
    said += f"(`noise/log10_scale`, the median of the run); the batch has {size} "
    said += "(`noise/log10_batch_size`). "
    if wanted > SURE * size:
        return said + (
            "**Small**: the steps are mostly noise. A larger batch would give better steps, "
            "almost in proportion; a small one is cheap and also learns."
        )
    if wanted * SURE < size:
        return said + (
            "**Big**: a smaller batch would point almost the same way and cost less a step."
        )
    return said + "**About right**: neither much noise nor much repetition."


def _step(facts: Facts) -> str:
    """Answer how large a step is relative to the weights and to the curvature."""
    ratio = _median_of(facts, "step/log10_update_to_weight_W1")
    if ratio is None:
        return "Unknown: the run ended too early (`step/log10_update_to_weight_W1`)."
    said = f"A step changes W1 by {10**ratio:.1g} of its size "
    said += f"(`step/log10_update_to_weight_W1`, median {ratio:.1f}; about -3 is healthy). "
    curved = _median_of(facts, "step/rate_times_curvature")
    if curved is not None:
        said += f"Learning rate times curvature is {curved:.2g} (`step/rate_times_curvature`; "
        said += f"plain descent is stable below {STABLE:.0f}). "
    if ratio > LARGE or (curved is not None and curved > STABLE):
        return said + "**Big**: if the cost is restless, take a smaller `optimizer.lr`."
    if ratio < SMALL:
        return said + "**Small**: a larger `optimizer.lr` would learn sooner."
    return said + "**About right.**"

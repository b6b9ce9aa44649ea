"""The custom-scalars tab: each section's charts under its title, with bands of quantiles."""

import re
from typing import Any

from handgrad.dashboard.sections import SECTIONS, Chart, shown

Series = list[Any]  # of TensorBoard: "Multiline" with patterns, or "Margin" with three tags


def layout(tier: str) -> dict[str, dict[str, Series]]:
    """What a tier shows, by section and chart, as `SummaryWriter.add_custom_scalars` takes it."""
    return {
        section.title: {
            chart.title: series(only)
            for chart in section.charts
            if (only := for_tier(chart, tier)).quantities
        }
        for section in SECTIONS
    }


def for_tier(chart: Chart, tier: str) -> Chart:
    """The chart with what a tier shows."""
    return chart._replace(quantities=tuple(q for q in chart.quantities if shown(q, tier)))


def series(chart: Chart) -> Series:
    """The curves of a chart."""
    tags = [tag for quantity in chart.quantities for tag in quantity.tags]
    if chart.band:
        return ["Margin", tags]  # the middle, the lower and the upper one
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]

"""The custom-scalars tab: the charts of each section under its title, bands where there are three.

One layout for all tiers, so that runs of different tiers lie in one chart.
"""

import re

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.summary import pb

from handgrad.dashboard.sections import SECTIONS, Chart, shown


def layout(tier: str) -> Summary:
    """What a tier shows, as TensorBoard's custom-scalars plugin takes it."""
    categories = []
    for section in SECTIONS:
        charts = [each for each in map(lambda c: only(c, tier), section.charts) if each.quantities]
        categories.append(layout_pb2.Category(title=section.title, chart=map(drawn, charts)))
    return pb(layout_pb2.Layout(category=categories))


def only(chart: Chart, tier: str) -> Chart:
    """The chart with what a tier shows."""
    return chart._replace(quantities=tuple(q for q in chart.quantities if shown(q, tier)))


def drawn(chart: Chart) -> layout_pb2.Chart:
    """A chart as the plugin takes it."""
    tags = [tag for quantity in chart.quantities for tag in quantity.tags]
    if chart.band:
        middle, lower, upper = tags
        series = layout_pb2.MarginChartContent.Series(value=middle, lower=lower, upper=upper)
        return layout_pb2.Chart(
            title=chart.title, margin=layout_pb2.MarginChartContent(series=[series])
        )
    lines = layout_pb2.MultilineChartContent(tag=[f"^{re.escape(tag)}$" for tag in tags])
    return layout_pb2.Chart(title=chart.title, multiline=lines)

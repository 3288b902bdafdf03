"""A chart as inline SVG, by its kind."""

from __future__ import annotations

from gapo.report.chart_model import Chart, HistogramChart, LineChart
from gapo.report.markup import Markup
from gapo.report.svg_areas import histogram_chart, matrix
from gapo.report.svg_lines import line_chart


def svg(chart: Chart) -> Markup:
    if isinstance(chart, LineChart):
        return line_chart(chart)
    return histogram_chart(chart) if isinstance(chart, HistogramChart) else matrix(chart)

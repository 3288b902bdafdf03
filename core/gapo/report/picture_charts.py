"""Charts as matplotlib draws them, from the same descriptions as the page's (`chart_model`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from gapo.report.chart_model import Area, HistogramChart, LineChart, Rule, Series
from gapo.report.formatting import tick_labels
from gapo.report.markup import printable
from gapo.report.palette import LIGHT
from gapo.report.scales import spread, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS_PER_INCH = 72
_LABEL_GAP = 11.5
"""Least distance of two labels at lines' ends, in points."""
_MOST_BOUNDARIES = 12
"""Boundaries that are named; of more, every nth."""
_HIGHEST_RIDGE = 1.25
_NEAR_TOP = 0.9
"""Share of the height above which a rule has its label below it."""


def draw_lines(axes: Axes, chart: LineChart) -> None:
    """Sets the scales of `axes` too; its size must be final, for labels are moved apart by it."""
    axes.set_xlim(*chart.x_range)
    axes.set_ylim(*chart.y_range)
    _ticks(axes, chart)
    for rule in chart.rules:
        _rule(axes, rule)
    _boundaries(axes, chart)
    for series in chart.series:
        _series(axes, series)
    _labels(axes, [series for series in chart.series if series.label and not series.label_above])


def _ticks(axes: Axes, chart: LineChart) -> None:
    marked = ticks(*chart.y_range, chart.axes.y_tick_count)
    form = chart.axes.y_format
    axes.set_yticks(marked, [form(value) for value in marked] if form else tick_labels(marked))
    shown = chart.axes.x_ticks if chart.axes.x_ticks is not None else ticks(*chart.x_range, 6)
    axes.set_xticks(shown, tick_labels(shown))


def _rule(axes: Axes, rule: Rule) -> None:
    low, high = axes.get_ylim()
    axes.axhline(rule.y, color=LIGHT["red"], lw=0.9, ls=(0, (5, 3)))
    below = rule.y > low + _NEAR_TOP * (high - low)
    axes.annotate(rule.label, (axes.get_xlim()[0], rule.y), xytext=(3, -3 if below else 3), textcoords="offset points",
                  fontsize=8.5, color=LIGHT["red"], va="top" if below else "bottom")  # fmt: skip


def _boundaries(axes: Axes, chart: LineChart) -> None:
    boundaries = chart.axes.boundaries
    every = -(-len(boundaries) // _MOST_BOUNDARIES) or 1
    for i, (at, label) in enumerate(boundaries):
        axes.axvline(at, color=LIGHT["grey"], lw=0.8, ls=(0, (1, 2)), zorder=0)
        if i % every == 0:
            axes.annotate(label, (at, 1), xycoords=("data", "axes fraction"), xytext=(2, -8),
                          textcoords="offset points", fontsize=8, color=LIGHT["soft"])  # fmt: skip


def _series(axes: Axes, series: Series) -> None:
    ink, points = LIGHT[series.color], series.points
    bounded = [(p.x, p.lo, p.hi) for p in points if p.lo is not None and p.hi is not None]
    if bounded:
        places, low, high = zip(*bounded, strict=True)
        axes.fill_between(places, low, high, color=ink, alpha=0.13, lw=0)
        axes.vlines(places, low, high, color=ink, lw=1, alpha=0.55)
    x, y = [p.x for p in points], [p.y for p in points]
    axes.plot(x, y, color=ink, lw=1.8, ls=(0, (4, 3)) if series.dashed else "-")
    if series.dots or len(points) == 1:
        axes.plot(x, y, "o", color=ink, ms=4.5)
    if series.label_above:
        highest = max(p.hi or p.y for p in points)
        axes.annotate(printable(series.label), (x[-1], highest), xytext=(0, 7), textcoords="offset points",
                      ha="center", color=ink, fontsize=9, fontweight="bold")  # fmt: skip


def _labels(axes: Axes, labelled: Sequence[Series]) -> None:
    """Labels beside the last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    labelled = sorted(labelled, key=lambda series: series.points[-1].y)
    points_high = axes.bbox.height * POINTS_PER_INCH / axes.figure.dpi
    lines = max((series.label.count("\n") + 1 for series in labelled), default=1)
    gap = (high - low) * _LABEL_GAP * lines / points_high
    heights = spread([series.points[-1].y for series in labelled], gap, low + gap / 2, high)
    for series, y in zip(labelled, heights, strict=True):
        axes.annotate(printable(series.label), (series.points[-1].x, y), xytext=(8, 0), textcoords="offset points",
                      color=LIGHT[series.color], fontsize=9, fontweight="bold", va="center", linespacing=1.05,
                      annotation_clip=False)  # fmt: skip


def draw_ridges(axes: Axes, charts: Sequence[HistogramChart], names: Sequence[str]) -> None:
    """Histograms over each other, the first on top, each on a line of its own with its name."""
    axes.grid(False)
    for band in {chart.band for chart in charts if chart.band}:
        axes.axvspan(*band, color=LIGHT["blue"], alpha=0.05, lw=0)
    for level, chart in enumerate(reversed(charts)):
        for area in chart.areas:
            _ridge(axes, area, level, len(charts) - level, chart.top_share)
        axes.axhline(level, color=LIGHT["soft"], lw=0.6)
    axes.set_yticks(range(len(charts)), list(reversed(names)))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.05, len(charts) + 0.15)
    axes.set_xticks([0, 0.2, 0.5, 0.95, 1], ["0", "0.2", "0.5", "0.95", ""])
    classes = {area.name: area.color for chart in charts for area in chart.areas}
    for i, (name, color) in enumerate(classes.items()):
        axes.text(1.015, 0.94 - 0.085 * i, name, transform=axes.transAxes, color=LIGHT[color], fontsize=9,
                  fontweight="bold")  # fmt: skip


def _ridge(axes: Axes, area: Area, level: int, above: int, top_share: float) -> None:
    edges = area.bins.edges
    heights = [level + 0.92 * min(_HIGHEST_RIDGE, share / top_share) for share in area.bins.shares]
    x, y = [float(edges[0])], [float(level)]
    for (start, end), height in zip(pairwise(edges), heights, strict=True):
        x += [start, end]
        y += [height, height]
    x, y = [*x, edges[-1]], [*y, level]
    if area.filled:
        axes.fill_between(x, [level] * len(x), y, color=LIGHT[area.color], alpha=0.17, lw=0, zorder=above)
    axes.plot(x, y, color=LIGHT[area.color], lw=1 if area.filled else 1.8, zorder=above + 0.5)

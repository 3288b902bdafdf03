"""Line charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gapo.report.chart_model import Axes, LineChart, Rule, Series
from gapo.report.formatting import tick_labels
from gapo.report.markup import Markup, el, join
from gapo.report.scales import Scale, spread, ticks
from gapo.report.svg_elements import color, frame, number, path_of


def line_chart(chart: LineChart) -> Markup:
    axes = chart.axes
    x = Scale(*chart.x_range, axes.left, axes.width - axes.right)
    y = Scale(*chart.y_range, axes.height - axes.bottom, axes.top)
    body = [_grid(axes, x, y), _boundaries(axes, x), [_rule(axes, rule, y) for rule in chart.rules]]
    body += [_marks(one, x, y) for one in chart.series]
    body.append(_end_labels(chart.series, axes, x, y))
    return frame(axes.width, axes.height, chart.title, body)


def _grid(axes: Axes, x: Scale, y: Scale) -> Markup:
    floor = axes.height - axes.bottom
    parts = []
    marked = ticks(y.low, y.high, axes.y_tick_count)
    named = [axes.y_format(v) for v in marked] if axes.y_format else tick_labels(marked)
    for value, name in zip(marked, named, strict=True):
        at = number(y(value))
        parts.append(el("line", class_="grid", x1=number(x.start), x2=number(x.end), y1=at, y2=at))
        parts.append(
            el(
                "text",
                name,
                class_="tick",
                x=number(axes.left - 5),
                y=at,
                dy=".32em",
                text_anchor="end",
            )
        )
    shown = axes.x_ticks if axes.x_ticks is not None else ticks(x.low, x.high, 6)
    for value, name in zip(shown, tick_labels(shown), strict=True):
        at = number(x(value))
        parts.append(el("text", name, class_="tick", x=at, y=number(floor + 13), text_anchor="middle"))
    parts.append(
        el("line", class_="axis", x1=number(x.start), x2=number(x.end), y1=number(floor), y2=number(floor))
    )
    if axes.x_label:
        parts.append(
            el(
                "text",
                axes.x_label,
                class_="unit",
                x=number(x.end),
                y=number(axes.height - 4),
                text_anchor="end",
            )
        )
    if axes.y_label:
        parts.append(el("text", axes.y_label, class_="unit", x="2", y="10"))
    return join(parts)


def _boundaries(axes: Axes, x: Scale) -> Markup:
    """Dotted lines at each boundary; labels at every nth, so that they have room."""
    parts = []
    places = [x(value) for value, _ in axes.boundaries]
    closest = min((b - a for a, b in pairwise(places)), default=1e9)
    widest = max((6 * len(label) + 8 for _, label in axes.boundaries), default=0)
    every = max(1, math.ceil(widest / max(closest, 0.1)))
    for i, (at, (_, label)) in enumerate(zip(places, axes.boundaries, strict=True)):
        parts.append(
            el("line", class_="edge", x1=number(at), x2=number(at), y1=axes.top, y2=axes.height - axes.bottom)
        )
        if i % every == 0:
            parts.append(el("text", label, class_="tick", x=number(at + 2), y=number(axes.top + 8)))
    return join(parts)


def _rule(axes: Axes, rule: Rule, y: Scale) -> Markup:
    at = y(rule.y)
    right = axes.width - axes.right
    above = at - 4 if at - 12 > axes.top else at + 11
    return join(
        el("line", class_="rule", x1=axes.left, x2=number(right), y1=number(at), y2=number(at)),
        el("text", rule.label, class_="rulelabel", x=number(axes.left + 3), y=number(above)),
    )


def _marks(series: Series, x: Scale, y: Scale) -> Markup:
    points, ink = series.points, color(series.color)
    parts = []
    for p in points:
        if p.lo is not None and p.hi is not None:
            at = number(x(p.x))
            parts.append(
                el("line", class_="whisker", x1=at, x2=at, y1=number(y(p.lo)), y2=number(y(p.hi)), stroke=ink)
            )
    for before, after in pairwise(points):
        if None not in (before.lo, before.hi, after.lo, after.hi):
            corners = [(before.x, before.lo), (after.x, after.lo), (after.x, after.hi), (before.x, before.hi)]
            outline = path_of([(x(cx), y(cy)) for cx, cy in corners if cy is not None])
            parts.append(el("path", d=outline + "Z", fill=ink, class_="band"))
    if len(points) > 1:
        d = path_of([(x(p.x), y(p.y)) for p in points])
        parts.append(
            el("path", d=d, stroke=ink, class_="line", stroke_dasharray="4 3" if series.dashed else None)
        )
    if series.dots or len(points) == 1:
        for p in points:
            tip = el("title", p.tip) if p.tip else None
            parts.append(el("circle", tip, cx=number(x(p.x)), cy=number(y(p.y)), r=3, fill=ink, class_="dot"))
    return join(parts)


def _end_labels(series: Sequence[Series], axes: Axes, x: Scale, y: Scale) -> Markup:
    """Labels beside the last points, moved apart where they would overlap."""
    labelled = sorted((s for s in series if s.label and not s.label_above), key=lambda s: y(s.points[-1].y))
    heights = spread(
        [y(s.points[-1].y) for s in labelled], axes.label_gap, axes.top + 4, axes.height - axes.bottom - 2
    )
    above = [
        el(
            "text",
            s.label,
            class_="label",
            x=number(x(s.points[-1].x)),
            y=number(y(max(p.hi or p.y for p in s.points)) - 8),
            text_anchor="middle",
            style=f"fill:{color(s.color)}",
        )
        for s in series
        if s.label and s.label_above
    ]
    beside = (
        el(
            "text",
            s.label,
            class_="label",
            x=number(x(s.points[-1].x) + 7),
            y=number(at),
            dy=".32em",
            style=f"fill:{color(s.color)}",
        )
        for s, at in zip(labelled, heights, strict=True)
    )
    return join(above, beside)

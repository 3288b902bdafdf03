"""Charts as inline SVG: small, sharp at every size, and coloured by the page's own light or dark palette."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gapo.report.formatting import tick_labels
from gapo.report.markup import Markup, el, join


@dataclass(frozen=True)
class Point:
    """One measured value; `lo` and `hi` bound its interval where there is one."""

    x: float
    y: float
    lo: float | None = None
    hi: float | None = None
    tip: str | None = None


@dataclass(frozen=True)
class Series:
    points: Sequence[Point]
    color: str
    """Name of a CSS colour variable of the page, such as `blue`."""
    label: str = ""
    """Written at the line's end; empty for none."""
    label_above: bool = False
    """Write it above the last point, where another line goes on beside it."""
    dashed: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Rule:
    """A horizontal reference line: chance, a gate, a limit."""

    y: float
    label: str


@dataclass(frozen=True)
class Axes:
    """Size and scales of a chart, in units of its viewBox."""

    width: float = 360
    height: float = 215
    left: float = 38
    right: float = 14
    top: float = 20
    bottom: float = 30
    x_label: str = ""
    y_label: str = ""
    y_format: Callable[[float], str] | None = None
    """None: as many decimals as the ticks' step needs."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    y_floor: float | None = None
    """The values cannot be below this: the scale never shows less."""
    y_ceiling: float | None = None
    y_include: Sequence[float] = ()
    x_ticks: Sequence[float] | None = None
    y_tick_count: int = 5
    label_gap: float = 12
    """Least distance of two labels at lines' ends."""
    boundaries: Sequence[tuple[float, str]] = field(default=())
    """Vertical lines with a label at the top, such as a stage's first iteration."""


class Scale:
    """Linear map from data to viewBox units."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, (high if high > low else low + 1)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from `low` to `high`, at steps of 1, 2 or 5 times a power of ten, about `count` of them."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def value_range(series: Sequence[Series], axes: Axes, extra: Sequence[float] = ()) -> tuple[float, float]:
    """Lowest and highest y to show, with air around the data, within the floor and ceiling."""
    if axes.y_range:
        return axes.y_range
    values = [v for s in series for p in s.points for v in (p.y, p.lo, p.hi) if v is not None]
    values += [*extra, *axes.y_include]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
    low, high = low - pad, high + pad
    if axes.y_floor is not None:
        low = max(low, axes.y_floor)
    if axes.y_ceiling is not None:
        high = min(high, axes.y_ceiling)
    return low, high


def number(value: float) -> str:
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")


def path_of(coordinates: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in coordinates)


def color(name: str) -> str:
    return f"var(--{name})"


def line_chart(series: Sequence[Series], axes: Axes, *, title: str, rules: Sequence[Rule] = ()) -> Markup:
    """Lines with points, intervals as a band or whiskers, and labels at the lines' ends.

    `title` is for readers who cannot see the chart. Every series needs at least one point.
    """
    xs = [p.x for s in series for p in s.points]
    low_x, high_x = axes.x_range or (min(xs), max(xs))
    low_y, high_y = value_range(series, axes, [r.y for r in rules])
    x = Scale(low_x, high_x, axes.left, axes.width - axes.right)
    y = Scale(low_y, high_y, axes.height - axes.bottom, axes.top)
    body = [_grid(axes, x, y), _boundaries(axes, x), [_rule(axes, r, y) for r in rules]]
    body += [_marks(s, x, y) for s in series]
    body.append(_end_labels(series, axes, x, y))
    return frame(axes.width, axes.height, title, body)


def frame(width: float, height: float, title: str, *body: object) -> Markup:
    return el(
        "svg",
        *body,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=title,
        class_="chart",
    )


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


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions at least `gap` apart, near the wanted ones, within [low, high] where they fit."""
    placed: list[float] = []
    for at in wanted:
        placed.append(max(at, placed[-1] + gap) if placed else max(at, low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed

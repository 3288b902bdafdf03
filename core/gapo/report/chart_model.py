"""What a chart shows, once for every renderer: the page's SVG (`svg`) and the picture (`picture_charts`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gapo.report.report_model import Histogram


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
    """Size, margins and scales of a chart; lengths are units of the page's viewBox, and a picture sets its own."""

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


@dataclass(frozen=True)
class LineChart:
    """Lines with points, intervals as a band or whiskers, and labels at the lines' ends.

    Every series needs at least one point.
    """

    title: str
    """For readers who cannot see the chart."""
    series: Sequence[Series]
    axes: Axes
    rules: Sequence[Rule] = ()

    @property
    def x_range(self) -> tuple[float, float]:
        xs = [point.x for one in self.series for point in one.points]
        return self.axes.x_range or (min(xs), max(xs))

    @property
    def y_range(self) -> tuple[float, float]:
        """Lowest and highest y to show, with air around the data, within the floor and ceiling."""
        axes = self.axes
        if axes.y_range:
            return axes.y_range
        points = [point for one in self.series for point in one.points]
        values = [v for point in points for v in (point.y, point.lo, point.hi) if v is not None]
        values += [*(rule.y for rule in self.rules), *axes.y_include]
        low, high = min(values), max(values)
        pad = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
        if axes.y_floor is not None:
            low = max(low, axes.y_floor)
        if axes.y_ceiling is not None:
            high = min(high, axes.y_ceiling)
        return low, high


@dataclass(frozen=True)
class Area:
    """A histogram, drawn as shares of its own total."""

    bins: Histogram
    color: str
    name: str
    filled: bool = True


@dataclass(frozen=True)
class HistogramChart:
    """Step outlines over [0, 1]. Bins above `top_share` are cut there."""

    title: str
    heading: str
    areas: Sequence[Area]
    top_share: float
    band: tuple[float, float] | None = None
    """The range that is shaded."""
    width: float = 210
    height: float = 118


@dataclass(frozen=True)
class Cell:
    value: float
    tip: str


@dataclass(frozen=True)
class Matrix:
    """A square for each (row, column) that has a cell."""

    title: str
    heading: str
    cells: Mapping[tuple[int, int], Cell]
    ink: Callable[[float], str]
    """CSS class of a cell by its value."""


Chart = LineChart | HistogramChart | Matrix

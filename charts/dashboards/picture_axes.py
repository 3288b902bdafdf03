"""Axes, colours and numbers of drawn panels, by the panel's units and limits."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from charts.dashboards.grafana_emulation import Json
from charts.dashboards.panel_data import EventMarks, PanelData
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

COLOURS = {"blue": "#3274d9", "orange": "#e8762c", "red": "#d0312d"}
LINES = ("#1f77b4", "#e8762c", "#2a9d3f", "#8e44ad", "#c0392b", "#7f6000", "#17a2b8", "#555555")


def set_time_axis(axes: Axes, data: PanelData, marks: EventMarks) -> None:
    axes.set_xlim(0, data.minutes(data.span.end))
    begun = datetime.fromtimestamp(data.span.start, UTC)
    axes.set_xlabel(f"minutes since {begun:%H:%M} UTC", labelpad=1)
    for colour, minutes in marks:
        axes.axvline(minutes, color=COLOURS[colour], lw=1, ls=(0, (4, 3)), alpha=0.8)


def set_value_axis(axes: Axes, panel: Json) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    low, high = axes.get_ylim()
    high = max(high, defaults.get("custom", {}).get("axisSoftMax", high))
    low, high = defaults.get("min", low), defaults.get("max", high)
    axes.set_ylim(low, high)
    if defaults["unit"] == "s" and high > 240:
        axes.yaxis.set_major_locator(MultipleLocator(60 * max(1, round(high / 60 / 6))))
    # So many decimals that two ticks never read the same.
    digits = max(0, math.ceil(-math.log10(max(high - low, 1e-9) / 8))) + 1
    if defaults["unit"] == "percentunit":
        digits = max(0, digits - 2)
    fine = {**panel, "fieldConfig": {"defaults": {**defaults, "decimals": digits}}}
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: _without_trailing_zeros(format_value(value, fine)))
    )
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None and "thresholdsStyle" in defaults.get("custom", {}):
            axes.axhline(step["value"], color="#777777", lw=1.2, ls="--")


def add_legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="best")


def format_value(value: float, panel: Json) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    decimals, unit = defaults.get("decimals"), defaults["unit"]
    if math.isnan(value):
        return "–"
    if unit in ("percentunit", "percent"):
        share = 100 * value if unit == "percentunit" else value
        return f"{share:.{decimals if decimals is not None else 0}f} %"
    if unit == "s":
        return _format_seconds(value)
    if unit in ("bytes", "mbytes"):
        return f"{value / (1024**2 if unit == 'bytes' else 1):,.0f} MiB"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}"


def _without_trailing_zeros(number: str) -> str:
    """Without zeros at the end of its decimals."""
    return re.sub(r"(\.\d*?)0+(?=\D*$)", r"\1", number).replace(". ", " ").removesuffix(".")


def _format_seconds(seconds: float) -> str:
    if abs(seconds) < 1 and seconds != 0:
        return f"{1000 * seconds:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"


def line_colours(count: int) -> list[str]:
    return [LINES[number % len(LINES)] for number in range(max(count, 1))]

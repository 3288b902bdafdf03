"""Draws a dashboard from its JSON and a Prometheus' answers: a PNG for each of its rows. It is no Grafana; it shows what
stands in a dashboard, not how Grafana makes it look."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from charts.dashboards import grafana_emulation
from charts.dashboards.grafana_emulation import Json, Series
from charts.dashboards.panel_data import EventMarks, PanelData
from charts.dashboards.picture_axes import format_value
from charts.dashboards.picture_plots import draw_heatmap, draw_time_series, draw_timeline, draw_trend
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

WIDTH = 16.0
"""Inches, of 24 columns."""
ROW = 0.42
"""Inches, of one row of the grid."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
FOOT = "Drawn from the dashboard's JSON and Prometheus' answers by charts/dashboards/picture.py; Grafana's own looks differ."


def draw(board: Json, data: PanelData, stem: Path) -> list[Path]:
    """`<stem>-<n>.png` for each row of the dashboard, from 1; returns them."""
    marks = [
        (one["iconColor"], data.over_time(target), one.get("useValueForTime") == "on")
        for one, target in zip(
            board["annotations"]["list"], grafana_emulation.marks(board, data.variables), strict=True
        )
    ]
    written = []
    for number, (title, panels) in enumerate(_rows(board), 1):
        path = stem.with_name(f"{stem.name}-{number}.png")
        _draw_row(f"{board['title']}: {title}", panels, data, _event_marks(marks, data), path)
        written.append(path)
    return written


def _rows(board: Json) -> list[tuple[str, list[Json]]]:
    rows: list[tuple[str, list[Json]]] = []
    for panel in board["panels"]:
        if panel["type"] == "row":
            rows.append((panel["title"], []))
        else:
            rows[-1][1].append(panel)
    return rows


def _event_marks(marks: Sequence[tuple[str, list[Series], bool]], data: PanelData) -> EventMarks:
    events = []
    for colour, series, at_value in marks:
        for one in series:
            before = 0.0
            for moment, value in one.points:
                if at_value:
                    events.append((colour, data.minutes(value / 1000)))
                elif value > 0 and before == 0:
                    events.append((colour, data.minutes(moment)))
                before = value
    return sorted(set(events))


def _draw_row(title: str, panels: Sequence[Json], data: PanelData, marks: EventMarks, path: Path) -> None:
    top = min(panel["gridPos"]["y"] for panel in panels)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    height = rows * ROW + 0.75
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.008, 1 - 0.28 / height, title, fontsize=13, weight="bold", va="center")
        figure.text(0.008, 0.14 / height, FOOT, fontsize=7.5, color="#777777", va="center")
        for panel in panels:
            at = panel["gridPos"]
            left, width = at["x"] / 24, at["w"] / 24
            bottom = (0.3 + (rows - (at["y"] - top) - at["h"]) * ROW) / height
            _draw_panel(figure, panel, (left, bottom, width, at["h"] * ROW / height), data, marks)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _draw_panel(
    figure: Figure, panel: Json, box: tuple[float, float, float, float], data: PanelData, marks: EventMarks
) -> None:
    left, bottom, width, height = box
    inches = (width * WIDTH, height * figure.get_figheight())
    if panel["type"] == "stat":
        axes = figure.add_axes((left + 0.004, bottom + 0.01, width - 0.008, height - 0.02))
        return _draw_stat(axes, panel, data)
    margins = (0.72 / WIDTH, 0.58 / figure.get_figheight(), 0.2 / WIDTH, 0.42 / figure.get_figheight())
    if panel["type"] == "state-timeline":
        margins = (0.62 / WIDTH, 0.4 / figure.get_figheight(), 0.2 / WIDTH, 0.34 / figure.get_figheight())
    if panel["type"] == "heatmap":
        margins = (0.95 / WIDTH, 0.5 / figure.get_figheight(), 0.3 / WIDTH, 0.42 / figure.get_figheight())
    axes = figure.add_axes(
        (
            left + margins[0],
            bottom + margins[1],
            width - margins[0] - margins[2],
            height - margins[1] - margins[3],
        )
    )
    axes.set_title(textwrap.shorten(panel["title"], int(inches[0] * 13)))
    kinds: Mapping[str, Callable[[], None]] = {
        "trend": lambda: draw_trend(axes, panel, data),
        "heatmap": lambda: draw_heatmap(axes, panel, data),
        "timeseries": lambda: draw_time_series(axes, panel, data, marks),
        "state-timeline": lambda: draw_timeline(axes, panel, data, marks),
    }
    kinds[panel["type"]]()
    return None


def _draw_stat(axes: Axes, panel: Json, data: PanelData) -> None:
    axes.set_axis_off()
    axes.add_patch(_frame(axes))
    axes.text(0.06, 0.9, panel["title"], fontsize=9, weight="bold", va="top", transform=axes.transAxes)
    shown = []
    for target in grafana_emulation.targets(panel, data.variables):
        for one in data.at_the_end(target):
            name = grafana_emulation.legend(target.legend, one.labels)
            value = format_value(one.points[-1][1], panel)
            shown.append((name, "") if panel["options"]["textMode"] == "name" else (value, name))
    if not shown:
        shown = [("no data", "")]
    for place, (large, small) in enumerate(shown[:4]):
        x = (place + 0.5) / len(shown[:4])
        size = 18 if len(shown) == 1 else 14
        axes.text(x, 0.42, large, fontsize=size, ha="center", va="center", transform=axes.transAxes)
        if len(shown) > 1:
            axes.text(x, 0.16, small, fontsize=8, color="#666666", ha="center", transform=axes.transAxes)


def _frame(axes: Axes) -> FancyBboxPatch:
    return FancyBboxPatch(
        (0.02, 0.04), 0.96, 0.92, boxstyle="round,pad=0,rounding_size=0.03", transform=axes.transAxes,
        facecolor="#f6f7f9", edgecolor="#dddddd", mutation_aspect=0.5,
    )  # fmt: skip

"""Draws a dashboard from its JSON and a Prometheus' answers: a PNG for each of its rows. It is no Grafana; it shows what
stands in a dashboard, not how Grafana makes it look."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charts.dashboards import answers
from charts.dashboards.answers import Json, Prometheus, Series, Span, Table
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

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
COLOURS = {"blue": "#3274d9", "orange": "#e8762c", "red": "#d0312d"}
LINES = ("#1f77b4", "#e8762c", "#2a9d3f", "#8e44ad", "#c0392b", "#7f6000", "#17a2b8", "#555555")
FOOT = "Drawn from the dashboard's JSON and Prometheus' answers by charts/dashboards/picture.py; Grafana's own looks differ."


@dataclass(frozen=True)
class Sight:
    """Whose answers are drawn, over which time."""

    prometheus: Prometheus
    span: Span
    variables: Mapping[str, str]

    def over_time(self, target: answers.Target) -> list[Series]:
        return self.prometheus.range(self.span.filled(target.expression), self.span)

    def at_the_end(self, target: answers.Target) -> list[Series]:
        """As an instant query; of a run that is over, the last that was known."""
        step = self.span.step
        last = Span(self.span.end - 60 * step, self.span.end, step, self.span.scrape)
        now = self.prometheus.instant(self.span.filled(target.expression), self.span.end)
        if now:
            return now
        found = self.prometheus.range(self.span.filled(target.expression), last)
        return [Series(one.labels, one.points[-1:]) for one in found]

    def minutes(self, moment: float) -> float:
        return (moment - self.span.start) / 60


def draw(board: Json, sight: Sight, stem: Path) -> list[Path]:
    """`<stem>-<n>.png` for each row of the dashboard, from 1; returns them."""
    marks = [
        (one["iconColor"], sight.over_time(target), one.get("useValueForTime") == "on")
        for one, target in zip(
            board["annotations"]["list"], answers.marks(board, sight.variables), strict=True
        )
    ]
    written = []
    for number, (title, panels) in enumerate(_rows(board), 1):
        path = stem.with_name(f"{stem.name}-{number}.png")
        _draw_row(f"{board['title']}: {title}", panels, sight, _moments(marks, sight), path)
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


Marks = Sequence[tuple[str, float]]
"""Colour and minutes."""


def _moments(marks: Sequence[tuple[str, list[Series], bool]], sight: Sight) -> Marks:
    found = []
    for colour, series, at_value in marks:
        for one in series:
            before = 0.0
            for moment, value in one.points:
                if at_value:
                    found.append((colour, sight.minutes(value / 1000)))
                elif value > 0 and before == 0:
                    found.append((colour, sight.minutes(moment)))
                before = value
    return sorted(set(found))


def _draw_row(title: str, panels: Sequence[Json], sight: Sight, marks: Marks, path: Path) -> None:
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
            _draw_panel(figure, panel, (left, bottom, width, at["h"] * ROW / height), sight, marks)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _draw_panel(
    figure: Figure, panel: Json, box: tuple[float, float, float, float], sight: Sight, marks: Marks
) -> None:
    left, bottom, width, height = box
    inches = (width * WIDTH, height * figure.get_figheight())
    if panel["type"] == "stat":
        axes = figure.add_axes((left + 0.004, bottom + 0.01, width - 0.008, height - 0.02))
        return _stat(axes, panel, sight)
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
        "trend": lambda: _trend(axes, panel, sight),
        "heatmap": lambda: _heat(axes, panel, sight),
        "timeseries": lambda: _over_time(axes, panel, sight, marks),
        "state-timeline": lambda: _timeline(axes, panel, sight, marks),
    }
    kinds[panel["type"]]()
    return None


def _table(panel: Json, sight: Sight) -> Table:
    found = {one.ref: sight.at_the_end(one) for one in answers.targets(panel, sight.variables)}
    return answers.table(panel, found)


def _stat(axes: Axes, panel: Json, sight: Sight) -> None:
    axes.set_axis_off()
    axes.add_patch(_frame(axes))
    axes.text(0.06, 0.9, panel["title"], fontsize=9, weight="bold", va="top", transform=axes.transAxes)
    shown = []
    for target in answers.targets(panel, sight.variables):
        for one in sight.at_the_end(target):
            name = answers.legend(target.legend, one.labels)
            value = _written(one.points[-1][1], panel)
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


def _trend(axes: Axes, panel: Json, sight: Sight) -> None:
    table, x = _table(panel, sight), panel["options"]["xField"]
    below = {
        one["matcher"]["options"]: prop["value"]
        for one in panel["fieldConfig"]["overrides"]
        for prop in one["properties"]
        if prop["id"] == "custom.fillBelowTo"
    }
    hidden = {*below, *below.values()}
    lines = [name for name in table if name != x]
    for upper, lower in below.items():
        axes.fill_between(
            table[x], _floats(table[lower]), _floats(table[upper]), color=LINES[0], alpha=0.18, lw=0,
            label="95 % interval",
        )  # fmt: skip
    bars = panel["fieldConfig"]["defaults"].get("custom", {}).get("drawStyle") == "bars"
    for colour, name in zip(_colours(len(lines)), [n for n in lines if n not in hidden], strict=False):
        cells = _floats(table[name])
        present = [(s, v) for s, v in zip(table[x], cells, strict=True) if not math.isnan(v)]
        if bars:
            axes.bar([s for s, _ in present], [v for _, v in present], color=colour, label=name, width=0.6)
        else:
            axes.plot(
                [s for s, _ in present], [v for _, v in present], "o-", color=colour, label=name, ms=4.5, lw=1.8,
                clip_on=False,
            )  # fmt: skip
    _axis(axes, panel)
    axes.set_xlabel("stage", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _named(axes)


def _heat(axes: Axes, panel: Json, sight: Sight) -> None:
    table = _table(panel, sight)
    known, rows = [int(stage) for stage in table.pop("stage")], list(table)
    stages = range(min(known), max(known) + 1)
    hidden = panel["options"]["filterValues"]["le"]
    columns = {
        stage: [math.nan if value is None or value <= hidden else value for value in column]
        for stage, *column in zip(known, *table.values(), strict=True)
    }
    nothing = [math.nan] * len(rows)
    cells = [list(row) for row in zip(*(columns.get(stage, nothing) for stage in stages), strict=True)]
    colour = panel["options"]["color"]
    image = axes.imshow(
        cells, origin="lower", aspect="auto", cmap="viridis", vmin=colour["min"], vmax=colour["max"]
    )
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(stages)), [str(stage) for stage in stages])
    axes.set_xlabel("stage", labelpad=1)
    if len(stages) <= 16:
        for y, line in enumerate(cells):
            for x, value in enumerate(line):
                if not math.isnan(value):
                    ink = "black" if value > 0.6 else "white"
                    axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    axes.figure.colorbar(image, ax=axes, pad=0.02, aspect=25)


def _over_time(axes: Axes, panel: Json, sight: Sight, marks: Marks) -> None:
    lines = [
        (answers.legend(target.legend, one.labels), one)
        for target in answers.targets(panel, sight.variables)
        for one in sight.over_time(target)
    ]
    lines = [(name, one) for name, one in lines if any(math.isfinite(v) for _, v in one.points)]
    names = list(dict.fromkeys(name for name, _ in lines))
    colours = dict(zip(names, _colours(len(names)), strict=False))
    if "stacking" in panel["fieldConfig"]["defaults"].get("custom", {}):
        _stack(axes, lines, colours, sight)
    else:
        for name, one in lines:
            x, y = _with_gaps(one, sight)
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            axes.plot(x, y, color=colours[name], lw=1.6, marker=".", ms=3, label=label)
    _axis(axes, panel)
    _time_axis(axes, sight, marks)
    if lines:
        _named(axes)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", color="#888888", transform=axes.transAxes)


def _stack(axes: Axes, lines: Sequence[tuple[str, Series]], colours: Mapping[str, str], sight: Sight) -> None:
    count = round((sight.span.end - sight.span.start) / sight.span.step) + 1
    times = [sight.span.start + number * sight.span.step for number in range(count)]
    heights = {name: [0.0] * count for name, _ in lines}
    for name, one in lines:
        for moment, value in one.points:
            place = round((moment - sight.span.start) / sight.span.step)
            heights[name][place] += value if math.isfinite(value) else 0.0
    axes.stackplot(
        [sight.minutes(moment) for moment in times],
        list(heights.values()),
        labels=list(heights),
        colors=[colours[name] for name in heights],
        alpha=0.75,
    )


def _timeline(axes: Axes, panel: Json, sight: Sight, marks: Marks) -> None:
    words = {
        value: text["text"]
        for one in panel["fieldConfig"]["defaults"].get("mappings", [])
        for value, text in one["options"].items()
    }
    (target,) = answers.targets(panel, sight.variables)
    for row, one in enumerate(sight.over_time(target)):
        for value, begin, end in _runs(one, sight.span.step):
            left, right = sight.minutes(begin), sight.minutes(end)
            shade = LINES[int(value) % len(LINES)]
            axes.barh(row, right - left, left=left, height=0.75, color=shade, alpha=0.75, edgecolor="white")
            if right - left > sight.minutes(sight.span.end) / 40:
                text = words.get(f"{value:g}", f"{value:g}")
                axes.text(
                    (left + right) / 2, row, text, ha="center", va="center", color="white", weight="bold"
                )
    axes.set_yticks([])
    axes.set_ylabel(target.legend)
    _time_axis(axes, sight, marks)


def _runs(series: Series, step: float) -> list[tuple[float, float, float]]:
    """Value, begin, end: stretches of equal values without a gap."""
    runs: list[tuple[float, float, float]] = []
    for moment, value in series.points:
        if runs and runs[-1][0] == value and moment - runs[-1][2] <= 1.5 * step:
            runs[-1] = (value, runs[-1][1], moment)
        else:
            runs.append((value, moment, moment + step))
    return runs


def _with_gaps(series: Series, sight: Sight) -> tuple[list[float], list[float]]:
    x: list[float] = []
    y: list[float] = []
    before = None
    for moment, value in series.points:
        if before is not None and moment - before > 1.5 * sight.span.step:
            x.append(sight.minutes(moment))
            y.append(math.nan)
        x.append(sight.minutes(moment))
        y.append(value)
        before = moment
    return x, y


def _time_axis(axes: Axes, sight: Sight, marks: Marks) -> None:
    axes.set_xlim(0, sight.minutes(sight.span.end))
    begun = datetime.fromtimestamp(sight.span.start, UTC)
    axes.set_xlabel(f"minutes since {begun:%H:%M} UTC", labelpad=1)
    for colour, minutes in marks:
        axes.axvline(minutes, color=COLOURS[colour], lw=1, ls=(0, (4, 3)), alpha=0.8)


def _axis(axes: Axes, panel: Json) -> None:
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
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(_written(value, fine))))
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is not None and "thresholdsStyle" in defaults.get("custom", {}):
            axes.axhline(step["value"], color="#777777", lw=1.2, ls="--")


def _named(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="best")


def _written(value: float, panel: Json) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    decimals, unit = defaults.get("decimals"), defaults["unit"]
    if math.isnan(value):
        return "–"
    if unit in ("percentunit", "percent"):
        share = 100 * value if unit == "percentunit" else value
        return f"{share:.{decimals if decimals is not None else 0}f} %"
    if unit == "s":
        return _time(value)
    if unit in ("bytes", "mbytes"):
        return f"{value / (1024**2 if unit == 'bytes' else 1):,.0f} MiB"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}"


def _short(number: str) -> str:
    """Without zeros at the end of its decimals."""
    return re.sub(r"(\.\d*?)0+(?=\D*$)", r"\1", number).replace(". ", " ").removesuffix(".")


def _time(seconds: float) -> str:
    if abs(seconds) < 1 and seconds != 0:
        return f"{1000 * seconds:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"


def _floats(cells: Sequence[float | None]) -> list[float]:
    return [math.nan if cell is None else cell for cell in cells]


def _colours(count: int) -> list[str]:
    return [LINES[number % len(LINES)] for number in range(max(count, 1))]

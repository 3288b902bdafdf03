"""Each kind of panel with axes, drawn by matplotlib from what its queries are answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from charts.dashboards import grafana_emulation
from charts.dashboards.grafana_emulation import Json, Series, Table
from charts.dashboards.panel_data import EventMarks, PanelData
from charts.dashboards.picture_axes import LINES, add_legend, line_colours, set_time_axis, set_value_axis
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator


def _table(panel: Json, data: PanelData) -> Table:
    series_by_ref = {
        one.ref: data.at_the_end(one) for one in grafana_emulation.targets(panel, data.variables)
    }
    return grafana_emulation.table(panel, series_by_ref)


def draw_trend(axes: Axes, panel: Json, data: PanelData) -> None:
    table, x = _table(panel, data), panel["options"]["xField"]
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
    for colour, name in zip(line_colours(len(lines)), [n for n in lines if n not in hidden], strict=False):
        cells = _floats(table[name])
        present = [(s, v) for s, v in zip(table[x], cells, strict=True) if not math.isnan(v)]
        if bars:
            axes.bar([s for s, _ in present], [v for _, v in present], color=colour, label=name, width=0.6)
        else:
            axes.plot(
                [s for s, _ in present], [v for _, v in present], "o-", color=colour, label=name, ms=4.5, lw=1.8,
                clip_on=False,
            )  # fmt: skip
    set_value_axis(axes, panel)
    axes.set_xlabel("stage", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(axes)


def draw_heatmap(axes: Axes, panel: Json, data: PanelData) -> None:
    table = _table(panel, data)
    committed_stages, rows = [int(stage) for stage in table.pop("stage")], list(table)
    stages = range(min(committed_stages), max(committed_stages) + 1)
    hidden = panel["options"]["filterValues"]["le"]
    columns = {
        stage: [math.nan if value is None or value <= hidden else value for value in column]
        for stage, *column in zip(committed_stages, *table.values(), strict=True)
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


def draw_time_series(axes: Axes, panel: Json, data: PanelData, marks: EventMarks) -> None:
    lines = [
        (grafana_emulation.legend(target.legend, one.labels), one)
        for target in grafana_emulation.targets(panel, data.variables)
        for one in data.over_time(target)
    ]
    lines = [(name, one) for name, one in lines if any(math.isfinite(v) for _, v in one.points)]
    names = list(dict.fromkeys(name for name, _ in lines))
    colours = dict(zip(names, line_colours(len(names)), strict=False))
    if "stacking" in panel["fieldConfig"]["defaults"].get("custom", {}):
        _draw_stacked(axes, lines, colours, data)
    else:
        for name, one in lines:
            x, y = _with_gaps(one, data)
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            axes.plot(x, y, color=colours[name], lw=1.6, marker=".", ms=3, label=label)
    set_value_axis(axes, panel)
    set_time_axis(axes, data, marks)
    if lines:
        add_legend(axes)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", color="#888888", transform=axes.transAxes)


def _draw_stacked(
    axes: Axes, lines: Sequence[tuple[str, Series]], colours: Mapping[str, str], data: PanelData
) -> None:
    count = round((data.span.end - data.span.start) / data.span.step) + 1
    times = [data.span.start + number * data.span.step for number in range(count)]
    heights = {name: [0.0] * count for name, _ in lines}
    for name, one in lines:
        for moment, value in one.points:
            place = round((moment - data.span.start) / data.span.step)
            heights[name][place] += value if math.isfinite(value) else 0.0
    axes.stackplot(
        [data.minutes(moment) for moment in times],
        list(heights.values()),
        labels=list(heights),
        colors=[colours[name] for name in heights],
        alpha=0.75,
    )


def draw_timeline(axes: Axes, panel: Json, data: PanelData, marks: EventMarks) -> None:
    words = {
        value: text["text"]
        for one in panel["fieldConfig"]["defaults"].get("mappings", [])
        for value, text in one["options"].items()
    }
    (target,) = grafana_emulation.targets(panel, data.variables)
    for row, one in enumerate(data.over_time(target)):
        for value, begin, end in _equal_stretches(one, data.span.step):
            left, right = data.minutes(begin), data.minutes(end)
            shade = LINES[int(value) % len(LINES)]
            axes.barh(row, right - left, left=left, height=0.75, color=shade, alpha=0.75, edgecolor="white")
            if right - left > data.minutes(data.span.end) / 40:
                text = words.get(f"{value:g}", f"{value:g}")
                axes.text(
                    (left + right) / 2, row, text, ha="center", va="center", color="white", weight="bold"
                )
    axes.set_yticks([])
    axes.set_ylabel(target.legend)
    set_time_axis(axes, data, marks)


def _equal_stretches(series: Series, step: float) -> list[tuple[float, float, float]]:
    """Value, begin, end: stretches of equal values without a gap."""
    runs: list[tuple[float, float, float]] = []
    for moment, value in series.points:
        if runs and runs[-1][0] == value and moment - runs[-1][2] <= 1.5 * step:
            runs[-1] = (value, runs[-1][1], moment)
        else:
            runs.append((value, moment, moment + step))
    return runs


def _with_gaps(series: Series, data: PanelData) -> tuple[list[float], list[float]]:
    x: list[float] = []
    y: list[float] = []
    before = None
    for moment, value in series.points:
        if before is not None and moment - before > 1.5 * data.span.step:
            x.append(data.minutes(moment))
            y.append(math.nan)
        x.append(data.minutes(moment))
        y.append(value)
        before = moment
    return x, y


def _floats(cells: Sequence[float | None]) -> list[float]:
    return [math.nan if cell is None else cell for cell in cells]

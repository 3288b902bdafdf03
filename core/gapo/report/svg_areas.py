"""Histograms of scores, and matrices, as inline SVG."""

from __future__ import annotations

from itertools import pairwise

from gapo.report.chart_model import HistogramChart, Matrix
from gapo.report.formatting import plain
from gapo.report.markup import Markup, el
from gapo.report.scales import Scale
from gapo.report.svg_elements import color, frame, number, path_of


def histogram_chart(chart: HistogramChart) -> Markup:
    left, right, top, bottom = 6.0, 6.0, 18.0, 18.0
    width, height, top_share, band = chart.width, chart.height, chart.top_share, chart.band
    x = Scale(0, 1, left, width - right)
    y = Scale(0, top_share, height - bottom, top)
    floor = number(y(0))
    body: list[Markup] = []
    if band:
        body.append(
            el(
                "rect",
                class_="zone",
                x=number(x(band[0])),
                y=top,
                width=number(x(band[1]) - x(band[0])),
                height=number(y(0) - top),
            )
        )
    for area in chart.areas:
        bins = area.bins
        outline = [(x(bins.edges[0]), y(0))]
        for (start, end), value in zip(pairwise(bins.edges), bins.shares, strict=True):
            at = y(min(value, top_share))
            outline += [(x(start), at), (x(end), at)]
        outline.append((x(bins.edges[-1]), y(0)))
        tip = el("title", f"{area.name}: {plain(bins.total)} scores")
        d = path_of(outline)
        body.append(
            el(
                "path",
                tip,
                d=d,
                fill=color(area.color),
                stroke=color(area.color),
                class_="hist" if area.filled else "hist open",
            )
        )
    body.append(el("line", class_="axis", x1=left, x2=width - right, y1=floor, y2=floor))
    for value, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        body.append(
            el("text", f"{value:g}", class_="tick", x=number(x(value)), y=height - 5, text_anchor=anchor)
        )
    body.append(el("text", chart.heading, class_="heading", x=left, y=11))
    return frame(width, height, chart.title, body)


def matrix(chart: Matrix) -> Markup:
    cells = chart.cells
    rows = sorted({row for row, _ in cells})
    columns = sorted({column for _, column in cells})
    left, top, width = 34.0, 42.0, 480.0
    size = min(60.0, (width - left - 4) / len(columns))
    height = top + size * len(rows) + 6
    digits = 2 if size >= 24 else 1
    body: list[Markup] = [el("text", chart.heading, class_="unit", x=2, y=12)]
    for i, column in enumerate(columns):
        at = number(left + (i + 0.5) * size)
        body.append(el("text", column, class_="tick", x=at, y=top - 6, text_anchor="middle"))
    for j, row in enumerate(rows):
        middle = number(top + (j + 0.5) * size)
        body.append(el("text", row, class_="tick", x=left - 6, y=middle, dy=".32em", text_anchor="end"))
        for i, column in enumerate(columns):
            if (row, column) not in cells:
                continue
            cell = cells[row, column]
            x = left + i * size
            body.append(
                el(
                    "g",
                    el("title", cell.tip),
                    el(
                        "rect",
                        x=number(x),
                        y=number(top + j * size),
                        width=number(size - 1.5),
                        height=number(size - 1.5),
                        rx=2,
                    ),
                    el(
                        "text",
                        f"{cell.value:.{digits}f}".removeprefix("0"),
                        x=number(x + size / 2 - 0.7),
                        y=middle,
                        dy=".32em",
                        text_anchor="middle",
                    ),
                    class_=f"cell {chart.ink(cell.value)}",
                )
            )
    return frame(width, height, chart.title, body)

"""Charts made of areas: histograms of scores, and matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gapo.report.formatting import plain
from gapo.report.markup import Markup, el
from gapo.report.svg import Scale, color, frame, number, path_of


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, drawn as shares of their own total."""

    edges: Sequence[float]
    counts: Sequence[float]
    color: str
    name: str
    filled: bool = True

    @property
    def total(self) -> float:
        return sum(self.counts)

    @property
    def peak(self) -> float:
        """The highest bin's share."""
        return max(self.counts) / self.total

    @property
    def shares(self) -> list[float]:
        return [c / self.total for c in self.counts]


def histogram_chart(
    histograms: Sequence[Histogram],
    *,
    title: str,
    top_share: float,
    band: tuple[float, float] | None,
    heading: str,
    width: float = 210,
    height: float = 118,
) -> Markup:
    """Filled step outlines over [0, 1]. Bins above `top_share` are cut there."""
    left, right, top, bottom = 6.0, 6.0, 18.0, 18.0
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
    for h in histograms:
        outline = [(x(h.edges[0]), y(0))]
        for (start, end), value in zip(pairwise(h.edges), h.shares, strict=True):
            at = y(min(value, top_share))
            outline += [(x(start), at), (x(end), at)]
        outline.append((x(h.edges[-1]), y(0)))
        tip = el("title", f"{h.name}: {plain(h.total)} scores")
        d = path_of(outline)
        body.append(
            el(
                "path",
                tip,
                d=d,
                fill=color(h.color),
                stroke=color(h.color),
                class_="hist" if h.filled else "hist open",
            )
        )
    body.append(el("line", class_="axis", x1=left, x2=width - right, y1=floor, y2=floor))
    for value, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        body.append(
            el("text", f"{value:g}", class_="tick", x=number(x(value)), y=height - 5, text_anchor=anchor)
        )
    body.append(el("text", heading, class_="heading", x=left, y=11))
    return frame(width, height, title, body)


def heatmap(
    cells: dict[tuple[int, int], tuple[float, str]],
    *,
    rows: Sequence[int],
    columns: Sequence[int],
    heading: str,
    title: str,
    ink: Callable[[float], str],
) -> Markup:
    """A matrix: `cells` maps (row, column) to a value and its tooltip; `ink` gives the cell's CSS class."""
    left, top, width = 34.0, 42.0, 480.0
    size = min(60.0, (width - left - 4) / len(columns))
    height = top + size * len(rows) + 6
    digits = 2 if size >= 24 else 1
    body: list[Markup] = [el("text", heading, class_="unit", x=2, y=12)]
    for i, column in enumerate(columns):
        at = number(left + (i + 0.5) * size)
        body.append(el("text", column, class_="tick", x=at, y=top - 6, text_anchor="middle"))
    for j, row in enumerate(rows):
        middle = number(top + (j + 0.5) * size)
        body.append(el("text", row, class_="tick", x=left - 6, y=middle, dy=".32em", text_anchor="end"))
        for i, column in enumerate(columns):
            if (row, column) not in cells:
                continue
            value, tip = cells[row, column]
            x = left + i * size
            body.append(
                el(
                    "g",
                    el("title", tip),
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
                        f"{value:.{digits}f}".removeprefix("0"),
                        x=number(x + size / 2 - 0.7),
                        y=middle,
                        dy=".32em",
                        text_anchor="middle",
                    ),
                    class_=f"cell {ink(value)}",
                )
            )
    return frame(width, height, title, body)

"""Two ways to draw the page's charts: the SVG of gapo's own, and matplotlib's, from the same descriptions.

    python -m tests.bench.report_drawing DIR

writes both pages of a run of twelve stages into DIR, and prints what each weighs and how long it takes
(docs/decisions/0037). matplotlib's charts get the page's colours as CSS variables, so that dark mode works, and tooltips
on points; neither is an ability of the library's.
"""

from __future__ import annotations

import gzip
import re
import sys
from io import StringIO
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tests.unit.report.run_folder import finished_run

from gapo.report import charts, html, load_run_data, panels, report_of, training_charts
from gapo.report.chart_model import Chart, HistogramChart, LineChart, Matrix
from gapo.report.markup import Markup, printable
from gapo.report.palette import LIGHT
from gapo.report.picture_charts import draw_lines
from gapo.report.png import STYLE
from gapo.report.report_model import Report
from gapo.report.svg import svg

_STYLE = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "gapo", "font.size": 8}
_BARE = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_numbers = count()


def by_matplotlib(chart: Chart) -> Markup:
    """The chart as matplotlib writes it, less its header, with the page's colours and tooltips."""
    width, height = _size(chart)
    with rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.13, 0.16, 0.68, 0.72))
        axes.patch.set_alpha(0)
        axes.set_title(chart.title, fontsize=7)
        _draw(axes, chart)
        out = StringIO()
        figure.savefig(out, format="svg", metadata=_BARE)
    return Markup(_inline(out.getvalue(), chart))


def _size(chart: Chart) -> tuple[float, float]:
    if isinstance(chart, LineChart):
        return chart.axes.width, chart.axes.height
    return (chart.width, chart.height) if isinstance(chart, HistogramChart) else (480.0, 480.0)


def _draw(axes: Any, chart: Chart) -> None:
    if isinstance(chart, LineChart):
        draw_lines(axes, chart)
        for n, (x, y) in enumerate((p.x, p.y) for one in chart.series if one.dots for p in one.points):
            axes.plot([x], [y], "o", alpha=0, gid=f"tip{n}")
    elif isinstance(chart, HistogramChart):
        for area in chart.areas:
            heights = [min(share, chart.top_share) for share in area.bins.shares]
            axes.stairs(heights, area.bins.edges, color=LIGHT[area.color], fill=area.filled, alpha=0.5)
        axes.set_yticks([])
    else:
        _matrix(axes, chart)


def _matrix(axes: Any, chart: Matrix) -> None:
    for (row, column), cell in chart.cells.items():
        ink = LIGHT["blue" if cell.value >= 0.5 else "orange"]
        axes.add_patch(_square(column, row, ink, abs(cell.value - 0.5) * 2))
        axes.text(column, row, f"{cell.value:.2f}", ha="center", va="center")
    axes.autoscale_view()
    axes.invert_yaxis()


def _square(x: float, y: float, ink: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=ink, alpha=alpha, lw=0)


def _inline(text: str, chart: Chart) -> str:
    text = (
        text[text.index("<svg") :]
        .replace('width="', 'data-width="', 1)
        .replace('height="', 'data-height="', 1)
    )
    for name in ("ink", "soft", "line", "blue", "green", "orange", "purple", "red", "grey"):
        text = text.replace(LIGHT[name], f"var(--{name})")
    if isinstance(chart, LineChart):
        tips = [p.tip for one in chart.series if one.dots for p in one.points]
        for n, tip in enumerate(tips):
            text = text.replace(f'<g id="tip{n}">', f"<g><title>{printable(tip)}</title>", 1)
    # Ids are of one chart alone in matplotlib's eyes, and of one page in the browser's.
    number = next(_numbers)
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>c{number}-", text)


def charts_of(report: Report) -> list[Chart]:
    """Every chart of the page."""
    large = charts.page_charts(report)
    rows = training_charts.training(report)
    shown = [panel.chart for panel in (*panels.health(report), *panels.iterations(report))]
    shown += [panel.chart for row in rows for panel in row.panels]
    several = (large.satisfaction_by_family, large.pair_accuracy_by_family, large.rm_scores)
    one = (large.satisfaction, large.pair_accuracy, large.pair_modes, large.score_shares)
    matrices = (large.cross_play_auc, large.cross_play_win_rate)
    return [
        *shown,
        *(c for group in several for c in group),
        *(c for c in (*one, *matrices) if c is not None),
    ]


def main(folder: Path) -> None:
    report = report_of(load_run_data(finished_run(stages=12, verdict="converged", iterations=16).objects))
    drawn = charts_of(report)
    page = html.page(report)
    for name, draw in (("own", svg), ("matplotlib", by_matplotlib)):
        draw(drawn[0])  # loads fonts
        began = perf_counter()
        pictures = [draw(chart) for chart in drawn]
        seconds = perf_counter() - began
        shown = page
        for chart, picture in zip(drawn, pictures, strict=True):
            shown = shown.replace(svg(chart), picture, 1)
        (folder / f"{name}.html").write_text(shown, encoding="utf-8")
        size, whole = sum(len(picture.encode()) for picture in pictures), shown.encode()
        sys.stdout.write(
            f"{name}: {len(drawn)} charts of {size:,} bytes drawn in {seconds:.3f} s; page {len(whole):,} bytes, "
            f"{len(gzip.compress(whole)):,} compressed\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

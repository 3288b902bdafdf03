"""The report as one picture: satisfaction, spread of the scores, reward and KL, and the reward model's fidelity.

matplotlib is imported only when a picture is drawn; it is an optional dependency (`gapo[report]`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from gapo.errors import SpecError
from gapo.report.chart_model import Axes, LineChart
from gapo.report.charts import by_stage, pair_accuracy, rm_scores, satisfaction
from gapo.report.markup import printable
from gapo.report.palette import LIGHT
from gapo.report.panels import CHANCE, KL, REWARD, curves_panel, fidelity_auc, fidelity_ece
from gapo.report.picture_charts import draw_lines, draw_ridges
from gapo.report.report_model import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Drawing
    from matplotlib.figure import Figure

T = TypeVar("T")
RIDGES = 7
"""Stages whose scores are drawn; of more, evenly chosen ones with the first and the last."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["soft"],
    "axes.labelcolor": LIGHT["soft"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["soft"],
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "text.parse_math": False,
}


def picture(report: Report) -> bytes:
    """A PNG of 1760 × 1160 pixels. Raises SpecError where matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpecError(
            "the report's picture needs matplotlib; install gapo with its extra: gapo[report]"
        ) from None
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7.25), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        _draw(figure, report)
        out = BytesIO()
        # Without the library's version in it, the file depends on the run alone.
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw(figure: Figure, report: Report) -> None:
    top = _heading(figure, report)
    grid = figure.add_gridspec(2, 2, left=0.07, right=0.925, bottom=0.07, top=top, hspace=0.42, wspace=0.3)
    _lines(
        figure.add_subplot(grid[0, 0]),
        "Verified satisfaction",
        "responses that satisfy every constraint, by stage; 95 % intervals",
        satisfaction(report),
    )
    _scores(figure.add_subplot(grid[0, 1]), report)
    halves = grid[1, 0].subgridspec(2, 1, hspace=0.18)
    upper = figure.add_subplot(halves[0])
    _curves(upper, figure.add_subplot(halves[1], sharex=upper), report)
    _lines(
        figure.add_subplot(grid[1, 1]),
        "Fidelity of the reward model",
        "on held-out pairs, and against the verifier on fresh samples",
        fidelity(report),
    )


def _heading(figure: Figure, report: Report) -> float:
    """Headline and name of the run; returns where the charts may begin, as a share of the figure's height."""
    run = report.run
    name = " · ".join(printable(part) for part in (run.name, run.method, run.run_id) if part)
    headline = printable(report.verdict.headline)
    lines, size = textwrap.wrap(headline, 92), 13.0
    if len(lines) > 3:
        lines, size = textwrap.wrap(headline, 116, max_lines=4, placeholder=" …"), 10.5
    top = 0.966
    figure.text(0.07, top, "\n".join(lines), fontsize=size, fontweight="bold", va="top", linespacing=1.35)
    deep = 0.0028 * size * len(lines)
    figure.text(0.07, top - deep - 0.012, name, fontsize=9.5, color=LIGHT["soft"], va="top")
    return top - deep - 0.106


def _title(axes: Drawing, text: str, below: str, *, heights: tuple[float, float] = (1.095, 1.03)) -> None:
    title, subtitle = heights
    axes.text(0, title, text, transform=axes.transAxes, fontsize=11, fontweight="bold", va="bottom")
    axes.text(0, subtitle, below, transform=axes.transAxes, fontsize=8.5, color=LIGHT["soft"], va="bottom")


def _nothing(axes: Drawing) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    axes.text(
        0.5, 0.5, "nothing committed", transform=axes.transAxes, color=LIGHT["soft"], ha="center", va="center"
    )


def _lines(axes: Drawing, title: str, below: str, chart: LineChart | None) -> None:
    _title(axes, title, below)
    if chart is None:
        _nothing(axes)
        return
    low, high = chart.x_range
    draw_lines(axes, replace(chart, axes=replace(chart.axes, x_range=(low - 0.35, high + 0.35))))
    stages = chart.axes.x_ticks or ()
    axes.set_xticks(stages, [_stage_name(stage) for stage in stages])


def _stage_name(stage: float) -> str:
    return "SFT" if stage == 0 else f"{stage:g}"


def _scores(axes: Drawing, report: Report) -> None:
    below = "share of each class by score; shaded: 0.2 to 0.95, where a settled one spreads"
    _title(axes, "Scores of the reward model", below)
    charts = chosen_ridges(rm_scores(report))
    if not charts:
        _nothing(axes)
        return
    draw_ridges(axes, charts, [_stage_name(row.stage) for row in chosen_ridges(report.rm_scores)])
    axes.set_ylabel("stage")


def chosen_ridges(rows: Sequence[T]) -> list[T]:
    if len(rows) <= RIDGES:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (RIDGES - 1))] for i in range(RIDGES)]


def _curves(upper: Drawing, lower: Drawing, report: Report) -> None:
    below = "by PPO iteration; dotted: a stage begins, with another reward model"
    _title(upper, "Reward and KL", below, heights=(1.2, 1.06))
    for axes, curves, quantity in ((upper, REWARD, ""), (lower, KL, "KL, ")):
        panel = curves_panel(curves, report)
        if panel is None:
            _nothing(axes)
            continue
        scales = replace(panel.chart.axes, y_tick_count=3)
        if axes is lower:  # stages are named in the upper half
            scales = replace(scales, boundaries=[(at, "") for at, _ in scales.boundaries])
        draw_lines(axes, replace(panel.chart, axes=scales))
        axes.set_ylabel(quantity + scales.y_label, fontsize=8.5)
    upper.tick_params(labelbottom=False)


def fidelity(report: Report) -> LineChart | None:
    """The page's three charts of it in one, on one scale."""
    auc, ece = fidelity_auc(report), fidelity_ece(report)
    lines = (
        (pair_accuracy(report), "pair\naccuracy", "purple"),
        (auc.chart if auc else None, "AUC on\nsamples", "blue"),
        (ece.chart if ece else None, "calibration\nerror", "orange"),
    )
    series = [
        replace(one, label=label, color=color)
        for chart, label, color in lines
        if chart is not None
        for one in chart.series
    ]
    if not series:
        return None
    stages = [point.x for one in series for point in one.points]
    # Room above 1, so that a label at the end of a line there stays clear of the title.
    axes = by_stage(Axes(y_range=(0, 1.12), y_tick_count=6), stages)
    return LineChart("Fidelity of the reward model by stage", series, axes, [CHANCE])

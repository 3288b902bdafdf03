"""The report as one picture: satisfaction, spread of the scores, reward and KL, and the reward model's fidelity.

matplotlib is imported only here and only when a picture is drawn; it is an optional dependency (`gapo[report]`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gapo.errors import SpecError
from gapo.report.charts import CLASS_COLORS, stage_starts, stage_ticks, usual_peak
from gapo.report.markup import printable
from gapo.report.report_model import Histogram, Report, StageFigure, StageScores
from gapo.report.scores import SPREAD
from gapo.report.svg import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1b2430", "#566273", "#dfe3e9"
COLORS = {"blue": "#1f5fc4", "green": "#0c8558", "orange": "#c9570a", "purple": "#7447bd", "grey": "#6d7987", "red": "#c0312b"}  # fmt: skip
RIDGES = 7
"""Stages whose scores are drawn; of more, evenly chosen ones with the first and the last."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
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
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 7.25), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        _draw(figure, report)
        out = BytesIO()
        # Without the library's version in it, the file depends on the run alone.
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw(figure: Figure, report: Report) -> None:
    run = report.run
    named = " · ".join(printable(part) for part in (run.name, run.method, run.run_id) if part)
    headline = printable(report.verdict.headline)
    lines, size = textwrap.wrap(headline, 92), 13.0
    if len(lines) > 3:
        lines, size = textwrap.wrap(headline, 116, max_lines=4, placeholder=" …"), 10.5
    figure.text(0.07, 0.966, "\n".join(lines), fontsize=size, fontweight="bold", va="top", linespacing=1.35)
    deep = 0.0028 * size * len(lines)
    figure.text(0.07, 0.966 - deep - 0.012, named, fontsize=9.5, color=SOFT, va="top")
    top = 0.966 - deep - 0.106
    grid = figure.add_gridspec(2, 2, left=0.07, right=0.925, bottom=0.07, top=top, hspace=0.42, wspace=0.3)
    _satisfaction(figure.add_subplot(grid[0, 0]), report)
    _ridges(figure.add_subplot(grid[0, 1]), report)
    halves = grid[1, 0].subgridspec(2, 1, hspace=0.18)
    upper = figure.add_subplot(halves[0])
    _curves(upper, figure.add_subplot(halves[1], sharex=upper), report)
    _fidelity(figure.add_subplot(grid[1, 1]), report)


def _title(axes: Axes, text: str, below: str) -> None:
    axes.text(0, 1.0, text, transform=axes.transAxes, fontsize=11, fontweight="bold", va="bottom",
              position=(0, 1.095))  # fmt: skip
    axes.text(0, 1.03, below, transform=axes.transAxes, fontsize=8.5, color=SOFT, va="bottom")


def _nothing(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines.bottom.set_visible(False)
    axes.text(0.5, 0.5, "nothing committed", transform=axes.transAxes, color=SOFT, ha="center", va="center")


def _stage_axis(axes: Axes, stages: Sequence[float]) -> None:
    low, high = min(stages), max(stages)
    axes.set_xlim(low - 0.35, high + 0.35)
    shown = stage_ticks(stages)
    axes.set_xticks(shown, ["SFT" if s == 0 else f"{s:g}" for s in shown])


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Texts (x, y, text, colour) beside the ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda e: e[1])
    height = axes.get_position().height * 7.25 * 72
    heights = spread([e[1] for e in ends], (high - low) * 11.5 / height, low + (high - low) * 0.03, high)
    for (x, _, text, ink), y in zip(ends, heights, strict=True):
        axes.annotate(text, (x, y), xytext=(8, 0), textcoords="offset points", color=ink, fontsize=9, fontweight="bold",
                      va="center", annotation_clip=False)  # fmt: skip


def _satisfaction(axes: Axes, report: Report) -> None:
    _title(axes, "Verified satisfaction", "responses that satisfy every constraint, by stage; 95 % intervals")
    rows = report.satisfaction
    if not rows:
        return _nothing(axes)
    kept = [row for row in rows if row.stage not in report.abandoned]
    left = [row for row in rows if row.stage in report.abandoned]
    ends = []
    greedy = [(row.stage, row.greedy) for row in kept if row.greedy is not None]
    if greedy:
        axes.plot(*zip(*greedy, strict=True), color=COLORS["grey"], lw=1.3, ls=(0, (4, 3)))
        ends.append((*greedy[-1], "greedy", COLORS["grey"]))
    if left:
        axes.plot([r.stage for r in left], [r.value for r in left], "o", color=COLORS["red"], ms=4)
        axes.annotate("abandoned", (left[-1].stage, left[-1].value), xytext=(0, 7), textcoords="offset points",
                      ha="center", color=COLORS["red"], fontsize=9, fontweight="bold")  # fmt: skip
    if kept:
        _with_interval(axes, kept, "blue")
        ends.append((kept[-1].stage, kept[-1].value, "sampled", COLORS["blue"]))
    _stage_axis(axes, [row.stage for row in rows])
    _percent(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(1, high))
    exported = report.verdict.exported_stage
    if exported is not None and exported in {row.stage for row in rows}:
        axes.axvline(exported, color=SOFT, lw=1, ls=(0, (1, 2)))
        axes.annotate("exported", (exported, axes.get_ylim()[0]), xytext=(4, 4), textcoords="offset points", fontsize=8.5, color=SOFT)  # fmt: skip
    _labels(axes, ends)
    return None


def _with_interval(axes: Axes, rows: Sequence[StageFigure], color: str) -> None:
    bounded = [(r.stage, r.lo, r.hi) for r in rows if r.lo is not None and r.hi is not None]
    ink = COLORS[color]
    if bounded:
        stages, low, high = zip(*bounded, strict=True)
        axes.fill_between(stages, low, high, color=ink, alpha=0.13, lw=0)
        axes.vlines(stages, low, high, color=ink, lw=1, alpha=0.55)
    axes.plot([r.stage for r in rows], [r.value for r in rows], "o-", color=ink, lw=2, ms=4.5)


def chosen_ridges(rows: Sequence[StageScores]) -> list[StageScores]:
    if len(rows) <= RIDGES:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (RIDGES - 1))] for i in range(RIDGES)]


def _ridges(axes: Axes, report: Report) -> None:
    _title(
        axes,
        "Scores of the reward model",
        "share of each class by score; shaded: 0.2 to 0.95, where a settled one spreads",
    )
    rows = chosen_ridges(report.rm_scores)
    if not rows:
        return _nothing(axes)
    axes.grid(False)
    axes.axvspan(*SPREAD, color=COLORS["blue"], alpha=0.05, lw=0)
    unit = usual_peak([max(bins.shares) for row in rows for bins in row.by_class.values()])
    for level, row in enumerate(reversed(rows)):
        for name, color in CLASS_COLORS.items():
            bins = row.by_class.get(name)
            if bins is None:
                continue
            xs, ys = _steps(bins, [min(1.25, share / unit) for share in bins.shares])
            heights = [level + 0.92 * y for y in ys]
            filled, above = name != "generated", len(rows) - level
            if filled:
                axes.fill_between(
                    xs, [level] * len(xs), heights, color=COLORS[color], alpha=0.17, lw=0, zorder=above
                )
            axes.plot(xs, heights, color=COLORS[color], lw=1 if filled else 1.8, zorder=above + 0.5)
        axes.axhline(level, color=SOFT, lw=0.6)
    names = ["SFT" if row.stage == 0 else f"{row.stage}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylabel("stage")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.05, len(rows) + 0.15)
    axes.set_xticks([0, 0.2, 0.5, 0.95, 1], ["0", "0.2", "0.5", "0.95", ""])
    shown = [(n, c) for n, c in CLASS_COLORS.items() if any(n in row.by_class for row in rows)]
    for i, (name, color) in enumerate(shown):
        axes.text(
            1.015,
            0.94 - 0.085 * i,
            name,
            transform=axes.transAxes,
            color=COLORS[color],
            fontsize=9,
            fontweight="bold",
        )
    return None


def _steps(bins: Histogram, heights: Sequence[float]) -> tuple[list[float], list[float]]:
    xs, ys = [float(bins.edges[0])], [0.0]
    for (start, end), height in zip(pairwise(bins.edges), heights, strict=True):
        xs += [start, end]
        ys += [height, height]
    return [*xs, bins.edges[-1]], [*ys, 0.0]


def _curves(upper: Axes, lower: Axes, report: Report) -> None:
    _title_on_half(
        upper, "Reward and KL", "by PPO iteration; dotted: a stage begins, with another reward model"
    )
    from matplotlib.ticker import MaxNLocator

    rows = report.ppo
    if not rows:
        _nothing(upper)
        return _nothing(lower)
    for axes, lines in (
        (upper, (("ppo/reward", "reward", "blue"),)),
        (lower, (("ppo/kl_sft", "KL to start", "orange"), ("ppo/kl", "KL, penalty", "purple"))),
    ):
        ends = []
        for name, label, color in lines:
            drawn = [(row.iteration, row.figures[name]) for row in rows if name in row.figures]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), color=COLORS[color], lw=1.6)
                ends.append((*drawn[-1], label, COLORS[color]))
        starts = stage_starts(rows)
        for at, _ in starts:
            axes.axvline(at, color=COLORS["grey"], lw=0.8, ls=(0, (1, 2)), zorder=0)
        axes.locator_params(axis="y", nbins=3)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.set_xlim(0 if len(rows) > 1 else -0.5, max(0.5, rows[-1].iteration))
        _labels(axes, ends)
    every = -(-len(starts) // 12)
    for at, label in starts[::every]:
        upper.annotate(label, (at, 1), xycoords=("data", "axes fraction"), xytext=(2, -8), textcoords="offset points",
                       fontsize=8, color=SOFT)  # fmt: skip
    upper.tick_params(labelbottom=False)
    lower.set_ylabel("nats a token")
    upper.set_ylabel("score")
    return None


def _title_on_half(axes: Axes, text: str, below: str) -> None:
    axes.text(0, 1.2, text, transform=axes.transAxes, fontsize=11, fontweight="bold", va="bottom")
    axes.text(0, 1.06, below, transform=axes.transAxes, fontsize=8.5, color=SOFT, va="bottom")


def _fidelity(axes: Axes, report: Report) -> None:
    _title(
        axes, "Fidelity of the reward model", "on held-out pairs, and against the verifier on fresh samples"
    )
    lines = (
        (report.pair_accuracy, "pair\naccuracy", "purple"),
        (report.health.fidelity_auc, "AUC on\nsamples", "blue"),
        (report.health.fidelity_ece, "calibration\nerror", "orange"),
    )
    drawn = [line for line in lines if line[0]]
    if not drawn:
        return _nothing(axes)
    for rows, _, color in drawn:
        _with_interval(axes, rows, color)
    _stage_axis(axes, [row.stage for rows, _, _ in drawn for row in rows])
    axes.set_ylim(0, 1.12)
    axes.axhline(0.5, color=COLORS["red"], lw=0.9, ls=(0, (5, 3)))
    axes.annotate("chance", (axes.get_xlim()[0], 0.5), xytext=(3, 3), textcoords="offset points", fontsize=8.5, color=COLORS["red"])  # fmt: skip
    wide = [(rows[-1].stage, rows[-1].value, label, COLORS[color]) for rows, label, color in drawn]
    places = sorted(wide, key=lambda e: e[1])
    heights = spread([e[1] for e in places], 0.13, 0.05, 1.0)  # clear of the subtitle above
    for (x, _, text, ink), y in zip(places, heights, strict=True):
        axes.annotate(text, (x, y), xytext=(8, 0), textcoords="offset points", color=ink, fontsize=9, fontweight="bold",
                      va="center", linespacing=1.05, annotation_clip=False)  # fmt: skip
    return None

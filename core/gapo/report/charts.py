"""The report's charts, from its figures; None where it holds nothing for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from gapo.report.chart_model import Area, Axes, Cell, HistogramChart, LineChart, Matrix, Point, Rule, Series
from gapo.report.formatting import interval, plain, share
from gapo.report.report_model import (
    CLASSES,
    CrossPlayCell,
    CurveRow,
    Report,
    ScoreClass,
    StageFigure,
    StageScores,
)
from gapo.report.scales import ticks
from gapo.report.scores import SPREAD

CLASS_COLORS: Mapping[ScoreClass, str] = {"accepted": "green", "rejected": "orange", "generated": "blue"}
MAX_DRAWN = 400
"""Points of an iteration curve that are drawn; longer ones are averaged over neighbours."""

_LEAD = Axes(label_gap=17, width=480, height=270, left=44, right=78, top=26, bottom=36)
_MINI = Axes(width=210, height=124, left=32, right=10, top=30, bottom=18, y_tick_count=2)


@dataclass(frozen=True)
class PageCharts:
    """The charts that the page shows large, and those of one small chart a family or stage."""

    satisfaction: LineChart | None
    satisfaction_by_family: Sequence[LineChart]
    pair_accuracy: LineChart | None
    pair_modes: LineChart | None
    pair_accuracy_by_family: Sequence[LineChart]
    score_shares: LineChart | None
    rm_scores: Sequence[HistogramChart]
    score_classes: Sequence[tuple[ScoreClass, str]]
    """Those in `rm_scores`, each with its colour."""
    cross_play_auc: Matrix | None
    cross_play_win_rate: Matrix | None


def page_charts(report: Report) -> PageCharts:
    gate = report.gate.min_family_accuracy if report.gate else None
    classes = {name for row in report.rm_scores for name in row.by_class}
    return PageCharts(
        satisfaction=satisfaction(report),
        satisfaction_by_family=families(report.satisfaction_by_family, "blue", None, "Satisfaction"),
        pair_accuracy=pair_accuracy(report),
        pair_modes=pair_modes(report),
        pair_accuracy_by_family=families(report.pair_accuracy_by_family, "purple", gate, "Pair accuracy"),
        score_shares=score_shares(report),
        rm_scores=rm_scores(report),
        score_classes=[(name, color) for name, color in CLASS_COLORS.items() if name in classes],
        cross_play_auc=cross_play(report, lambda cell: cell.auc, "AUC against the verifier"),
        cross_play_win_rate=cross_play(report, lambda cell: cell.win_rate, "Win rate"),
    )


def whole(value: float) -> str:
    return share(value, 0)


def stage_ticks(stages: Sequence[float], most: int = 13) -> list[float]:
    low, high = min(stages), max(stages)
    if high - low < most:
        return [float(s) for s in range(int(low), int(high) + 1)]
    return [t for t in ticks(low, high, most // 2) if t == int(t)]


def stage_range(stages: Sequence[float]) -> tuple[float, float]:
    """A single stage stands in the middle."""
    low, high = min(stages), max(stages)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def figure_points(rows: Sequence[StageFigure], form: Callable[[float], str] = share) -> list[Point]:
    points = []
    for row in rows:
        parts = [
            f"stage {row.stage}: {form(row.value)}",
            interval(row, form),
            "" if row.n is None else f"n = {plain(row.n)}",
        ]
        points.append(Point(row.stage, row.value, row.lo, row.hi, ", ".join(part for part in parts if part)))
    return points


def bare_points(values: Iterable[tuple[int, float]]) -> list[Point]:
    """Shares by stage that have no interval."""
    return [Point(stage, value, tip=f"stage {stage}: {share(value)}") for stage, value in values]


def stages_of(rows: Iterable[StageFigure]) -> list[float]:
    return [row.stage for row in rows]


def by_stage(axes: Axes, stages: Sequence[float], most_ticks: int = 13) -> Axes:
    return replace(axes, x_range=stage_range(stages), x_ticks=stage_ticks(stages, most_ticks))


def satisfaction(report: Report) -> LineChart | None:
    """The primary metric with its interval, greedy beside it, abandoned stages apart, the exported one marked."""
    rows = report.satisfaction
    if not rows:
        return None
    kept = [row for row in rows if row.stage not in report.abandoned]
    left = [row for row in rows if row.stage in report.abandoned]
    series = []
    if greedy := bare_points((row.stage, row.greedy) for row in kept if row.greedy is not None):
        series.append(Series(greedy, "grey", "greedy", dashed=True, dots=False))
    if left:
        series.append(Series(figure_points(left), "red", "abandoned", dashed=True, label_above=True))
    if kept:
        series.append(Series(figure_points(kept), "blue", "sampled"))
    exported = report.verdict.exported_stage
    shown = {row.stage for row in rows}
    axes = replace(
        by_stage(_LEAD, stages_of(rows)),
        x_label="stage",
        y_label="responses that satisfy every constraint",
        y_format=whole,
        y_floor=0,
        y_ceiling=1,
        boundaries=((exported, "exported"),) if exported is not None and exported in shown else (),
    )
    return LineChart("Verified satisfaction by stage", series, axes)


def pair_accuracy(report: Report) -> LineChart | None:
    """The reward model's accuracy on held-out original pairs, with the gate that it had to pass."""
    rows = report.pair_accuracy
    if not rows:
        return None
    gate = report.gate.min_pair_accuracy if report.gate else None
    axes = replace(
        by_stage(_LEAD, stages_of(rows)),
        right=20,
        x_label="stage of the reward model",
        y_label="held-out pairs ranked right",
        y_format=whole,
        y_ceiling=1,
        y_include=(0.5,),
    )
    rules = [Rule(0.5, "chance")] + ([Rule(gate, "gate of the warm-up")] if gate is not None else [])
    return LineChart(
        "Reward model's pair accuracy by stage", [Series(figure_points(rows), "purple")], axes, rules
    )


def pair_modes(report: Report) -> LineChart | None:
    """Pair accuracy by the way in which the rejected member was made."""
    modes = report.pair_accuracy_by_mode
    if not modes:
        return None
    inks = ("blue", "orange", "green", "purple", "red", "grey")
    series = [
        Series(figure_points(rows), ink, mode)
        for (mode, rows), ink in zip(modes.items(), cycle(inks), strict=False)
    ]
    axes = replace(
        by_stage(_LEAD, [row.stage for rows in modes.values() for row in rows]),
        right=118,
        x_label="stage of the reward model",
        y_label="held-out pairs ranked right",
        y_format=whole,
        y_ceiling=1,
        y_include=(0.5,),
    )
    return LineChart("Pair accuracy by edit mode", series, axes, [Rule(0.5, "chance")])


def families(
    by_family: Mapping[str, Sequence[StageFigure]], color: str, gate: float | None, what: str
) -> list[LineChart]:
    """One small chart a family, all on the same scale."""
    values = [row.value for rows in by_family.values() for row in rows]
    if not values:
        return []
    floor = 0.0 if gate is None or min(values) < 0.35 else 0.3
    charts = []
    for family, rows in by_family.items():
        name = family if len(family) <= 30 else family[:29] + "…"
        axes = replace(
            by_stage(_MINI, stages_of(rows), most_ticks=7), y_range=(floor, 1.0), y_format=whole, y_label=name
        )
        rules = [Rule(gate, "gate")] if gate is not None else []
        charts.append(LineChart(f"{what}, {family}", [Series(figure_points(rows), color)], axes, rules))
    return charts


def rm_scores(report: Report) -> list[HistogramChart]:
    """One small chart a stage: how the scores of accepted, rejected and generated responses are spread."""
    peaks = [max(bins.shares) for row in report.rm_scores for bins in row.by_class.values()]
    top = usual_peak(peaks) * 1.1
    return [
        HistogramChart(
            title=f"Scores of the reward model at stage {row.stage}",
            heading=score_heading(row),
            areas=[
                Area(row.by_class[name], CLASS_COLORS[name], name, filled=name != "generated")
                for name in CLASSES
                if name in row.by_class
            ],
            top_share=top,
            band=SPREAD,
        )
        for row in report.rm_scores
    ]


def score_shares(report: Report) -> LineChart | None:
    """How much of each class's scores lies where those of a settled reward model do."""
    rows = report.score_shares
    if not rows:
        return None
    series = [
        Series(points, CLASS_COLORS[name], name)
        for name in CLASSES
        if (points := bare_points((row.stage, row.by_class[name]) for row in rows if name in row.by_class))
    ]
    axes = replace(
        by_stage(_LEAD, [row.stage for row in rows]),
        x_label="stage",
        y_label=f"scores from {SPREAD[0]:g} to {SPREAD[1]:g}",
        y_include=(0.0, 1.0),
        y_format=whole,
        y_floor=0,
        y_ceiling=1,
    )
    return LineChart("Share of scores that are spread, by stage", series, axes)


def usual_peak(peaks: Sequence[float]) -> float:
    """The height that four in five histograms stay within: a class all in one bin must not flatten the others."""
    return sorted(peaks)[int(0.8 * (len(peaks) - 1))] if peaks else 1.0


def score_heading(row: StageScores) -> str:
    own = row.source.split("/")[1] in {"rm", "rm-warmup"}
    return f"stage {row.stage}" if own else f"stage {row.stage}, earlier RM"


def stage_starts(rows: Sequence[CurveRow]) -> list[tuple[float, str]]:
    """The first iteration of each stage with the stage's number."""
    starts: dict[int, float] = {}
    for row in rows:
        starts.setdefault(row.stage, row.iteration)
    return [(at, f"A{stage}") for stage, at in starts.items()]


def curve(rows: Sequence[CurveRow], name: str) -> list[Point]:
    """A figure of rows by their `iteration`; of more than `MAX_DRAWN`, means of neighbours."""
    points = [(row.iteration, row.figures[name]) for row in rows if name in row.figures]
    size = -(-len(points) // MAX_DRAWN) or 1
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [Point(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def cross_play(report: Report, figure: Callable[[CrossPlayCell], float | None], title: str) -> Matrix | None:
    """Reward model of stage i (row) on the generator of stage j (column)."""
    cells = {
        (cell.rm, cell.generator): Cell(
            value,
            f"RM of stage {cell.rm} on generator of stage {cell.generator}: {value:.3f}"
            + (f", n = {plain(cell.n)}" if cell.n is not None else ""),
        )
        for cell in report.cross_play
        if (value := figure(cell)) is not None
    }
    heading = "row: reward model of stage; column: generator of stage"
    return Matrix(title, heading, cells, diverging) if cells else None


def diverging(value: float) -> str:
    """CSS class by distance from 0.5: `up0` … `up4`, `down0` … `down4`."""
    level = min(4, int(abs(value - 0.5) * 10))
    return f"{'up' if value >= 0.5 else 'down'}{level}"

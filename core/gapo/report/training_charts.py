"""The section on the training itself: small charts, one row of them a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gapo.report import charts
from gapo.report.chart_model import Axes, LineChart, Point, Series
from gapo.report.formatting import MINUS, plain
from gapo.report.panels import Panel
from gapo.report.report_model import CurveRow, PeakMemory, Report
from gapo.report.timeline import color_of
from gapo.report.training import PACE, SAMPLED, TRAINED
from gapo.tasks import KINDS, Kind

GIB = 2.0**30
_SMALL = Axes(width=250, height=150, left=46, right=12, top=18, bottom=28, y_tick_count=3)
_PLACES: Mapping[str, Callable[[PeakMemory], float | None]] = {
    "Most memory held, host": lambda peak: peak.host,
    "Most memory held, GPU": lambda peak: peak.device,
}


@dataclass(frozen=True)
class _Spec:
    title: str
    unit: str
    lines: Mapping[str, tuple[str, str]]
    """Figure → colour, and the label of its line where there are several."""
    zero: bool = True
    """The scale begins at 0."""


_LOSS = "nats a token"
_SFT = (
    _Spec("Loss", _LOSS, {"sft/loss": ("blue", "train"), "sft/val_loss": ("orange", "held-out")}, zero=False),
    _Spec("Learning rate", "", {"sft/lr": ("grey", "")}),
    _Spec("Gradient norm", "before clipping", {"sft/grad_norm": ("grey", "")}),
    _Spec("Pace", "tokens/s", {PACE: ("green", "")}),
)
_RM = (
    _Spec("Loss", "nats a row", {"rm/loss": ("purple", "")}),
    _Spec("Learning rate", "", {"rm/lr": ("grey", "")}),
    _Spec("Gradient norm", "before clipping", {"rm/grad_norm": ("grey", "")}),
    _Spec("Pace", "tokens/s", {PACE: ("green", "")}),
)
_PPO = (
    _Spec("Policy loss", "", {"ppo/policy_loss": ("blue", "")}, zero=False),
    _Spec("Value loss", "", {"ppo/value_loss": ("orange", "")}),
    _Spec("Learning rate", "", {"ppo/lr": ("blue", "actor"), "critic/lr": ("orange", "critic")}),
    _Spec("Gradient norm", "before clipping", {"ppo/grad_norm": ("blue", "actor"), "critic/grad_norm": ("orange", "critic")}),
    _Spec("Pace", "tokens/s", {SAMPLED: ("green", "sampled"), TRAINED: ("blue", "trained")}),
)  # fmt: skip


@dataclass(frozen=True)
class TrainingRow:
    """The charts of one model."""

    name: str
    panels: Sequence[Panel]


def training(report: Report) -> list[TrainingRow]:
    """Whether the optimisers did their work, how fast, and in how much memory."""
    rows = [
        TrainingRow("Supervised training", _panels(_SFT, report.training.sft, "step")),
        TrainingRow("Reward model", _panels(_RM, report.training.rm, "step")),
        TrainingRow("PPO", _panels(_PPO, report.ppo, "iteration")),
        TrainingRow("Memory", _memory(report.training.memory)),
    ]
    return [row for row in rows if row.panels]


def _panels(specs: Sequence[_Spec], rows: Sequence[CurveRow], unit: str) -> list[Panel]:
    panels = (_panel(spec, rows, unit) for spec in specs)
    return [panel for panel in panels if panel is not None]


def _panel(spec: _Spec, rows: Sequence[CurveRow], unit: str) -> Panel | None:
    several = len(spec.lines) > 1
    series = [
        Series(points, color, label if several else "", dots=len(points) < 15)
        for name, (color, label) in spec.lines.items()
        if (points := charts.curve(rows, name))
    ]
    if not series:
        return None
    points = [point for one in series for point in one.points]
    first, last = min(0.0, *(point.x for point in points)), max(point.x for point in points)
    starts = [(at, label) for at, label in charts.stage_starts(rows) if label != "A0"]
    highest = max(point.y for point in points)
    room = (highest + 0.15 * abs(highest),) if starts else ()  # for the stages' names, above the lines
    axes = replace(
        _SMALL,
        right=52 if several else _SMALL.right,
        x_label=unit,
        y_label=spec.unit,
        y_format=_tick,
        y_floor=0 if spec.zero else None,
        y_include=(0.0, *room) if spec.zero else room,
        x_range=(first, last) if last > first else (first - 0.5, first + 0.5),
        boundaries=starts,
    )
    chart = LineChart(f"{spec.title} by {unit}", series, axes)
    return Panel(spec.title, "", chart)


def _tick(value: float) -> str:
    """Short, whatever the figure: 5,000 as 0.002 and 1e-05."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}").replace("-", MINUS)


def _memory(rows: Sequence[PeakMemory]) -> list[Panel]:
    panels = []
    for title, bytes_of in _PLACES.items():
        by_kind: dict[str, list[Point]] = {}
        for row in rows:
            line = KINDS[Kind(row.kind)].line if row.kind in set(Kind) else None
            if line is not None and (peak := bytes_of(row)) is not None:
                held = peak / GIB
                tip = f"{row.kind}, stage {row.stage}: {plain(held)} GiB"
                by_kind.setdefault(line, []).append(Point(row.stage, held, tip=tip))
        if not by_kind:
            continue
        stages = [point.x for points in by_kind.values() for point in points]
        axes = replace(
            _SMALL, right=64, x_label="stage", y_label="GiB", y_floor=0, y_include=(0.0,),
            x_range=charts.stage_range(stages), x_ticks=charts.stage_ticks(stages, 7),
        )  # fmt: skip
        series = [Series(points, color_of(kind), kind) for kind, points in by_kind.items()]
        chart = LineChart(f"{title}, by task", series, axes)
        panels.append(Panel(title, "", chart))
    return panels

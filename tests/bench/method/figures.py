"""The comparison's figures as SVG files that stand by themselves; the marks are those of gapo's report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from tests.bench.method import plan
from tests.bench.method.comparisons import alike, by_arm
from tests.bench.method.result import Result
from tests.bench.method.stats import effect

from gapo.report.chart_model import Area, Axes, Cell, HistogramChart, LineChart, Matrix, Point, Rule, Series
from gapo.report.markup import Markup
from gapo.report.report_model import Histogram
from gapo.report.svg import svg

INKS = {
    plan.GENTLE: "grey",
    plan.FROZEN: "orange",
    plan.TRAINED_ON: "green",
    "gapo-zero": "blue",
    "gapo-drop": "purple",
    "gapo-half": "brown",
    "gapo-one": "red",
    plan.BEST_VARIANT: "teal",
    plan.CONTROL: "black",
}
DRAWN = (plan.FROZEN, plan.TRAINED_ON, "gapo-zero", "gapo-one", plan.BEST_VARIANT)
"""Arms with a matrix and histograms of their own."""
_STYLE = """<style>
svg { --blue: #1f5fc4; --green: #0c8558; --orange: #c9570a; --purple: #7447bd; --red: #c0312b; --grey: #6d7987;
  --brown: #8a5a2b; --teal: #0b8a99; --black: #1b2430; --line: #dfe3e9; --soft: #566273; background: #fff;
  font: 11px system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
text { fill: var(--soft); } .label, .heading { font-weight: 600; } .grid { stroke: var(--line); }
.axis { stroke: var(--soft); } .rule { stroke: var(--red); stroke-dasharray: 5 3; } .rulelabel { fill: var(--red); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .whisker { stroke-width: 1.2; opacity: .55; }
.band { display: none; } .dot { stroke: #fff; } .hist { fill-opacity: .22; stroke-width: 1.4; }
.hist.open { fill: none; stroke-width: 2; } .zone { fill: #1f5fc40f; } .cell text { fill: #1b2430; }
.cell rect { fill: var(--blue); } .s0 rect { fill-opacity: .08; } .s1 rect { fill-opacity: .2; }
.s2 rect { fill-opacity: .34; } .s3 rect { fill-opacity: .48; } .s4 rect { fill-opacity: .62; }
</style>"""
_ASIDE = 0.16
_AXES = Axes(width=620, height=330, left=44, right=150, top=26, bottom=36, x_label="stage")


def all_figures(results: Sequence[Result]) -> dict[str, tuple[str, str]]:
    """File name → (what it shows, SVG), for the figures that these results of one setting allow."""
    arms = {arm: held for arm, held in by_arm(results).items() if arm in INKS}
    common = by_arm(r for r in (alike(results) or [results])[0] if r.arm in INKS)
    found: dict[str, tuple[str, Markup | None]] = {
        "satisfaction.svg": (
            "Verified satisfaction of sampled responses on validation prompts, by stage: mean over the seeds that all arms "
            "have, 95 % t-interval from three seeds on",
            by_stage(common, "satisfaction", "responses that satisfy every constraint"),
        ),
        "differences.svg": (
            f"Satisfaction on validation prompts less that of {plan.TRAINED_ON}, paired by seed, by stage: mean, "
            "95 % t-interval from three seeds on",
            differences(arms),
        ),
        "fidelity.svg": (
            "AUC of the stage's reward model against the verifier on the generator's samples, by stage: mean over the seeds "
            "that all arms have",
            by_stage(common, "auc", "AUC", [Rule(0.5, "chance")]),
        ),
    }
    for arm in DRAWN:
        if arm in arms:
            found[f"cross-play-{arm}.svg"] = (
                f"{arm}: AUC of each stage's reward model (rows) on each stage's generator (columns), mean over seeds",
                matrix(arms[arm]),
            )
            found[f"scores-{arm}.svg"] = (
                f"{arm}: scores of the last stage's reward model, all seeds: accepted (green) and rejected (orange) "
                "held-out rows, the generator's samples (blue)",
                scores(arms[arm]),
            )
    return {name: (about, standalone(drawn)) for name, (about, drawn) in found.items() if drawn is not None}


def by_stage(
    arms: Mapping[str, Sequence[Result]], figure: str, label: str, rules: Sequence[Rule] = ()
) -> Markup | None:
    """One line an arm; None without any."""
    axes = replace(_AXES, y_label=label, y_format=_percent if figure == "satisfaction" else None, y_ceiling=1)
    return _over_stages(stage_series(arms, figure), axes, f"{label} by stage and arm", rules)


def stage_series(arms: Mapping[str, Sequence[Result]], figure: str) -> list[Series]:
    """Of each arm that has the figure, its mean over seeds at each stage, with its interval from three seeds on."""
    series = []
    aside = _aside(arms)
    for arm, held in arms.items():
        columns: dict[int, list[float]] = {}
        for r in held:
            for stage in r.stages:
                if figure in stage:
                    columns.setdefault(stage["stage"], []).append(stage[figure])
        points = [_point(stage + aside[arm], values) for stage, values in sorted(columns.items())]
        if points:
            series.append(Series(points, INKS[arm], arm))
    return series


def differences(arms: Mapping[str, Sequence[Result]]) -> Markup | None:
    """One line an online arm; None where none has a seed in common with the RM trained on."""
    axes = replace(_AXES, y_label="percentage points ahead", y_format=_signed_points, y_include=(0.0,))
    title = "Difference to the RM trained on, by stage and arm"
    return _over_stages(difference_series(arms), axes, title, [Rule(0.0, plan.TRAINED_ON)])


def difference_series(arms: Mapping[str, Sequence[Result]]) -> list[Series]:
    """What each online arm is ahead of the RM trained on, by stage, over the seeds that both have."""
    control = {r.seed: r for r in arms.get(plan.TRAINED_ON, ())}
    aside = _aside(arms)
    series = []
    for arm, held in arms.items():
        pairs = [(r.satisfaction, control[r.seed].satisfaction) for r in held if r.seed in control]
        if not pairs or arm in (plan.TRAINED_ON, plan.CONTROL, plan.GENTLE):
            continue
        stages = range(min(len(values) for pair in pairs for values in pair))
        points = [_point(k + aside[arm], [mine[k] - other[k] for mine, other in pairs]) for k in stages]
        series.append(Series(points, INKS[arm], arm))
    return series


def _over_stages(series: Sequence[Series], axes: Axes, title: str, rules: Sequence[Rule]) -> Markup | None:
    if not series:
        return None
    last = round(max(point.x for drawn in series for point in drawn.points))
    stages = replace(axes, x_range=(-_ASIDE, last + _ASIDE), x_ticks=list(range(last + 1)))
    return svg(LineChart(title, series, stages, rules))


def matrix(held: Sequence[Result]) -> Markup | None:
    """Mean AUC of each reward model on each generator."""
    cells: dict[tuple[int, int], list[float]] = {}
    for r in held:
        for rm, generator, value in r.cross_play:
            cells.setdefault((int(rm), int(generator)), []).append(value)
    if not cells:
        return None
    means = {place: fmean(values) for place, values in cells.items()}
    low, high = min(means.values()), max(means.values())
    chart = Matrix(
        title="Cross-play",
        heading="reward model of stage (rows), generator of stage (columns)",
        cells={place: Cell(mean, f"{len(cells[place])} seeds") for place, mean in means.items()},
        ink=lambda value: f"s{int(4.99 * (value - low) / (high - low)) if high > low else 2}",
    )
    return svg(chart)


def scores(held: Sequence[Result]) -> Markup | None:
    """Histograms of the last stage, summed over seeds."""
    shown = [r.scores[-1] for r in held if r.scores]
    edges = [i / 10 for i in range(11)]
    areas = [
        Area(Histogram(edges=edges, counts=[sum(c) for c in zip(*(s[name] for s in shown), strict=True)]), ink, name, filled)
        for name, ink, filled in (
            ("accepted", "green", True), ("rejected", "orange", True), ("generated", "blue", False),
        )
        if shown and all(name in s for s in shown)
    ]  # fmt: skip
    if not areas:
        return None
    chart = HistogramChart(
        title="Scores in the last stage",
        heading=f"stage {shown[0]['stage']}",
        areas=areas,
        top_share=max(max(area.bins.shares) for area in areas) * 1.1,
        width=420,
        height=200,
    )
    return svg(chart)


def standalone(drawn: Markup) -> str:
    """The chart as a file of its own: namespace, palette and size included."""
    head, _, rest = drawn.partition(">")
    opened = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opened}>{_STYLE}{rest}\n"


def _aside(arms: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """How far beside its stage each arm is drawn, so that intervals do not hide one another."""
    middle = (len(arms) - 1) / 2
    return {arm: _ASIDE * (i - middle) / max(middle, 1) for i, arm in enumerate(arms)}


def _point(stage: float, values: Sequence[float]) -> Point:
    found = effect(values)
    if found.n < 3:  # of two seeds the interval reaches six times their distance to either side
        return Point(stage, found.mean)
    return Point(stage, found.mean, found.lo, found.hi)


_percent: Callable[[float], str] = "{:.0%}".format


def _signed_points(value: float) -> str:
    return f"{100 * value:+.0f}" if abs(value) > 1e-9 else "0"

"""The report's charts, each from the facts to inline SVG; None where the facts hold nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from gapo.report.markup import Markup
from gapo.report.numbers import interval, plain, share
from gapo.report.svg import Axes, Point, Rule, Series, line_chart, ticks
from gapo.report.svg_areas import Histogram, heatmap, histogram_chart

Facts = Mapping[str, Any]
STRATIFIED = (0.2, 0.95)
"""The range over which the paper sees the scores spread once the reward model has settled."""
CLASS_COLORS = {"accepted": "green", "rejected": "orange", "generated": "blue"}
MAX_DRAWN = 400
"""Points of an iteration curve that are drawn; longer ones are averaged over neighbours."""

_LEAD = Axes(label_gap=17, width=480, height=270, left=44, right=78, top=26, bottom=36)
_PANEL = Axes(right=18)
_MINI = Axes(width=210, height=124, left=32, right=10, top=30, bottom=18, y_tick_count=2)


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


def _points(
    rows: Sequence[Mapping[str, Any]], key: str = "value", form: Callable[[float], str] = share
) -> list[Point]:
    found = []
    for row in rows:
        if row.get(key) is None:
            continue
        bounds = (row.get("lo"), row.get("hi")) if key == "value" else (None, None)
        tip = f"stage {row['stage']}: {form(row[key])}"
        if key == "value" and (bounded := interval(row, form)):
            tip += f", {bounded}"
        if key == "value" and "n" in row:
            tip += f", n = {plain(row['n'])}"
        found.append(Point(row["stage"], row[key], bounds[0], bounds[1], tip))
    return found


def _by_stage(axes: Axes, rows: Sequence[Mapping[str, Any]], most_ticks: int = 13) -> Axes:
    stages = [row["stage"] for row in rows]
    return replace(axes, x_range=stage_range(stages), x_ticks=stage_ticks(stages, most_ticks))


def satisfaction(facts: Facts) -> Markup | None:
    """The primary metric with its interval, greedy beside it, abandoned stages apart, the exported one marked."""
    rows = facts["satisfaction"]
    if not rows:
        return None
    abandoned = {s["stage"] for s in facts["stages"] if s["abandoned"]}
    kept = [row for row in rows if row["stage"] not in abandoned]
    left = [row for row in rows if row["stage"] in abandoned]
    series = []
    if greedy := _points(kept, "greedy"):
        series.append(Series(greedy, "grey", "greedy", dashed=True, dots=False))
    if left:
        series.append(Series(_points(left), "red", "abandoned", dashed=True, label_above=True))
    if kept:
        series.append(Series(_points(kept), "blue", "sampled"))
    exported = facts["verdict"]["exportedStage"]
    shown = {row["stage"] for row in rows}
    axes = replace(
        _by_stage(_LEAD, rows),
        x_label="stage",
        y_label="responses that satisfy every constraint",
        y_format=whole,
        y_floor=0,
        y_ceiling=1,
        boundaries=((exported, "exported"),) if exported in shown else (),
    )
    return line_chart(series, axes, title="Verified satisfaction by stage")


def pair_accuracy(facts: Facts) -> Markup | None:
    """The reward model's accuracy on held-out original pairs, with the gate that it had to pass."""
    rows = facts["pairAccuracy"]
    if not rows:
        return None
    gate = (facts["gate"] or {}).get("minPairAccuracy")
    axes = replace(
        _by_stage(_LEAD, rows),
        right=20,
        x_label="stage of the reward model",
        y_label="held-out pairs ranked right",
        y_format=whole,
        y_ceiling=1,
        y_include=(0.5,),
    )
    rules = [Rule(0.5, "chance")] + ([Rule(gate, "gate of the warm-up")] if gate is not None else [])
    return line_chart(
        [Series(_points(rows), "purple")], axes, title="Reward model's pair accuracy by stage", rules=rules
    )


def pair_modes(facts: Facts) -> Markup | None:
    """Pair accuracy by the way in which the rejected member was made."""
    modes = facts["pairAccuracyByMode"]
    if not modes:
        return None
    inks = ("blue", "orange", "green", "purple", "red", "grey")
    series = [
        Series(_points(rows), ink, mode)
        for (mode, rows), ink in zip(modes.items(), cycle(inks), strict=False)
    ]
    axes = replace(
        _by_stage(_LEAD, [row for rows in modes.values() for row in rows]),
        right=118,
        x_label="stage of the reward model",
        y_label="held-out pairs ranked right",
        y_format=whole,
        y_ceiling=1,
        y_include=(0.5,),
    )
    return line_chart(series, axes, title="Pair accuracy by edit mode", rules=[Rule(0.5, "chance")])


def families(
    by_family: Mapping[str, Sequence[Mapping[str, Any]]], color: str, gate: float | None, what: str
) -> list[Markup]:
    """One small chart a family, all on the same scale."""
    values = [v for rows in by_family.values() for row in rows for v in (row["value"],)]
    if not values:
        return []
    floor = 0.0 if gate is None or min(values) < 0.35 else 0.3
    charts = []
    for family, rows in by_family.items():
        name = family if len(family) <= 30 else family[:29] + "…"
        axes = replace(
            _by_stage(_MINI, rows, most_ticks=7), y_range=(floor, 1.0), y_format=whole, y_label=name
        )
        rules = [Rule(gate, "gate")] if gate is not None else []
        charts.append(
            line_chart([Series(_points(rows), color)], axes, title=f"{what}, {family}", rules=rules)
        )
    return charts


def rm_scores(facts: Facts) -> list[Markup]:
    """One small chart a stage: how the scores of accepted, rejected and generated responses are spread."""
    rows = facts["rmScores"]
    drawn = []
    for row in rows:
        histograms = [
            Histogram(row[name]["edges"], row[name]["counts"], color, name, filled=name != "generated")
            for name, color in CLASS_COLORS.items()
            if name in row
        ]
        drawn.append((row, histograms))
    top = usual_peak([h.peak for _, histograms in drawn for h in histograms]) * 1.1
    return [
        histogram_chart(
            histograms,
            title=f"Scores of the reward model at stage {row['stage']}",
            top_share=top,
            band=STRATIFIED,
            heading=score_heading(row),
        )
        for row, histograms in drawn
    ]


def score_shares(facts: Facts) -> Markup | None:
    """How much of each class's scores lies where those of a settled reward model do."""
    rows = facts["scoreShares"]
    if not rows:
        return None
    series = [
        Series(points, color, name) for name, color in CLASS_COLORS.items() if (points := _points(rows, name))
    ]
    axes = replace(
        _by_stage(_LEAD, rows),
        x_label="stage",
        y_label=f"scores from {STRATIFIED[0]:g} to {STRATIFIED[1]:g}",
        y_include=(0.0, 1.0),
        y_format=whole,
        y_floor=0,
        y_ceiling=1,
    )
    return line_chart(series, axes, title="Share of scores that are spread, by stage")


def usual_peak(peaks: Sequence[float]) -> float:
    """The height that four in five histograms stay within: a class all in one bin must not flatten the others."""
    return sorted(peaks)[int(0.8 * (len(peaks) - 1))] if peaks else 1.0


def score_heading(row: Mapping[str, Any]) -> str:
    own = row["from"].split("/")[1] in {"rm", "rm-warmup"}
    return f"stage {row['stage']}" if own else f"stage {row['stage']}, earlier RM"


@dataclass(frozen=True)
class Panel:
    """A titled chart with the sentence that says how to read it."""

    title: str
    caption: str
    chart: Markup


def health(facts: Facts) -> list[Panel]:
    """How far the reward model can be trusted, one panel a figure."""
    gap = ((facts["settings"].get("guards") or {}).get("memorisation") or {}).get("gap")
    chance = [Rule(0.5, "chance")]
    zero = [Rule(0.0, "none")]
    limit = [Rule(gap, "guard's limit")] if gap is not None else []
    specs: list[tuple[str, str, str, list[Rule], str, dict[str, Any]]] = [
        ("fidelityAuc", "Fidelity: AUC", "The reward model against the verifier on the generator's own fresh samples. "
         "1 ranks every satisfying response first, 0.5 is chance.", chance, "blue", {"y_label": "AUC", "y_ceiling": 1}),
        ("fidelityEce", "Fidelity: calibration error", "Expected calibration error on the same samples: how far a "
         "score is from the share that really satisfies. Lower is better.", [], "blue",
         {"y_label": "ECE", "y_floor": 0, "y_include": (0.0,)}),
        ("promptSwapGap", "Prompt-swap gap", "Mean score of a generated response under its own prompt minus under "
         "another one. Near 0 the reward model reads the response alone.", zero, "green", {"y_label": "score", "y_include": (0.05,)}),
        ("memorisationGap", "Memorisation gap", "Mean score of accepted training rows minus accepted held-out rows. "
         "High means that the reward model knows its rows.", [*zero, *limit], "orange", {"y_label": "score"}),
        ("styleSeparability", "Style separability", "How well a probe that sees the response alone tells accepted from "
         "generated ones. High: the reward model can win by style.", chance, "orange", {"y_label": "balanced accuracy", "y_ceiling": 1}),
        ("labelNoise", "Label noise", "Share of generated samples trained on as violations although the verifier "
         "passes them. It grows with a better generator.", [], "orange",
         {"y_label": "share", "y_floor": 0, "y_include": (0.0,), "y_format": whole}),
        ("scoreGap", "Score minus satisfaction", "Mean score of validation samples minus the share that satisfies every "
         "constraint. A level is calibration; growing while satisfaction does not is the generator finding what the "
         "reward model gets wrong.", zero, "red", {"y_label": "difference"}),
    ]  # fmt: skip
    panels = []
    for name, title, caption, rules, color, options in specs:
        rows = facts["health"][name]
        if rows:
            form = share if options.get("y_format") is whole else plain
            axes = replace(_by_stage(_PANEL, rows), x_label="stage", **options)
            chart = line_chart([Series(_points(rows, form=form), color)], axes, title=title, rules=rules)
            panels.append(Panel(title, caption, chart))
    return panels


def iterations(facts: Facts) -> list[Panel]:
    """PPO's curves over all stages; a dotted line is a stage's first iteration."""
    rows = facts["ppo"]
    ppo = facts["settings"].get("ppo") or {}
    saturation = (ppo.get("reward") or {}).get("saturationStd")
    kl_limit = ((facts["settings"].get("guards") or {}).get("kl") or {}).get("natsPerToken")
    specs: list[tuple[str, str, str, dict[str, tuple[str, str]], dict[str, Any]]] = [
        ("Reward", "What PPO maximises: the transformed score. Levels of two stages are not comparable, for each has "
         "its own reward model.", "mean reward", {"ppo/reward": ("blue", "")}, {}),
        ("Score against verifier", "The reward model's score beside verified satisfaction of the same rollouts. The "
         "score rising while satisfaction falls is reward hacking.", "mean", {"ppo/score": ("blue", "score"),
         "ppo/satisfaction": ("green", "verified")}, {"y_floor": 0, "y_ceiling": 1, "right": 54}),
        ("Spread of the scores", "Standard deviation of the scores in a batch. Near 0 the reward model is saturated "
         "and there is nothing to learn.", "std", {"ppo/score_std": ("blue", "")},
         {"y_floor": 0, "y_include": (saturation or 0.0,)}),
        ("KL", "How far the policy has moved, in nats a token: from the reference of the penalty, and from the "
         "supervised start.", "nats a token", {"ppo/kl": ("purple", "reference"), "ppo/kl_sft": ("orange", "start")},
         {"right": 58, "y_include": (0.0,)}),
        ("Entropy", "Of the policy on its own samples. A fall to under 30\u202f% of the start warns of collapse.",
         "nats a token", {"ppo/entropy": ("purple", "")}, {"y_floor": 0, "y_include": (0.0,)}),
        ("Response length", "Mean length of the sampled responses.", "tokens", {"ppo/response_length": ("grey", "")},
         {"y_floor": 0, "y_include": (0.0,)}),
        ("Unfinished responses", "Share of responses that reached the length limit without an end token.", "share",
         {"ppo/missing_eos": ("grey", "")}, {"y_floor": 0, "y_include": (0.0,), "y_format": whole}),
        ("Clip fraction", "Share of tokens whose ratio was clipped. Far above 0.3 the steps are too large.", "share",
         {"ppo/clip_fraction": ("grey", "")}, {"y_floor": 0, "y_include": (0.0,), "y_format": whole}),
        ("Explained variance", "Of the returns by the critic. 1 predicts them fully, 0 no better than their mean; "
         "learning can go on at 0.", "share", {"critic/explained_variance": ("grey", "")},
         {"y_ceiling": 1, "y_include": (0.0, 1.0)}),
    ]  # fmt: skip
    panels = []
    for title, caption, unit, lines, options in specs:
        drawn = [
            Series(points, color, label if len(lines) > 1 else "", dots=False)
            for name, (color, label) in lines.items()
            if (points := curve(rows, name))
        ]
        if not drawn:
            continue
        rules = []
        if title == "Spread of the scores" and saturation is not None:
            rules.append(Rule(saturation, "update skipped below"))
        highest = max(p.y for s in drawn for p in s.points)
        if title == "KL" and kl_limit is not None and highest > kl_limit / 2:
            rules.append(Rule(kl_limit, "guard's limit"))
        last = len(rows) - 1
        axes = replace(
            _PANEL,
            x_label="iteration",
            y_label=unit,
            x_range=(0, last) if last else (-0.5, 0.5),
            x_ticks=[t for t in ticks(0, last, 6) if t == int(t)],
            boundaries=stage_starts(rows),
            **options,
        )
        panels.append(
            Panel(title, caption, line_chart(drawn, axes, title=f"{title} by iteration", rules=rules))
        )
    return panels


def stage_starts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """The first iteration of each stage with the stage's number."""
    starts: dict[int, float] = {}
    for row in rows:
        starts.setdefault(row["stage"], row["iteration"])
    return [(at, f"A{stage}") for stage, at in starts.items()]


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """A figure of rows by their `iteration`; of more than `MAX_DRAWN`, means of neighbours."""
    points = [(row["iteration"], row[name]) for row in rows if name in row]
    size = -(-len(points) // MAX_DRAWN) or 1
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [Point(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def cross_play(facts: Facts, key: str, title: str) -> Markup | None:
    """Reward model of stage i (row) on the generator of stage j (column)."""
    cells = {
        (row["rm"], row["generator"]): (
            row[key],
            f"RM of stage {row['rm']} on generator of stage {row['generator']}: {row[key]:.3f}"
            + (f", n = {plain(row['n'])}" if "n" in row else ""),
        )
        for row in facts["crossPlay"]
        if key in row
    }
    if not cells:
        return None
    return heatmap(
        cells,
        rows=sorted({rm for rm, _ in cells}),
        columns=sorted({generator for _, generator in cells}),
        heading="row: reward model of stage; column: generator of stage",
        title=title,
        ink=diverging,
    )


def diverging(value: float) -> str:
    """CSS class by distance from 0.5: `up0` … `up4`, `down0` … `down4`."""
    level = min(4, int(abs(value - 0.5) * 10))
    return f"{'up' if value >= 0.5 else 'down'}{level}"

"""Titled charts of the reward model's trustworthiness and of PPO, each with the sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gapo.report.chart_model import Axes, LineChart, Rule, Series
from gapo.report.charts import by_stage, curve, figure_points, stage_starts, stages_of, whole
from gapo.report.formatting import plain, share
from gapo.report.report_model import Report, StageFigure
from gapo.report.scales import ticks

_AXES = Axes(right=18)
CHANCE = Rule(0.5, "chance")
_FROM_ZERO = replace(_AXES, y_floor=0, y_include=(0.0,))


@dataclass(frozen=True)
class Panel:
    """A titled chart with the sentence that says how to read it."""

    title: str
    caption: str
    chart: LineChart


def health(report: Report) -> list[Panel]:
    """How far the reward model can be trusted, one panel a figure."""
    health, zero = report.health, Rule(0.0, "none")
    gap = report.number("guards", "memorisation", "gap")
    limit = [Rule(gap, "guard's limit")] if gap is not None else []
    panels = (
        fidelity_auc(report),
        fidelity_ece(report),
        _by_stage(
            "Prompt-swap gap",
            "Mean score of a generated response under its own prompt minus under another one. Near 0 the reward model "
            "reads the response alone.",
            health.prompt_swap_gap,
            "green",
            replace(_AXES, y_label="score", y_include=(0.05,)),
            [zero],
        ),
        _by_stage(
            "Memorisation gap",
            "Mean score of accepted training rows minus accepted held-out rows. High means that the reward model knows "
            "its rows.",
            health.memorisation_gap,
            "orange",
            replace(_AXES, y_label="score"),
            [zero, *limit],
        ),
        _by_stage(
            "Style separability",
            "How well a probe that sees the response alone tells accepted from generated ones. High: the reward model "
            "can win by style.",
            health.style_separability,
            "orange",
            replace(_AXES, y_label="balanced accuracy", y_ceiling=1),
            [CHANCE],
        ),
        _by_stage(
            "Label noise",
            "Share of generated samples trained on as violations although the verifier passes them. It grows with a "
            "better generator.",
            health.label_noise,
            "orange",
            replace(_FROM_ZERO, y_label="share", y_format=whole),
            form=share,
        ),
        _by_stage(
            "Score minus satisfaction",
            "Mean score of validation samples minus the share that satisfies every constraint. A level is calibration; "
            "growing while satisfaction does not is the generator finding what the reward model gets wrong.",
            health.score_gap,
            "red",
            replace(_AXES, y_label="difference"),
            [zero],
        ),
    )
    return [panel for panel in panels if panel is not None]


def fidelity_auc(report: Report) -> Panel | None:
    return _by_stage(
        "Fidelity: AUC",
        "The reward model against the verifier on the generator's own fresh samples. 1 ranks every satisfying response "
        "first, 0.5 is chance.",
        report.health.fidelity_auc,
        "blue",
        replace(_AXES, y_label="AUC", y_ceiling=1),
        [CHANCE],
    )


def fidelity_ece(report: Report) -> Panel | None:
    return _by_stage(
        "Fidelity: calibration error",
        "Expected calibration error on the same samples: how far a score is from the share that really satisfies. "
        "Lower is better.",
        report.health.fidelity_ece,
        "blue",
        replace(_FROM_ZERO, y_label="ECE"),
    )


def _by_stage(
    title: str,
    caption: str,
    rows: Sequence[StageFigure],
    color: str,
    axes: Axes,
    rules: Sequence[Rule] = (),
    form: Callable[[float], str] = plain,
) -> Panel | None:
    if not rows:
        return None
    axes = replace(by_stage(axes, stages_of(rows)), x_label="stage")
    chart = LineChart(title, [Series(figure_points(rows, form), color)], axes, rules)
    return Panel(title, caption, chart)


@dataclass(frozen=True)
class Curves:
    """What one panel of PPO's shows of its iterations."""

    title: str
    caption: str
    lines: Mapping[str, tuple[str, str]]
    """Figure → colour, and the label of its line where there are several."""
    axes: Axes


REWARD = Curves(
    "Reward",
    "What PPO maximises: the transformed score. Levels of two stages are not comparable, for each has its own "
    "reward model.",
    {"ppo/reward": ("blue", "")},
    replace(_AXES, y_label="mean reward"),
)
KL = Curves(
    "KL",
    "How far the policy has moved, in nats a token: from the reference of the penalty, and from the supervised "
    "start.",
    {"ppo/kl": ("purple", "reference"), "ppo/kl_sft": ("orange", "start")},
    replace(_AXES, y_label="nats a token", right=58, y_include=(0.0,)),
)
_CURVES = (
    REWARD,
    Curves(
        "Score against verifier",
        "The reward model's score beside verified satisfaction of the same rollouts. The score rising while "
        "satisfaction falls is reward hacking.",
        {"ppo/score": ("blue", "score"), "ppo/satisfaction": ("green", "verified")},
        replace(_AXES, y_label="mean", y_floor=0, y_ceiling=1, right=54),
    ),
    Curves(
        "Spread of the scores",
        "Standard deviation of the scores in a batch. Near 0 the reward model is saturated and there is nothing to "
        "learn.",
        {"ppo/score_std": ("blue", "")},
        replace(_AXES, y_label="std", y_floor=0),
    ),
    KL,
    Curves(
        "Entropy",
        "Of the policy on its own samples. A fall to under 30\u202f% of the start warns of collapse.",
        {"ppo/entropy": ("purple", "")},
        replace(_FROM_ZERO, y_label="nats a token"),
    ),
    Curves(
        "Response length",
        "Mean length of the sampled responses.",
        {"ppo/response_length": ("grey", "")},
        replace(_FROM_ZERO, y_label="tokens"),
    ),
    Curves(
        "Unfinished responses",
        "Share of responses that reached the length limit without an end token.",
        {"ppo/missing_eos": ("grey", "")},
        replace(_FROM_ZERO, y_label="share", y_format=whole),
    ),
    Curves(
        "Clip fraction",
        "Share of tokens whose ratio was clipped. Far above 0.3 the steps are too large.",
        {"ppo/clip_fraction": ("grey", "")},
        replace(_FROM_ZERO, y_label="share", y_format=whole),
    ),
    Curves(
        "Explained variance",
        "Of the returns by the critic. 1 predicts them fully, 0 no better than their mean; learning can go on at 0.",
        {"critic/explained_variance": ("grey", "")},
        replace(_AXES, y_label="share", y_ceiling=1, y_include=(0.0, 1.0)),
    ),
)


def iterations(report: Report) -> list[Panel]:
    """PPO's curves over all stages; a dotted line is a stage's first iteration."""
    panels = (curves_panel(curves, report) for curves in _CURVES)
    return [panel for panel in panels if panel is not None]


def curves_panel(curves: Curves, report: Report) -> Panel | None:
    rows = report.ppo
    series = [
        Series(points, color, label, dots=False)
        for name, (color, label) in curves.lines.items()
        if (points := curve(rows, name))
    ]
    if not series:
        return None
    last = len(rows) - 1
    rules = _limits(curves, series, report)
    axes = replace(
        curves.axes,
        x_label="iteration",
        x_range=(0, last) if last else (-0.5, 0.5),
        x_ticks=[tick for tick in ticks(0, last, 6) if tick == int(tick)],
        boundaries=stage_starts(rows),
    )
    chart = LineChart(f"{curves.title} by iteration", series, axes, rules)
    return Panel(curves.title, curves.caption, chart)


def _limits(curves: Curves, series: Sequence[Series], report: Report) -> list[Rule]:
    saturation = report.number("ppo", "reward", "saturationStd")
    if "ppo/score_std" in curves.lines and saturation is not None:
        return [Rule(saturation, "update skipped below")]
    budget = report.number("guards", "kl", "natsPerToken")
    highest = max(point.y for one in series for point in one.points)
    # A budget far above the curve would flatten it.
    if "ppo/kl" in curves.lines and budget is not None and highest > budget / 2:
        return [Rule(budget, "guard's limit")]
    return []

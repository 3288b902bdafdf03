"""When more stages no longer pay (docs/method/stages.md#convergence, docs/convergence.md).

The run has converged when, at `looks` consecutive stages, the upper bound of the gain between the last `window`
stages and the `window` before is below `window * min_delta`. The looks at earlier stages are computed again from
the series, so nothing but the committed satisfactions is needed and a restart cannot change the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean


@dataclass(frozen=True)
class ConvergenceSettings:
    """`convergence` of the spec; `every` is `evaluation.every`, the stages between two points of the series."""

    enabled: bool = True
    window: int = 4
    min_delta: float = 0.01
    """Gain a stage, as a share of prompts, under which a run counts as settled."""
    quantile: float = 2.35
    """95 % point of Student's t with 3 degrees of freedom: one-sided."""
    looks: int = 2
    every: int = 1

    @property
    def min_points(self) -> int:
        """Points that the first possible stop needs: two windows, and one more for each further look."""
        return 2 * self.window + self.looks - 1


@dataclass(frozen=True)
class StageSatisfaction:
    """Verified satisfaction of sampled completions of one stage."""

    stage: int
    rate: float
    """Share of the `n` completions that satisfy every constraint, in [0, 1]."""
    n: int


class ConvergenceOutcome(StrEnum):
    CONTINUE = "continue"
    CONVERGED = "converged"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class ConvergenceVerdict:
    """`undecided` goes on like `continue`, but says that the measurement, not the run, is the reason."""

    kind: ConvergenceOutcome
    reason: str
    evidence: dict[str, float]


@dataclass(frozen=True)
class Look:
    """One comparison of two neighbouring windows; all figures are shares of prompts."""

    stage: int
    delta: float
    se_binomial: float
    se_residual: float
    upper: float
    half_width: float
    settled: bool


def look_at(points: Sequence[StageSatisfaction], settings: ConvergenceSettings) -> Look:
    """Compares the two windows that end at the last of `points`, of which there must be at least 2 * window."""
    w = settings.window
    earlier, recent = points[-2 * w : -w], points[-w:]
    delta = fmean(p.rate for p in recent) - fmean(p.rate for p in earlier)
    binomial = math.sqrt(sum(_binomial_variance(p) for p in (*earlier, *recent))) / w
    residual = _residual_se(earlier, recent)
    half_width = settings.quantile * max(binomial, residual)
    upper = delta + half_width
    return Look(
        stage=points[-1].stage,
        delta=delta,
        se_binomial=binomial,
        se_residual=residual,
        upper=upper,
        half_width=half_width,
        settled=upper < w * settings.every * settings.min_delta,
    )


def judge_convergence(
    series: Sequence[StageSatisfaction], settings: ConvergenceSettings | None = None
) -> ConvergenceVerdict:
    """Says whether the run has settled at the last stage of `series`.

    `series` holds the evaluated stages of the current lineage in order, stage 0 excluded: stage 0 is supervised
    training, and its gain says nothing about the adversarial stages. Raises ValueError on a series that is not
    strictly ascending from 1, or holds a rate outside [0, 1] or no samples.
    """
    settings = settings or ConvergenceSettings()
    _check(series)
    if not settings.enabled:
        return ConvergenceVerdict(
            ConvergenceOutcome.CONTINUE, "convergence is off; only stages.max ends the run", {}
        )
    if len(series) < settings.min_points:
        return ConvergenceVerdict(
            ConvergenceOutcome.CONTINUE,
            f"{len(series)} of the {settings.min_points} evaluated stages that a run needs before it can count as settled",
            {"points": len(series)},
        )
    looks = [look_at(series[: len(series) - back], settings) for back in range(settings.looks)]
    now = looks[0]
    threshold = settings.window * settings.every * settings.min_delta
    evidence = {
        "points": float(len(series)),
        "delta": now.delta,
        "se_binomial": now.se_binomial,
        "se_residual": now.se_residual,
        "upper": now.upper,
        "threshold": threshold,
        "settled_looks": float(_leading(looks)),
    }
    if len(looks) > 1:
        evidence["previous_upper"] = looks[1].upper
    gain = (
        f"the last {settings.window} evaluated stages gained {100 * now.delta:+.1f} pp "
        f"(at most {100 * now.upper:+.1f}) over the {settings.window} before"
    )
    if all(look.settled for look in looks):
        return ConvergenceVerdict(
            ConvergenceOutcome.CONVERGED,
            f"{gain}, under {100 * threshold:.1f} pp at {settings.looks} consecutive looks",
            evidence,
        )
    # A bound this wide would not let even a flat curve stop: the measurement is too coarse to tell.
    if now.half_width >= threshold and now.delta < threshold:
        return ConvergenceVerdict(
            ConvergenceOutcome.UNDECIDED, _too_coarse(series, now, settings, threshold), evidence
        )
    if now.settled:
        return ConvergenceVerdict(
            ConvergenceOutcome.CONTINUE, f"{gain}; settled at this look, not at the one before", evidence
        )
    return ConvergenceVerdict(
        ConvergenceOutcome.CONTINUE, f"{gain}; settled means at most {100 * threshold:.1f} pp", evidence
    )


def _check(series: Sequence[StageSatisfaction]) -> None:
    for previous, stage in pairwise((0, *(p.stage for p in series))):
        if stage <= previous:
            raise ValueError(
                f"stage {stage} after stage {previous}: stages ascend, and stage 0 takes no part"
            )
    for point in series:
        if not 0 <= point.rate <= 1 or point.n < 1:
            raise ValueError(
                f"stage {point.stage}: rate {point.rate} of {point.n} samples is not a satisfaction"
            )


def _binomial_variance(point: StageSatisfaction) -> float:
    """Variance of the rate; one success and one failure are added, for 4 of 4 is not a certainty."""
    p = (point.rate * point.n + 1) / (point.n + 2)
    return p * (1 - p) / point.n


def _residual_se(earlier: Sequence[StageSatisfaction], recent: Sequence[StageSatisfaction]) -> float:
    """Standard error of the difference of the windows' means, from the scatter about each window's own line.

    About the line, not the mean, or a steady gain would count as noise. Two points define their line and have no
    scatter: windows of 2 rest on the binomial error alone.
    """
    w = len(recent)
    if w < 3:
        return 0.0
    squares = _squares_about_line(earlier) + _squares_about_line(recent)
    return math.sqrt(squares / (2 * (w - 2)) * 2 / w)


def _squares_about_line(points: Sequence[StageSatisfaction]) -> float:
    rates = [p.rate for p in points]
    mean, centre = fmean(rates), (len(rates) - 1) / 2
    slope = sum((i - centre) * r for i, r in enumerate(rates)) / sum(
        (i - centre) ** 2 for i in range(len(rates))
    )
    return sum((r - mean - slope * (i - centre)) ** 2 for i, r in enumerate(rates))


def _leading(looks: Sequence[Look]) -> int:
    """Consecutive settled looks, counted back from the newest."""
    count = 0
    for look in looks:
        if not look.settled:
            break
        count += 1
    return count


def _too_coarse(
    series: Sequence[StageSatisfaction], look: Look, settings: ConvergenceSettings, threshold: float
) -> str:
    start = f"cannot tell: the gain is known to ±{100 * look.half_width:.1f} pp only, settled means under {100 * threshold:.1f} pp"
    if look.se_binomial < look.se_residual:
        return f"{start}; satisfaction scatters from stage to stage (lower the learning rates or raise rolloutsPerIteration)"
    spread = sum(_binomial_variance(p) * p.n for p in series[-2 * settings.window :])
    needed = math.floor(spread * (settings.quantile / threshold / settings.window) ** 2) + 1
    return (
        f"{start}; evaluate at least {needed} completions a stage (evaluation.prompts × evaluation.samples)"
    )

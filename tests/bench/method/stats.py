"""Paired differences by seed: Student's interval, and the verdict on a claim (docs/method/comparison.md#verdicts)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from tests.bench.method.plan import ENOUGH_SEEDS

from gapo_trainer.stats import rates

LEAST_EFFECT = 0.01
"""A smaller effect is no effect, however sure: one point of satisfaction."""
POWER = 0.8

Word = Literal["reproduced", "contradicted", "undecided", "too few seeds"]


@dataclass(frozen=True)
class Effect:
    """A mean over seeds with its 95 % t-interval; `lo` and `hi` are infinite for one seed."""

    mean: float
    lo: float
    hi: float
    n: int
    sd: float
    """Between seeds; NaN for one."""

    @property
    def detectable(self) -> float:
        """The least mean that these seeds' spread would let an interval exclude 0 for in four cases of five."""
        if self.n < 2:
            return math.inf
        quantiles = t_quantile(0.975, self.n - 1) + t_quantile(POWER, self.n - 1)
        return quantiles * self.sd / math.sqrt(self.n)

    @property
    def p(self) -> float:
        """Two-sided, of Student's test against 0; 1 for one seed."""
        if self.n < 2:
            return 1.0
        if self.sd == 0:
            return 0.0 if self.mean else 1.0
        return 1 - rates.t_central_mass(abs(self.mean) * math.sqrt(self.n) / self.sd, self.n - 1)


def effect(values: Sequence[float]) -> Effect:
    """Mean and interval of one value a seed. Raises ValueError without any."""
    if not values:
        raise ValueError("no seeds, no effect")
    n, mean = len(values), fmean(values)
    if n == 1:
        return Effect(mean, -math.inf, math.inf, 1, math.nan)
    sd = stdev(values)
    half = t_quantile(0.975, n - 1) * sd / math.sqrt(n)
    return Effect(mean, mean - half, mean + half, n, sd)


def verdict(found: Effect, enough: int = ENOUGH_SEEDS) -> Word:
    """Reproduced: the interval lies above 0 and the effect is at least a point; contradicted: the other direction."""
    if found.n < enough:
        return "too few seeds"
    if found.lo > 0 and found.mean >= LEAST_EFFECT:
        return "reproduced"
    if found.hi < 0 and found.mean <= -LEAST_EFFECT:
        return "contradicted"
    return "undecided"


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given (Holm 1979)."""
    found = [0.0] * len(ps)
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = worst
    return found


def t_quantile(p: float, df: int) -> float:
    """Student's t: the x with P(T <= x) = p, for 0.5 < p < 1."""
    return rates.t_quantile(2 * p - 1, df)

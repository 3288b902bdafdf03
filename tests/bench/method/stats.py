"""Paired differences by seed: Student's interval, and the verdict on a claim (docs/method.md 19)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal

from tests.bench.method.plan import ENOUGH_SEEDS

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


@cache
def t_quantile(p: float, df: int) -> float:
    """Student's t: the x with P(T <= x) = p, for 0.5 <= p < 1, to about 1e-6. By bisection on Simpson's rule."""
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)

    def density(x: float) -> float:
        return float(constant * (1 + x * x / df) ** (-(df + 1) / 2))

    def below(x: float, parts: int = 400) -> float:
        step = x / parts
        inner = sum((4 if i % 2 else 2) * density(i * step) for i in range(1, parts))
        return 0.5 + step / 3 * (density(0.0) + inner + density(x))

    low, high = 0.0, 1.0
    while below(high) < p:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < p else (low, middle)
    return (low + high) / 2

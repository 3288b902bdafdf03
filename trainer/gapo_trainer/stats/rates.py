"""Rates with intervals that respect how the samples were drawn: several of one prompt are not independent.

A prompt that is easy is easy for all its samples, so the prompt is the unit of sampling. Rates over clusters of
unequal size are ratio estimators with the linearised variance (Cochran 1977, Sampling Techniques, eq. 6.13; the same
as the cluster-robust variance of a mean, and with equal sizes the variance of the per-prompt means).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gapo_trainer.stats.reward_model import auc, wilson

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its 95 % interval; `n` counts observations, not clusters."""

    value: float
    low: float
    high: float
    n: int

    def metrics(self, name: str) -> dict[str, float]:
        """`name` with `_lo`, `_hi` and `_n`, as manifests hold it."""
        return {name: self.value, f"{name}_lo": self.low, f"{name}_hi": self.high, f"{name}_n": float(self.n)}


@lru_cache(maxsize=64)
def t_quantile(confidence: float, df: int) -> float:
    """The two-sided quantile t of Student's distribution: P(|T| <= t) = confidence, with `df` degrees of freedom.

    From the closed form for integer degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4) by bisection.
    """
    if not 0 < confidence < 1 or df < 1:
        raise ValueError(f"confidence {confidence} must lie in (0, 1) and df {df} be at least 1")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _mass_within_angle(middle, df) < confidence:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(df)


def t_central_mass(t: float, df: int) -> float:
    """P(|T| <= t) of Student's T with `df` degrees of freedom, for t >= 0."""
    return _mass_within_angle(math.atan(t / math.sqrt(df)), df)


def _mass_within_angle(theta: float, df: int) -> float:
    """P(|T| <= sqrt(df) * tan(theta)) of Student's T."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(df // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
        if term < 1e-17:
            break
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def clustered_rate(successes: Sequence[int], trials: Sequence[int]) -> Estimate:
    """The rate of success over all trials, with a t-interval clustered by prompt.

    `successes[i]` of `trials[i]` are those of prompt i; prompts without trials are left out. Cut to [0, 1]. Where
    each prompt has one trial, they are independent and the interval is Wilson's. Where all prompts have the same
    rate, their spread says nothing, and the interval is Wilson's with a prompt as one observation.
    Raises ValueError where there are no trials, or more successes than trials.
    """
    kept = [(s, m) for s, m in zip(successes, trials, strict=True) if m > 0]
    if not kept:
        raise ValueError("no trials: a rate needs at least one")
    if any(not 0 <= s <= m for s, m in kept):
        raise ValueError("successes must lie between 0 and the number of trials")
    prompts, n = len(kept), sum(m for _, m in kept)
    rate = sum(s for s, _ in kept) / n
    squares = sum((s - rate * m) ** 2 for s, m in kept)
    if prompts == n or prompts == 1 or squares < 1e-12:
        low, high = wilson(rate * prompts, prompts)
        # The formula's own bounds there, without its rounding.
        return Estimate(rate, low if rate > 0 else 0.0, high if rate < 1 else 1.0, n)
    half = t_quantile(CONFIDENCE, prompts - 1) * math.sqrt(squares * prompts / (prompts - 1)) / n
    return Estimate(rate, max(0.0, rate - half), min(1.0, rate + half), n)


def clustered_auc(scores: Sequence[float], passed: Sequence[bool], prompts: Sequence[str]) -> Estimate | None:
    """The AUC of `scores` for what passed against what did not, with a t-interval clustered by prompt; `n` counts samples.

    The variance is that of the placements' sums by prompt (Obuchowski 1997; with one sample a prompt DeLong's, 1988).
    None where nothing passed, or everything. Where the placements do not vary, as at an AUC of 1, the interval is
    Wilson's over the prompts of the rarer side.
    """
    high = [s for s, ok in zip(scores, passed, strict=True) if ok]
    low = [s for s, ok in zip(scores, passed, strict=True) if not ok]
    if not high or not low:
        return None
    value = auc(high, low)
    by_prompt: dict[str, float] = {}
    for score, ok, prompt in zip(scores, passed, prompts, strict=True):
        placed = auc([score], low) - value if ok else auc(high, [score]) - value
        by_prompt[prompt] = by_prompt.get(prompt, 0.0) + placed / len(high if ok else low)
    clusters = len(by_prompt)
    squares = math.fsum(x * x for x in by_prompt.values())
    if clusters == 1 or squares < 1e-12:
        sides = [
            len({p for p, ok in zip(prompts, passed, strict=True) if bool(ok) == wanted})
            for wanted in (True, False)
        ]
        return Estimate(value, *wilson(value * min(sides), min(sides)), len(scores))
    half = t_quantile(CONFIDENCE, clusters - 1) * math.sqrt(squares * clusters / (clusters - 1))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), len(scores))


def paired_gain(after: Mapping[str, float], before: Mapping[str, float]) -> Estimate:
    """Mean of after - before by prompt, with a t-interval over prompts; `n` counts prompts.

    Both map prompt ids to that prompt's share of satisfying samples, in [0, 1]. Where no difference differs from
    another, the half width is the upper end of Wilson's interval for 0 of n: what was not seen may still be.
    Raises ValueError where the prompts are not the same, or none.
    """
    if after.keys() != before.keys() or not after:
        raise ValueError(
            f"a paired difference needs the same prompts: {len(after)} and {len(before)} were given"
        )
    differences = [after[prompt] - before[prompt] for prompt in sorted(after)]
    n = len(differences)
    mean = math.fsum(differences) / n
    squares = math.fsum((d - mean) ** 2 for d in differences)
    if n == 1 or squares < 1e-12:
        half = wilson(0, n)[1]
    else:
        half = t_quantile(CONFIDENCE, n - 1) * math.sqrt(squares / (n - 1) / n)
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half), n)

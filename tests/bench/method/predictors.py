"""Which figure of a run goes along with what retraining gains: correlation over seeds, with Fisher's interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, correlation, fmean
from typing import Any

from tests.bench.method import plan
from tests.bench.method.comparisons import paired, reported
from tests.bench.method.plan import Comparison
from tests.bench.method.result import Result

FEWEST_SEEDS = 5
GAINS = ("gapo-zero", "gapo-one", plan.BEST_VARIANT, plan.CONTROL)
"""Arms whose gain over the RM trained on is to be predicted."""

Arms = Mapping[str, Result]
"""One seed's results, by arm."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over `n` seeds with its 95 % interval (Fisher 1921), and Spearman's, which a few far seeds sway less."""

    r: float
    lo: float
    hi: float
    n: int
    rank: float


def correlate(xs: Sequence[float], ys: Sequence[float]) -> Correlation | None:
    """None below `FEWEST_SEEDS`, or where one of the two does not vary. Raises ValueError for unequal lengths."""
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} and {len(ys)} values are no pairs")
    n = len(xs)
    if n < FEWEST_SEEDS or min(len(set(xs)), len(set(ys))) < 2:
        return None
    r, rank = correlation(xs, ys), correlation(_ranks(xs), _ranks(ys))
    if abs(r) > 1 - 1e-12:
        return Correlation(r, r, r, n, rank)
    half = NormalDist().inv_cdf(0.975) / math.sqrt(n - 3)
    return Correlation(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n, rank)


def _ranks(values: Sequence[float]) -> list[float]:
    """From the least up; equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def predictions(results: Sequence[Result]) -> dict[str, dict[str, Correlation]]:
    """Diagnostic → arm of `GAINS` → correlation with its gain over the RM trained on; without what cannot be said.

    Raises ValueError for tuning seeds.
    """
    seeds: dict[int, dict[str, Result]] = {}
    for r in reported(results):
        seeds.setdefault(r.seed, {})[r.arm] = r
    found: dict[str, dict[str, Correlation]] = {}
    for arm in GAINS:
        gains = paired(results, Comparison(arm, plan.TRAINED_ON))
        for name, diagnostic in DIAGNOSTICS.items():
            known = [
                (value, gain)
                for seed, gain in gains.items()
                if (value := diagnostic(seeds[seed])) is not None
            ]
            told = correlate([value for value, _ in known], [gain for _, gain in known])
            if told is not None:
                found.setdefault(name, {})[arm] = told
    return found


def _at(
    arm: str, stage: int, read: Callable[[Mapping[str, Any]], float | None]
) -> Callable[[Arms], float | None]:
    """A figure of an arm's evaluation at a stage, counted from the last where negative."""
    return lambda arms: read(arms[arm].stages[stage]) if arm in arms else None


def _auc(stage: Mapping[str, Any]) -> float | None:
    return stage.get("auc")  # lacks where all samples pass, or none


def _fooled(stage: Mapping[str, Any]) -> float | None:
    """Share of the failing samples that score 1/2 or more."""
    failed = stage.get("judged", {}).get("failed")
    return failed["high"] if failed else None


def _noise(arms: Arms) -> float | None:
    trained = arms["gapo-zero"].reward_model if "gapo-zero" in arms else []
    told = [rm["labelNoise"] for rm in trained if "labelNoise" in rm]
    return fmean(told) if told else None


def _pairs(arms: Arms) -> float | None:
    return arms[plan.SFT].reward_model[0].get("pairs") if plan.SFT in arms else None


DIAGNOSTICS: dict[str, Callable[[Arms], float | None]] = {
    "satisfaction of the start": _at(plan.SFT, 0, lambda stage: stage["satisfaction"]),
    "pair accuracy of the first RM, held-out original pairs": _pairs,
    "AUC of the first RM on the start's samples": _at(plan.SFT, 0, _auc),
    "failing samples of the start that score 1/2 or more": _at(plan.SFT, 0, _fooled),
    "AUC of the frozen RM, last stage": _at(plan.FROZEN, -1, _auc),
    "failing samples that score 1/2 or more, frozen RM, last stage": _at(plan.FROZEN, -1, _fooled),
    "samples labelled 0 that pass, `gapo-zero`, mean of stages": _noise,
}
"""What can be seen before or without the retraining, but for the last."""

"""A stage in numbers: its manifest's metrics, the guards' inputs and the histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from gapo_trainer.evaluate.lengths import by_length, score_length_correlation
from gapo_trainer.evaluate.samples import Sample
from gapo_trainer.ppo.state import Progress
from gapo_trainer.ppo.trainer import RATIO_FIRST, TOTALS

BINS = 20
UPDATE_METRICS = ("ppo/policy_loss", "ppo/value_loss", "ppo/approx_kl", "ppo/clip_fraction", RATIO_FIRST)
"""0 for a stage in which every update was skipped; absent from a skipped iteration's row."""


def stage_metrics(progress: Progress, samples: Sequence[Sample]) -> dict[str, float]:
    """The manifest's metrics: totals for counts and clocks, the largest first ratio, means for the rest."""
    names = sorted({name for row in progress.rows for name in row if name != "step"})
    metrics = dict.fromkeys(UPDATE_METRICS, 0.0)
    for name in names:
        values = [row[name] for row in progress.rows if name in row]
        if name in TOTALS or name.startswith("wall/"):
            metrics[name] = math.fsum(values)
        elif name == RATIO_FIRST:
            metrics[name] = max(values)
        else:
            metrics[name] = fmean(values)
    metrics |= progress.warmup
    metrics |= thirds("guard/score", progress.scores)
    if progress.passed:
        metrics |= thirds("guard/satisfaction", [float(ok) for ok in progress.passed])
    for side, value in score_length_correlation(samples).items():
        metrics[f"ppo/score_length_correlation_{side}"] = value
    return metrics


def thirds(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error over the first and the last third of a stage's rollouts."""
    size = max(1, len(values) // 3)
    found = {}
    for end, part in (("first", values[:size]), ("last", values[-size:])):
        found[f"{name}_{end}"] = fmean(part)
        found[f"{name}_{end}_se"] = pstdev(part) / math.sqrt(len(part))
    return found


def histogram(values: Sequence[float], low: float, high: float) -> dict[str, list[float]]:
    """`{edges, counts}` of 20 equal bins over [low, high]; the last holds its upper edge, values outside go to the ends."""
    counts = [0.0] * BINS
    for value in values:
        place = int((value - low) / (high - low) * BINS) if high > low else 0
        counts[min(max(place, 0), BINS - 1)] += 1
    return {"edges": [low + (high - low) * i / BINS for i in range(BINS + 1)], "counts": counts}


def distributions(samples: Sequence[Sample], max_new_tokens: int) -> Mapping[str, Any]:
    """distributions.json of the final samples."""
    scores = [sample.score for sample in samples if sample.score is not None]
    return {
        "rmScores": {"generated": histogram(scores, 0.0, 1.0)},
        "lengths": histogram([len(sample.token_ids) for sample in samples], 0, max_new_tokens),
        "byLength": by_length(samples),
    }

"""A stage in numbers: its manifest's metrics, the guards' inputs and the histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gapo.decision_rules.guards import hacking_metrics
from gapo_trainer.ppo.iteration_metrics import RATIO_FIRST, TOTALS
from gapo_trainer.ppo.state import StageProgress
from gapo_trainer.rollout.samples import Sample
from gapo_trainer.stats.lengths import by_length, score_length_correlation

BINS = 20
UPDATE_METRICS = ("ppo/policy_loss", "ppo/value_loss", "ppo/approx_kl", "ppo/clip_fraction", RATIO_FIRST)
"""0 for a stage in which every update was skipped; absent from a skipped iteration's row."""


@dataclass(frozen=True)
class Share:
    """Which rollouts of an iteration a process holds: every `world`-th from `rank` on, `samples_per_prompt` in a row of
    one prompt."""

    samples_per_prompt: int = 1
    rank: int = 0
    world: int = 1

    def by_prompt(self, values: Sequence[float], iterations: int) -> list[list[float]]:
        """A stage's values of this process, in order -> an iteration each, the means of its prompts."""
        size = len(values) // max(1, iterations)
        prompts = [(self.rank + i * self.world) // self.samples_per_prompt for i in range(size)]
        starts = [i for i in range(size) if i == 0 or prompts[i] != prompts[i - 1]]
        spans = list(zip(starts, [*starts[1:], size], strict=True))
        rows = [values[at : at + size] for at in range(0, size * iterations, max(1, size))]
        if len(spans) == size:
            return [[float(value) for value in row] for row in rows]
        return [[fmean(row[a:b]) for a, b in spans] for row in rows]


def guard_metrics(progress: StageProgress, share: Share) -> dict[str, float]:
    """What the hacking guard reads; empty where nothing was verified. docs/convergence.md simulates this."""
    if not progress.passed:
        return {}
    iterations = len(progress.rows)
    return hacking_metrics(
        share.by_prompt(progress.scores, iterations), share.by_prompt(progress.passed, iterations)
    )


def stage_metrics(progress: StageProgress, samples: Sequence[Sample], share: Share) -> dict[str, float]:
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
    metrics |= progress.warmup | guard_metrics(progress, share)
    for side, value in score_length_correlation(samples).items():
        metrics[f"ppo/score_length_correlation_{side}"] = value
    return metrics


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

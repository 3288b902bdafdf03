"""Satisfaction and score against length: a reward model that pays for length shows here (docs/method/ppo.md#passing)."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from gapo_trainer.rollout.samples import Sample


def by_length(samples: Sequence[Sample], bins: int = 10) -> list[dict[str, Any]]:
    """Deciles of response length in tokens, shortest first: `{from, to, n, satisfaction?, score?}`.

    Equal lengths stay together, so that there are fewer than `bins` where lengths repeat. `satisfaction` is there
    where samples were verified, `score` where they were scored.
    """
    ordered = sorted(samples, key=lambda sample: len(sample.token_ids))
    lengths = [len(sample.token_ids) for sample in ordered]
    starts = sorted({lengths[len(lengths) * i // bins] for i in range(bins)}) if lengths else []
    groups: list[list[Sample]] = [[] for _ in starts]
    for sample, length in zip(ordered, lengths, strict=True):
        groups[bisect_right(starts, length) - 1].append(sample)
    return [_summary(group) for group in groups]


def _summary(group: Sequence[Sample]) -> dict[str, Any]:
    """Of a group sorted by length."""
    summary: dict[str, Any] = {
        "from": len(group[0].token_ids),
        "to": len(group[-1].token_ids),
        "n": len(group),
    }
    passed = [sample.passed for sample in group if sample.passed is not None]
    if passed:
        summary["satisfaction"] = sum(passed) / len(passed)
    scores = [sample.score for sample in group if sample.score is not None]
    if scores:
        summary["score"] = statistics.fmean(scores)
    return summary


def score_length_correlation(samples: Sequence[Sample]) -> dict[str, float]:
    """Pearson's correlation of score and length, apart for samples that pass and that fail.

    Given the verdict, length should say nothing about the score. A side with fewer than 3 samples, or with one
    length or one score only, has no correlation and is left out.
    """
    correlations = {}
    for name, wanted in (("passed", True), ("failed", False)):
        pairs = [
            (float(len(sample.token_ids)), sample.score)
            for sample in samples
            if sample.passed is wanted and sample.score is not None
        ]
        if len(pairs) >= 3:
            lengths, scores = zip(*pairs, strict=True)
            if len(set(lengths)) > 1 and len(set(scores)) > 1:
                correlations[name] = statistics.correlation(lengths, scores)
    return correlations

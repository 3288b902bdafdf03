"""Which of a stage's samples the reward model learns from, and under which prompts (`adversarial.selection`, `promptSwaps`)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gapo_trainer.reward.rows import Generated
from gapo_trainer.rollout.samples import judge, passes, read_prompts

Verifier = Callable[[str, Generated], bool | None]
"""(prompt, sample) to whether the sample's response passes under that prompt; None where nothing verifies."""


def verifier(prompts: Path) -> Verifier:
    """The verifier on the prompts of a prompts-*.jsonl; None for one that has no constraints to verify."""
    rows = read_prompts(prompts, sys.maxsize, verified=False)
    row_by_prompt = {str(row["prompt"]): row for row in rows if row.get("constraints")}

    def verdict(prompt: str, sample: Generated) -> bool | None:
        row = row_by_prompt.get(prompt)
        return passes(() if row is None else judge(row, sample.response), whole=sample.whole)

    return verdict


def hardest(samples: Sequence[Generated]) -> list[Generated]:
    """The half of the failing samples with the highest scores and the half of the passing ones with the lowest.

    In their order; halves are rounded up, of equal scores the earlier ones are taken. Needs verdicts and scores.
    """
    failing = [i for i, sample in enumerate(samples) if not sample.passed]
    passing = [i for i, sample in enumerate(samples) if sample.passed]
    failing.sort(key=lambda i: -_score(samples[i]))
    passing.sort(key=lambda i: _score(samples[i]))
    chosen = {*failing[: (len(failing) + 1) // 2], *passing[: (len(passing) + 1) // 2]}
    return [sample for i, sample in enumerate(samples) if i in chosen]


def near_misses(samples: Sequence[Generated], verify: Verifier) -> list[Generated]:
    """Each sample's response under the other sampled prompt that shares most words with its own; empty where there is
    one prompt only. Alike are prompts by the Jaccard index of their words; of equal ones the first is taken."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    if len(prompts) < 2:
        return []
    partner = dict(zip(prompts, _nearest(prompts), strict=True))
    misses = []
    for sample in samples:
        other = partner[sample.prompt]
        passed = verify(other, sample)
        misses.append(dataclasses.replace(sample, prompt=other, passed=passed, score=None, swapped=True))
    return misses


def _nearest(prompts: Sequence[str]) -> list[str]:
    words = [set(prompt.lower().split()) for prompt in prompts]
    column = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    present = np.zeros((len(prompts), len(column)), dtype=np.float32)
    for row, prompt_words in zip(present, words, strict=True):
        row[[column[word] for word in prompt_words]] = 1.0
    shared = present @ present.T
    size = present.sum(axis=1)
    alike = shared / np.maximum(size[:, None] + size[None, :] - shared, 1.0)
    np.fill_diagonal(alike, -1.0)
    return [prompts[i] for i in alike.argmax(axis=1)]


def _score(sample: Generated) -> float:
    return sample.score if sample.score is not None else 0.5

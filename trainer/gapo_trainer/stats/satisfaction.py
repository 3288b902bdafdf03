"""How often samples meet what was asked of them, over all and by family and prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gapo_trainer.rollout.samples import Sample
from gapo_trainer.stats.rates import Estimate, clustered_rate


def satisfaction(samples: Sequence[Sample]) -> Estimate:
    """The share of samples that pass, clustered by prompt."""
    passed, trials = Counter[str](), Counter[str]()
    for sample in samples:
        trials[sample.prompt_id] += 1
        passed[sample.prompt_id] += bool(sample.passed)
    return clustered_rate([passed[prompt] for prompt in trials], list(trials.values()))


def constraint_satisfaction(samples: Sequence[Sample]) -> tuple[Estimate, dict[str, Estimate]]:
    """The share of constraints that are met, over all of them and by family, clustered by prompt. A response that is not
    whole meets none: a limit on length, say, would be met by being cut off."""
    met: dict[str, Counter[str]] = {}
    asked: dict[str, Counter[str]] = {}
    for sample in samples:
        for family, ok in sample.verdicts:
            for name in ("", family):
                met.setdefault(name, Counter())[sample.prompt_id] += ok and sample.whole
                asked.setdefault(name, Counter())[sample.prompt_id] += 1
    rates = {
        name: clustered_rate([met[name][prompt] for prompt in counts], list(counts.values()))
        for name, counts in sorted(asked.items())
    }
    return rates.pop(""), rates


def rates_by_prompt(samples: Sequence[Sample]) -> dict[str, float]:
    """Each prompt's share of samples that pass."""
    outcomes: dict[str, list[bool]] = {}
    for sample in samples:
        outcomes.setdefault(sample.prompt_id, []).append(bool(sample.passed))
    return {prompt: sum(passed) / len(passed) for prompt, passed in outcomes.items()}

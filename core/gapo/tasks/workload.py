"""How much a task of each kind samples and trains on, from the spec alone: what `gapo plan` adds up."""

from __future__ import annotations

from dataclasses import dataclass

from gapo.api.run import GapoRunSpec


@dataclass(frozen=True)
class Workload:
    """Counts for one task."""

    rollouts: int = 0
    """Completions that it samples to train on."""
    completions: int = 0
    """Completions that it samples beside them: to be judged, or for another task to train on."""
    rows: int = 0
    """Rows that pass through each model that it trains, every pass counted."""


def nothing(_: GapoRunSpec) -> Workload:
    """Of kinds that neither sample nor train."""
    return Workload()


def sft(spec: GapoRunSpec) -> Workload:
    return Workload(rows=spec.sft.steps * spec.sft.batch)


def rm_warmup(spec: GapoRunSpec) -> Workload:
    model = spec.reward_model
    return Workload() if model is None else Workload(rows=model.warmup.steps * model.batch)


def rm(spec: GapoRunSpec) -> Workload:
    """Without a number of steps: two passes over the stage's samples and as many accepted rows."""
    model = spec.reward_model
    if model is None:
        return Workload()
    return Workload(rows=model.steps * model.batch if model.steps else 4 * spec.adversarial.samples_per_stage)


def ppo(spec: GapoRunSpec) -> Workload:
    rollouts = spec.stages.iterations * spec.stages.rollouts_per_iteration
    return Workload(
        rollouts=rollouts, completions=spec.adversarial.samples_per_stage, rows=rollouts * spec.ppo.epochs
    )


def evaluate(spec: GapoRunSpec) -> Workload:
    """Each prompt's samples, and its greedy response."""
    return Workload(completions=spec.evaluation.prompts * (spec.evaluation.samples + 1))


def export(spec: GapoRunSpec) -> Workload:
    """The best, the last and the first generator on the test split."""
    return Workload(completions=3 * spec.evaluation.test_prompts)

"""What an arm cost: completions, prompts, tokens by model, arithmetic (docs/method/comparison.md#equal-cost).
Stage 0 is not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.tasks import Kind, TaskKey
from gapo_trainer.rollout.sampler import Sampler

Metrics = Mapping[TaskKey, Mapping[str, float]]


@dataclass(frozen=True)
class Sizes:
    """Parameters. The critic is as large as the generator."""

    generator: int
    reward_model: int


def stage_flops(metrics: Metrics, stage: int, sizes: Sizes, spec: GapoRunSpec) -> float:
    """Arithmetic of a stage's training: 2 FLOPs a parameter and token forward, 4 backward; attention is left out.

    PPO reads each rollout's tokens once to sample them, once each for old and reference log-probabilities, values
    and the score, then forward and backward in actor and critic in every epoch. Evaluation is not counted: all arms
    are evaluated alike.
    """
    total = 0.0
    if stage > 0 and (sft := metrics.get(TaskKey(stage, Kind.SFT))):
        total += 6 * sizes.generator * sft["sft/trained_tokens"]
    if ppo := metrics.get(TaskKey(stage, Kind.PPO)):
        trained = ppo["ppo/trained_tokens"]
        read = trained / spec.ppo.epochs
        samples = read * spec.adversarial.samples_per_stage / max(1.0, ppo["ppo/rollouts"])
        total += 2 * read * (4 * sizes.generator + sizes.reward_model) + 12 * trained * sizes.generator
        total += 2 * samples * (sizes.generator + sizes.reward_model)
    if stage > 0 and (rm := metrics.get(TaskKey(stage, Kind.RM))):
        total += 6 * sizes.reward_model * rm["rm/trained_tokens"]
    return total


def ledger(metrics: Metrics, sizes: Sizes, spec: GapoRunSpec) -> dict[str, Any]:
    """Totals after stage 0, and the arithmetic up to the end of each stage."""
    stages = sorted({key.stage for key in metrics if key.stage > 0 and key.kind in (Kind.PPO, Kind.SFT)})
    so_far, by_stage = 0.0, [0.0]
    for stage in stages:
        so_far += stage_flops(metrics, stage, sizes, spec)
        by_stage.append(so_far)
    online = [stage for stage in stages if TaskKey(stage, Kind.PPO) in metrics]
    rollouts = sum(metrics[TaskKey(stage, Kind.PPO)]["ppo/rollouts"] for stage in online)
    prompts = int(metrics[TaskKey(0, Kind.DATA)]["data/train_prompts"])
    ppo = _total(metrics, Kind.PPO, "ppo/trained_tokens")
    return {
        "completions": int(rollouts) + len(online) * spec.adversarial.samples_per_stage,
        "uniquePrompts": unique_prompts(spec, prompts, online),
        "generatedTokens": _total(metrics, Kind.PPO, "ppo/generated_tokens"),
        "trainedTokens": {
            "generator": ppo + _total(metrics, Kind.SFT, "sft/trained_tokens"),
            "critic": ppo,
            "rewardModel": _total(metrics, Kind.RM, "rm/trained_tokens"),
        },
        "flopsByStage": by_stage,
        "parameters": {"generator": sizes.generator, "rewardModel": sizes.reward_model},
    }


def unique_prompts(spec: GapoRunSpec, prompts: int, stages: Sequence[int]) -> int:
    """How many of the training prompts PPO drew at least once, by drawing them again."""
    drawn: set[int] = set()
    for stage in stages:
        sampler = Sampler(
            [{}] * prompts,
            SimpleNamespace(all_special_ids=[], added_tokens_decoder={}),  # type: ignore[arg-type]
            SimpleNamespace(),
            spec.generation,
            seed=spec.seed,
            stage=stage,
            verified=False,
        )
        count = spec.stages.rollouts_per_iteration // spec.generation.samples_per_prompt
        for iteration in range(spec.stages.iterations):
            drawn.update(sampler.choose(count, iteration, spec.stages.prompt_sampling))
    return len(drawn)


def at_flops(by_stage: Sequence[float], values: Sequence[float], budget: float) -> float | None:
    """The value that an arm had when it had spent `budget`, between stages on a line.

    The last one where it ended up to 5 % short of it (lengths of responses differ), None where it ended before.
    """
    if by_stage[-1] < 0.95 * budget:
        return None
    for i in range(1, len(by_stage)):
        if budget <= by_stage[i]:
            share = (budget - by_stage[i - 1]) / (by_stage[i] - by_stage[i - 1])
            return values[i - 1] + share * (values[i] - values[i - 1])
    return values[-1]


def _total(metrics: Metrics, kind: Kind, name: str) -> int:
    return int(sum(m.get(name, 0.0) for key, m in metrics.items() if key.kind is kind and key.stage > 0))

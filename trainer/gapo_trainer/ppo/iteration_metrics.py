"""What one PPO iteration is measured by (docs/artifacts.md)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from gapo_trainer.engine import Engine
from gapo_trainer.policy_model import Policy
from gapo_trainer.ppo import math as ppo
from gapo_trainer.ppo.batch import Batch
from gapo_trainer.ppo.rewards import Terminal
from gapo_trainer.rollout.sampler import Rollouts

log = logging.getLogger(__name__)

MISMATCH_ALARM = 0.01
"""KL between sampler and trainer, nats a token, above which the importance weights hide a real difference."""
TOTALS = frozenset({"ppo/rollouts", "ppo/skipped_updates", "ppo/trained_tokens", "ppo/generated_tokens"})
"""Metrics that count; all others are means, but for the largest first ratio."""
LEAST_SPREAD = 1e-5
"""Std of the KL term below which it is rounding, and no ratio to it says anything."""
RATIO_FIRST = "ppo/ratio_first_minibatch_max"


def iteration_metrics(
    rollouts: Rollouts,
    scored: Terminal,
    batch: Batch,
    rewards: Tensor,
    returns: Tensor,
    kl_coef: float,
    stage: int,
    actor: Engine[Policy],
) -> dict[str, float]:
    """The metrics of an iteration but for the update's: of all processes' rollouts, from this process's tensors.

    rewards and returns [n, t]; `actor` adds up over the processes.
    """
    n = len(rollouts.prompts)
    reduce, mask = actor.all_reduce, batch.mask

    def mean(x: Tensor) -> float:
        return float(ppo.masked_mean(x, mask, reduce))

    def share(x: Sequence[float] | Sequence[bool]) -> float:
        return float(reduce(torch.tensor([float(sum(x)), float(len(x))]))[0]) / (n * actor.world)

    delta = batch.old_logprobs - batch.sampled_logprobs
    mismatch = mean(torch.expm1(delta) - delta)  # k3 of KL(sampler || trainer)
    if mismatch > MISMATCH_ALARM:
        log.warning("stage %d: sampler and trainer differ by %.3g nats a token", stage, mismatch)
    penalty = (kl_coef * ppo.masked_sum(batch.kl, mask, dim=1)).std(correction=0)
    generated = float(sum(len(row) for row in rollouts.token_ids))
    metrics = {
        "ppo/reward": share(rewards.sum(dim=1).tolist()),
        "ppo/score": share(scored.probability.tolist()),
        "ppo/score_std": scored.spread,
        "ppo/kl": mean(batch.kl_reference),
        "ppo/kl_sft": mean(batch.kl_start),
        "ppo/kl_coef": kl_coef,
        "ppo/entropy": mean(batch.entropy),
        "ppo/mismatch_mean": mean(delta.abs()),
        "ppo/mismatch_p99": float(torch.quantile(delta.abs()[mask].float()[:1_000_000], 0.99)),
        "ppo/mismatch_kl": mismatch,
        "critic/explained_variance": ppo.explained_variance(batch.values, returns, mask, reduce),
        "ppo/response_length": share([len(row) for row in rollouts.token_ids]),
        "ppo/missing_eos": 1.0 - share(rollouts.ended),
        "ppo/special_tokens_inside": share(rollouts.ended) - share(rollouts.clean),
        "ppo/distinct_responses": share([len(set(rollouts.responses))]),
        "ppo/skipped_updates": 0.0,
        "ppo/rollouts": float(n * actor.world),
        "ppo/trained_tokens": 0.0,
        "ppo/generated_tokens": float(reduce(torch.tensor(generated, dtype=torch.float64))),
    }
    if float(penalty) > LEAST_SPREAD:
        metrics["ppo/score_kl_std_ratio"] = scored.spread / float(penalty)
    passed = rollouts.passed
    if passed is not None:
        metrics["ppo/satisfaction"] = share(passed)
    return metrics

"""One optimiser step of the actor and one of the critic, each over a minibatch cut into micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gapo.api.training import Ppo
from gapo_trainer.engine import Engine
from gapo_trainer.models.networks import Critic
from gapo_trainer.policy_model import MicroBatch, Policy, take
from gapo_trainer.ppo import math as ppo


@dataclass(frozen=True)
class PolicyTargets:
    """What the actor is held against, [n, t] over all rollouts; weights are 0 outside the minibatch."""

    old_logprobs: Tensor
    sampled_logprobs: Tensor
    advantages: Tensor
    weights: Tensor


@dataclass(frozen=True)
class ValueTargets:
    """What the critic is held against, [n, t] over all rollouts; weights are 0 outside the minibatch."""

    old_values: Tensor
    returns: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Step:
    """What an optimiser step leaves."""

    sums: dict[str, Tensor]
    """Metrics, summed over the micro-batches."""
    grad_norm: float
    """Before clipping."""
    ratio_max: float = 0.0
    """Largest |ratio - 1|; the critic has no ratio."""


def policy_step(
    actor: Engine[Policy],
    micros: Sequence[MicroBatch],
    targets: PolicyTargets,
    cfg: Ppo,
    temperature: float,
    lr_factor: float,
) -> Step:
    """The losses add up to the minibatch's, because its weights do."""
    sums: dict[str, Tensor] = {}
    ratio_max = torch.zeros((), device=targets.weights.device)
    for i, micro in enumerate(micros):
        old, sampled, advantages, weights = (
            take(x, micro)
            for x in (targets.old_logprobs, targets.sampled_logprobs, targets.advantages, targets.weights)
        )
        with actor.micro_batch(last=i == len(micros) - 1):
            if cfg.entropy_coef:
                logprobs, entropy = micro.logprobs_and_entropy(actor.model, temperature)
            else:
                logprobs, entropy = micro.logprobs(actor.model, temperature), None
            inputs = ppo.PolicyInputs(logprobs, entropy, old, sampled, advantages, weights)
            loss, parts = ppo.policy_loss(inputs, cfg)
            actor.backward(loss)
        ratio_max = torch.maximum(ratio_max, parts.pop("ppo/ratio_max"))  # NaN stays NaN
        add(sums, parts)
    return Step(sums, actor.step(lr_factor), float(ratio_max))


def value_step(
    critic: Engine[Critic], micros: Sequence[MicroBatch], targets: ValueTargets, clip: float, lr_factor: float
) -> Step:
    """`clip` 0: the old values do not bind."""
    sums: dict[str, Tensor] = {}
    for i, micro in enumerate(micros):
        old, returns, weights = (
            take(x, micro) for x in (targets.old_values, targets.returns, targets.weights)
        )
        with critic.micro_batch(last=i == len(micros) - 1):
            inputs = ppo.ValueInputs(micro.values(critic.model), old, returns, weights)
            loss, parts = ppo.value_loss(inputs, clip)
            critic.backward(loss)
        add(sums, parts)
    return Step(sums, critic.step(lr_factor))


def add(sums: dict[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    """Adds `parts` to `sums`, name by name."""
    for name, part in parts.items():
        sums[name] = sums[name] + part if name in sums else part

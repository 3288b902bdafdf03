"""From the scorer's logits to the rewards that PPO sees (docs/method/ppo.md#reward)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gapo.api.training import Reward
from gapo.errors import InvariantError
from gapo_trainer.ppo.math import RunningStd

MAX_LOGIT = 30.0
"""A verifier's logits are infinite; a reward must not be."""


@dataclass(frozen=True)
class Terminal:
    """What each response earns at its last action."""

    probability: Tensor
    """[n] the scorer's Q(c, t), whatever the spec makes of it; for reports and guards."""
    reward: Tensor
    """[n] transformed, normalised, clipped, and replaced where the response did not end properly."""
    spread: float
    """Std of the batch's scores before normalisation."""
    std: RunningStd

    def saturated(self, cfg: Reward) -> bool:
        """True where the scores say nothing: all alike."""
        return self.spread < cfg.saturation_std


def _missing_score(rewards: Tensor, cfg: Reward) -> float:
    """What a response earns that did not end properly, beside the `rewards` of those that did: what the user gave, else
    never more than the worst of them. A probability is at least 0; a logit has no lower end, hence the batch's least."""
    if cfg.missing_eos_score is not None:
        return cfg.missing_eos_score
    if (cfg.transform, cfg.normalise) == ("probability", "none"):
        return 0.0
    least: float = min([-1.0, *rewards.tolist()])
    return least


def terminal(logits: Tensor, clean: Tensor, cfg: Reward, std: RunningStd, digest: str) -> Terminal:
    """logits [n], clean [n] bool (ended properly) -> the responses' terminal rewards.

    `std` is the running spread of this reward model's scores; another `digest` starts it anew. Raises InvariantError
    on NaN.
    """
    if bool(logits.isnan().any()):
        raise InvariantError("the reward model answers NaN; its weights have diverged")
    probability = logits.float().sigmoid()
    score = probability if cfg.transform == "probability" else logits.float().clamp(-MAX_LOGIT, MAX_LOGIT)
    scale = 1.0
    if cfg.normalise == "runningStd":
        std = std.after(score[clean], digest)
        scale = std.std
    scaled = (score / scale).clamp(-cfg.clip, cfg.clip)
    reward = torch.where(clean, scaled, torch.full_like(score, _missing_score(scaled[clean], cfg)))
    return Terminal(probability, reward, float(reward.std(correction=0)) * scale, std)

"""PPO's arithmetic: pure functions over tensors, no model, no device, no process group.

Shapes: b rows (episodes), t actions. Tensors are aligned with the response: column 0 is the first action, and
`action_mask` [b, t] is True for the first `length` columns of a row. What lies in the other columns (even NaN)
changes no result. Sums over processes come in as `all_reduce`.
Papers: PPO (Schulman et al. 2017), GAE (Schulman et al. 2016), adaptive KL (Ziegler et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gapo.api.training import Ppo

AllReduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes and returns it."""

MAX_LOG_RATIO = 20.0
MAX_IMPORTANCE = 2.0


def local(x: Tensor) -> Tensor:
    """The `all_reduce` of a single process."""
    return x


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of x [b, t] where mask [b, t], over everything or over `dim`."""
    kept = _zeroed(x, mask)
    return kept.sum() if dim is None else kept.sum(dim=dim)


def masked_mean(x: Tensor, mask: Tensor, all_reduce: AllReduce = local) -> Tensor:
    """Mean of x [b, t] where mask [b, t]; 0 where the mask is empty."""
    both = all_reduce(torch.stack([masked_sum(x, mask), mask.sum().to(x.dtype)]))
    return both[0] / both[1].clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, all_reduce: AllReduce = local) -> Tensor:
    """Biased variance of x [b, t] where mask [b, t]; 0 for one element or none."""
    mean = masked_mean(x, mask, all_reduce)
    return masked_mean((x - mean).square(), mask, all_reduce)


def masked_whiten(x: Tensor, mask: Tensor, all_reduce: AllReduce = local, eps: float = 1e-8) -> Tensor:
    """x [b, t] shifted and scaled to mean 0 and std 1 over the mask, all processes together; 0 outside it.

    The variance is the biased one, so that the std is 1 exactly; a constant x gives 0.
    """
    mean = masked_mean(x, mask, all_reduce)
    var = masked_mean((x - mean).square(), mask, all_reduce)
    return _zeroed((x - mean) * torch.rsqrt(var + eps), mask)


def gae(values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lambda_: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (eq. 16): A_i = sum_l (gamma lambda)^l delta_{i+l}.

    values [b, t] of the state before each action, rewards [b, t] -> advantages [b, t], returns [b, t] = A + V;
    both 0 outside the mask. The state after the last action is worth 0, also where the response was cut off.
    """
    values, rewards = _zeroed(values, mask), _zeroed(rewards, mask)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (
        rewards + gamma * following - values
    )  # 0 in the padding, so the recursion starts at the last action
    columns = []
    running = torch.zeros_like(values[:, 0])
    for i in range(values.shape[1] - 1, -1, -1):
        running = deltas[:, i] + gamma * lambda_ * running
        columns.append(running)
    advantages = _zeroed(torch.stack(columns[::-1], dim=1), mask)
    return advantages, _zeroed(advantages + values, mask)


def kl_per_token(logprobs: Tensor, ref_logprobs: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """Estimates KL(policy || reference) a token from actions of the policy, [b, t] each (Schulman 2020).

    k1 = d, k2 = d^2/2, k3 = exp(-d) - 1 + d with d = logprobs - ref_logprobs. As values, k1 and k3 are unbiased
    (k3 >= 0, and noisy where the reference is the likelier by far); k2 is biased by what is small near the reference.
    None is differentiated here: they are rewards of the sampled actions, and the policy gradient of k1 alone is the
    KL's. That of k3 is the KL's less the reverse KL's, which near the reference cancel; k2 hardly pulls there either.
    """
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    d = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-d) + d


def shape_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """scores [b], kl [b, t] a token -> rewards [b, t]: -kl_coef * kl, and the score at the last action."""
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    score = torch.where(last, scores[:, None], torch.zeros_like(kl))
    return _zeroed(score - kl_coef * kl, mask)


def importance_weights(old_logprobs: Tensor, sampled_logprobs: Tensor) -> Tensor:
    """min(exp(old - sampled), 2), detached: the sampler's small differences from the trainer (Yao et al. 2025)."""
    ratio = (old_logprobs - sampled_logprobs).detach().clamp(max=MAX_LOG_RATIO).exp()
    return ratio.clamp(max=MAX_IMPORTANCE)


def token_weights(
    mask: Tensor, reduction: Literal["token", "sequence"], all_reduce: AllReduce = local
) -> Tensor:
    """mask [b, t] of a whole minibatch -> [b, t] weights that sum to 1 over it, all processes together.

    `token` weighs each token alike, `sequence` each response alike. Micro-batches take their rows of it, so that
    their losses and gradients add up to the minibatch's however it is cut.
    """
    weights = mask.to(torch.float32)
    if reduction == "sequence":
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return weights / all_reduce(weights.sum()).clamp(min=1)


@dataclass(frozen=True)
class PolicyInputs:
    """One micro-batch of the actor, [b, t] each; only logprobs and entropy carry gradients."""

    logprobs: Tensor
    entropy: Tensor | None
    """None where there is no entropy bonus."""
    old_logprobs: Tensor
    sampled_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    """This micro-batch's rows of `token_weights`; 0 marks padding."""


def policy_loss(x: PolicyInputs, cfg: Ppo) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate (PPO eq. 7) with separate lower and upper clip, truncated importance weights and an
    entropy bonus. Loss and metrics are parts of weighted means: they add up over a minibatch's micro-batches,
    but for `ppo/ratio_max`, the largest |ratio - 1|."""
    mask = x.weights > 0
    log_ratio = _zeroed(x.logprobs - x.old_logprobs, mask).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    advantages = _zeroed(x.advantages, mask)
    ratio = log_ratio.exp()
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    importance = _zeroed(importance_weights(x.old_logprobs, x.sampled_logprobs), mask)
    policy = (x.weights * importance * torch.maximum(free, clipped)).sum()
    loss = policy
    if x.entropy is not None:
        loss = policy - cfg.entropy_coef * (x.weights * _zeroed(x.entropy, mask)).sum()
    with torch.no_grad():
        metrics = {
            "ppo/policy_loss": policy.detach(),
            "ppo/approx_kl": (x.weights * (ratio - 1 - log_ratio)).sum(),
            "ppo/clip_fraction": (x.weights * (clipped > free)).sum(),
            "ppo/ratio_max": (ratio - 1).abs().max(),
        }
    return loss, metrics


@dataclass(frozen=True)
class ValueInputs:
    """One micro-batch of the critic, [b, t] each; only values carry gradients."""

    values: Tensor
    old_values: Tensor
    returns: Tensor
    weights: Tensor


def value_loss(x: ValueInputs, value_clip: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error, the worse of free and clipped around the old values; `value_clip` 0: free only."""
    mask = x.weights > 0
    error = _zeroed(x.values - x.returns, mask).square()
    if value_clip > 0:
        near = x.old_values + (x.values - x.old_values).clamp(-value_clip, value_clip)
        error = torch.maximum(error, _zeroed(near - x.returns, mask).square())
    loss = 0.5 * (x.weights * error).sum()
    return loss, {"ppo/value_loss": loss.detach()}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, all_reduce: AllReduce = local) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask; 0 where the returns do not vary."""
    spread = float(masked_var(returns, mask, all_reduce))
    if spread < 1e-12:
        return 0.0
    return 1.0 - float(masked_var(returns - values, mask, all_reduce)) / spread


@dataclass(frozen=True)
class AdaptiveKL:
    """The KL coefficient, kept near a target (Ziegler et al. 2019, section 2.2). `horizon` 0 keeps it fixed."""

    kl_coef: float
    target: float
    horizon: int

    def after(self, kl: float, episodes: int) -> AdaptiveKL:
        """The controller after a batch whose KL was `kl` nats a token over `episodes` episodes."""
        if self.horizon == 0:
            return self
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return replace(self, kl_coef=self.kl_coef * (1.0 + error * episodes / self.horizon))


@dataclass(frozen=True)
class RunningStd:
    """Spread of one reward model's scores so far (Welford's method, biased). Another `digest` starts anew."""

    digest: str = ""
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def after(self, scores: Tensor, digest: str) -> RunningStd:
        """The estimate with scores [n] of the reward model `digest`."""
        base = self if digest == self.digest else RunningStd(digest)
        n = scores.numel()
        if n == 0:
            return base
        exact = scores.double()
        mean = float(exact.mean())
        squares = float((exact - mean).square().sum())
        total = base.count + n
        shift = mean - base.mean
        return RunningStd(
            digest,
            total,
            base.mean + shift * n / total,
            base.squares + squares + shift * shift * base.count * n / total,
        )

    @property
    def std(self) -> float:
        """1 while nothing varies, so that dividing by it is safe."""
        spread = math.sqrt(self.squares / self.count) if self.count else 0.0
        return spread if spread > 1e-8 else 1.0


def _zeroed(x: Tensor, mask: Tensor) -> Tensor:
    # where, not a product: NaN and inf in the padding must vanish, in the gradient too.
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))

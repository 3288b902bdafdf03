"""The tensors of one PPO iteration."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gapo_trainer.policy_model import Sequences


@dataclass(frozen=True)
class Batch:
    """One iteration's tensors over all n rollouts, [n, t] unless said otherwise."""

    sequences: Sequences
    mask: Tensor
    sampled_logprobs: Tensor
    old_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    kl: Tensor
    """Penalty a token, against the reference."""
    kl_reference: Tensor
    kl_start: Tensor
    """k1 estimates for the metrics, against the reference and the supervised start."""

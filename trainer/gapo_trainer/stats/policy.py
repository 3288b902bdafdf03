"""How spread out a policy is on its own samples, and how far it has moved from its start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gapo_trainer.logits import entropy_of
from gapo_trainer.policy_model import MicroBatch, Sequences, micro_batches

CHUNK = 1024
"""Response tokens whose distributions over the vocabulary are in memory several times over, in float32."""


@dataclass(frozen=True, slots=True)
class TokenMeans:
    """Means over all response tokens, EOS included, in nats a token; `kl` is None without a reference."""

    entropy: float
    kl: float | None
    tokens: int


@torch.inference_mode()
def token_means(
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    temperature: float,
    tokens_per_batch: int = 2048,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> TokenMeans:
    """Entropy of the policy and KL(policy || reference) at the states that its samples visit.

    Both come from the whole distribution over the vocabulary at `temperature`, not from the sampled token alone:
    unbiased like the k1 estimate, without its noise. Token ids in; at least one token a response.
    `tokens_per_batch` bounds memory; a longer sequence goes alone.
    """
    sequences = Sequences.of(prompts, responses, policy.device)
    entropy, divergence, tokens = 0.0, 0.0, 0
    for rows in micro_batches(sequences.lengths, torch.arange(len(prompts)), tokens_per_batch):
        batch = MicroBatch.of(sequences, rows)
        with autocast():
            logits = _logits(policy, batch)
            ref_logits = None if reference is None else _logits(reference, batch)
        for start in range(0, len(logits), CHUNK):
            scaled = logits[start : start + CHUNK].float() / temperature
            entropy += float(entropy_of(scaled).sum(dtype=torch.float64))
            if ref_logits is not None:
                ref_scaled = ref_logits[start : start + CHUNK].float() / temperature
                divergence += float(_kl(scaled, ref_scaled).sum(dtype=torch.float64))
        tokens += len(logits)
    return TokenMeans(entropy / tokens, None if reference is None else divergence / tokens, tokens)


def _kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """[m, v] twice -> [m] KL of the softmaxes, summed over the vocabulary."""
    logprobs, ref_logprobs = logits.log_softmax(dim=-1), ref_logits.log_softmax(dim=-1)
    probs = logprobs.exp()
    # A token of probability 0 adds 0, not 0 * inf.
    return torch.where(probs > 0, probs * (logprobs - ref_logprobs), 0.0).sum(dim=-1)


def _logits(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """[m, v] logits from which the batch's m actions were drawn."""
    output: Any = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    return cast(Tensor, output.logits).flatten(0, 1)[batch.before]

"""From a language model's logits to what training needs of them: pure functions over tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def action_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """[b] numbers of actions -> [b, t] bool. Never derived from token ids: EOS may equal PAD."""
    columns = int(lengths.max()) if width is None else width
    return torch.arange(columns, device=lengths.device)[None, :] < lengths[:, None]


def logprobs_of(logits: Tensor, actions: Tensor) -> Tensor:
    """logits [..., v] float32, actions [...] -> log-probability of each action [...]: logit - logsumexp, without a
    second copy of the logits."""
    return logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


def entropy_of(logits: Tensor) -> Tensor:
    """logits [..., v] float32 -> entropy of their softmax in nats [...]."""
    logprobs = torch.log_softmax(logits, dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)

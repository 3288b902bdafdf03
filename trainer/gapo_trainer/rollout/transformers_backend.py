"""Rollouts in process with transformers: a decode loop of our own over a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from gapo.errors import InvariantError
from gapo_trainer.rollout.backend import Completions, RolloutBackend, check_room, ignore

COMPACT_BELOW = 0.75
"""Finished rows leave the batch when fewer than this share still runs: copying the cache costs about one step."""


class TransformersBackend(RolloutBackend):
    """Samples from a model that lives in this process, the trainer's own: publishing weights is naming them.

    Prompts are sorted by length, `batch` at a time, padded on the left with explicit positions. The randomness of a
    row is one uniform number a step, drawn for all rows before decoding, so that a row's completion does not depend
    on the rows beside it, nor on `batch` (but for rounding).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_ids: Sequence[int],
        batch: int,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model = model
        self.eos_ids = list(eos_ids)
        self.batch = batch
        self.autocast = autocast
        self.version = ""

    def publish(self, version: str) -> None:
        self.version = version

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        rng: torch.Generator,
        done: Completions | None = None,
        after_batch: Callable[[Completions], None] = ignore,
    ) -> Completions:
        """See `RolloutBackend`. Raises DataError for a prompt that leaves no room in the model's positions."""
        check_room(prompts, max_new_tokens, getattr(self.model.config, "max_position_embeddings", None))
        uniform = torch.rand(len(prompts), max_new_tokens, generator=rng, device=rng.device)
        out = done or Completions.empty(len(prompts))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            if all(out.token_ids[i] for i in rows):
                continue
            self._decode([prompts[i] for i in rows], uniform[rows], temperature, rows, out)
            if start + self.batch < len(order):
                after_batch(out)
        return out

    def _decode(
        self,
        prompts: list[Sequence[int]],
        uniform: Tensor,
        temperature: float,
        rows: list[int],
        out: Completions,
    ) -> None:
        """Decodes one batch and writes its completions to `out` at `rows`."""
        device = self.model.device
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        columns = torch.arange(width, device=device)
        mask = (columns[None, :] >= width - lengths[:, None]).long()
        positions = (columns[None, :] - (width - lengths[:, None])).clamp(min=0)
        ragged = bool((lengths != width).any())
        eos = torch.tensor(self.eos_ids, device=device)
        uniform = uniform.to(device)
        steps = uniform.shape[1]
        n = len(prompts)
        tokens = torch.zeros(n, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(n, steps, device=device)
        counts = torch.full((n,), steps, device=device)
        ended = torch.zeros(n, dtype=torch.bool, device=device)
        alive = torch.arange(n, device=device)  # rows of the batch that are still in the cache
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode(), self.autocast():
            for step in range(steps):
                logits = self._logits(ids, mask if ragged else None, positions, cache)
                token, logprob = _sample(logits, uniform[alive, step], temperature)
                tokens[alive, step] = token
                logprobs[alive, step] = logprob
                finished = torch.isin(token, eos) & ~ended[alive]
                counts[alive[finished]] = step + 1
                ended[alive] |= finished
                running = ~ended[alive]
                left = int(running.sum())
                if left == 0:
                    break
                ids, positions = token[:, None], positions[:, -1:] + 1
                if left < COMPACT_BELOW * len(alive):
                    keep = running.nonzero().squeeze(1)
                    alive, ids, positions, mask = alive[keep], ids[keep], positions[keep], mask[keep]
                    cast(Any, cache).batch_select_indices(keep)
                if ragged:
                    mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        for row, ids_row, logprobs_row, count, end in zip(
            rows, tokens.tolist(), logprobs.tolist(), counts.tolist(), ended.tolist(), strict=True
        ):
            out.put(row, ids_row[:count], logprobs_row[:count], end, self.version)

    def _logits(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache) -> Tensor:
        """[b, v] float32 logits after the last column of ids [b, t]."""
        output: Any = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cast(Tensor, output.logits)[:, -1].float()


def _sample(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[b, v] logits and [b] uniform numbers -> [b] tokens by the inverse of the distribution function, and their
    log-probabilities at this temperature. Raises InvariantError where the logits are not finite."""
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    edges = logprobs.exp().cumsum(dim=-1)
    total = edges[:, -1:]
    if not bool(torch.isfinite(total).all()):
        raise InvariantError("rollout: the generator's logits are not finite; its weights have diverged")
    # Just under the total, so that rounding never picks past the last token with any probability.
    point = uniform[:, None] * total * (1 - 1e-6)
    token = torch.searchsorted(edges, point, right=True).clamp(max=logits.shape[-1] - 1)
    return token.squeeze(1), logprobs.gather(1, token).squeeze(1)

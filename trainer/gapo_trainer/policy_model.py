"""From token ids to logprobs, entropies and values: rows, micro-batches and the two forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gapo_trainer.logits import action_mask, entropy_of, logprobs_of
from gapo_trainer.models.suitability import altered_logits

WASTE = 1.25
"""Longest row of a micro-batch as a multiple of its shortest, once it has `WORTHWHILE` tokens."""
WORTHWHILE = 768


class Policy(nn.Module):
    """A causal model that answers with the log-probabilities of given actions, not with its logits.

    Only positions before an action reach the vocabulary matrix, so memory follows the responses' tokens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.lm = model
        _refuse_altered_logits(model)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        before: Tensor,
        actions: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """input_ids, position_ids [b, w] right-padded; before [m] flat indices of the positions that predict
        actions [m] -> logprobs [m] and, where asked for, entropy [m], float32, at `temperature`."""
        hidden = _hidden(self.lm.base_model, input_ids, position_ids)
        logits = cast(Any, self.lm).get_output_embeddings()(hidden.flatten(0, 1)[before]).float()
        if temperature != 1.0:
            logits = logits / temperature
        return logprobs_of(logits, actions), entropy_of(logits) if with_entropy else None


@dataclass(frozen=True)
class Sequences:
    """Prompts with their responses, padded on the right, on the device. n rows, w columns, t actions at most."""

    ids: Tensor
    """[n, w] int64."""
    prompt_lengths: Tensor
    """[n], on the CPU, as are the responses'."""
    response_lengths: Tensor

    @staticmethod
    def of(
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        device: torch.device,
        pad: int = 0,
    ) -> Sequences:
        """`pad` fills the padding; by design its value, and what the model makes of it, changes nothing."""
        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        return Sequences(
            ids.to(device), torch.tensor([len(p) for p in prompts]), torch.tensor([len(r) for r in responses])
        )

    @property
    def lengths(self) -> Tensor:
        """[n] prompt and response together."""
        return self.prompt_lengths + self.response_lengths

    @property
    def mask(self) -> Tensor:
        """[n, t] bool, from lengths."""
        return action_mask(self.response_lengths).to(self.ids.device)


def micro_batches(lengths: Tensor, rows: Tensor, max_tokens: int) -> list[Tensor]:
    """Cuts `rows` [m] into micro-batches of similar length, each of at most `max_tokens` padded tokens (at least one
    row). lengths [n] are whole sequences'. The cut depends on lengths alone, so it is the same at every call."""
    order = rows[torch.argsort(lengths[rows], stable=True)]
    batches: list[list[int]] = []
    shortest = 0
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        size = len(batches[-1]) if batches else 0
        wasteful = length > WASTE * shortest and size * shortest >= WORTHWHILE
        if size == 0 or (size + 1) * length > max_tokens or wasteful:
            batches.append([])
            shortest = length
        batches[-1].append(row)
    return [torch.tensor(batch) for batch in batches]


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of Sequences, cut to their longest, ready for a model."""

    rows: Tensor
    """[b], on the CPU: which rows."""
    input_ids: Tensor
    position_ids: Tensor
    """[b, w] each."""
    before: Tensor
    """[m] flat indices into [b, w]: the position before each action, row by row."""
    actions: Tensor
    """[m]"""
    mask: Tensor
    """[b, t]"""

    @staticmethod
    def of(sequences: Sequences, rows: Tensor) -> MicroBatch:
        device = sequences.ids.device
        width = int(sequences.lengths[rows].max())
        ids = sequences.ids[rows.to(device), :width]
        mask = action_mask(sequences.response_lengths[rows])
        starts = torch.arange(len(rows)) * width + sequences.prompt_lengths[rows] - 1
        before = (starts[:, None] + torch.arange(mask.shape[1])[None, :])[mask].to(device)
        return MicroBatch(
            rows,
            ids,
            torch.arange(width, device=device).expand(len(rows), -1),
            before,
            ids.flatten()[before + 1],
            mask.to(device),
        )

    def spread(self, packed: Tensor) -> Tensor:
        """[m] a number an action -> [b, t], 0 in the padding; differentiable."""
        return torch.zeros(self.mask.shape, dtype=packed.dtype, device=packed.device).masked_scatter(
            self.mask, packed
        )

    def logprobs(self, policy: nn.Module, temperature: float) -> Tensor:
        """log-probabilities of the actions, [b, t]."""
        return self._policy(policy, temperature, False)[0]

    def logprobs_and_entropy(self, policy: nn.Module, temperature: float) -> tuple[Tensor, Tensor]:
        """log-probabilities of the actions and entropy of the policy before each, [b, t] both."""
        logprobs, entropy = self._policy(policy, temperature, True)
        return logprobs, self.spread(cast(Tensor, entropy))

    def _policy(self, policy: nn.Module, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
        packed, entropies = policy(
            self.input_ids, self.position_ids, self.before, self.actions, temperature, entropy
        )
        return self.spread(packed), entropies

    def values(self, critic: nn.Module) -> Tensor:
        """Values of the states before the actions, [b, t]."""
        values: Tensor = critic(self.input_ids, None, self.position_ids)
        return self.spread(values.flatten()[self.before])


def put(into: Tensor, rows: Tensor, values: Tensor) -> None:
    """into [n, t], values [b, t'] with t' <= t: writes the rows."""
    into[rows.to(into.device), : values.shape[1]] = values.to(into.dtype)


def take(x: Tensor, micro: MicroBatch) -> Tensor:
    """[n, t] -> the micro-batch's rows and columns [b, t']."""
    return x[micro.rows.to(x.device), : micro.mask.shape[1]]


def _hidden(body: nn.Module, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    # Padding is on the right, where a causal model cannot see it: no attention mask, and the fast kernels.
    output: Any = body(input_ids=input_ids, attention_mask=None, position_ids=position_ids, use_cache=False)
    return cast(Tensor, output.last_hidden_state)


def _refuse_altered_logits(model: PreTrainedModel) -> None:
    """Raises SpecError for a model whose logits are not simply its output embedding of the last hidden state (some
    families scale or cap them): its logprobs would be wrong here."""
    head = cast(Any, model).get_output_embeddings()
    ids = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    with torch.no_grad():
        whole: Any = model(input_ids=ids, use_cache=False)
        plain = (
            None
            if head is None
            else head(_hidden(model.base_model, ids, torch.arange(4, device=ids.device)[None]))
        )
    if plain is None or not torch.allclose(whole.logits, plain, rtol=1e-4, atol=1e-4):
        raise altered_logits(model.config.model_type, "generator.model")

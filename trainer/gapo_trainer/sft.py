"""Supervised training of the generator on accepted responses.

The loss is the mean negative log-likelihood of the response's tokens, EOS included; prompt tokens carry none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo.api.training import Data, Sft
from gapo.errors import DataError
from gapo_trainer.cpu_parallel import lanes
from gapo_trainer.engine import Engine
from gapo_trainer.models.networks import (
    prompt_ids,
    response_ids,
)
from gapo_trainer.policy_model import MicroBatch, Policy, Sequences, micro_batches
from gapo_trainer.reward.rows import read_rows
from gapo_trainer.rng import generator

log = logging.getLogger(__name__)

LOOKS = 10
"""How often the loss on held-out rows is measured."""
VAL_ROWS = 500
FLOOR = 0.1
"""The learning rate's end, as a share of its peak."""
_NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True)
class Examples:
    """Accepted (prompt, response) rows as token ids."""

    prompts: list[list[int]]
    responses: list[list[int]]

    @staticmethod
    def read(
        path: Path, tokenizer: PreTrainedTokenizerBase, data: Data, positions: int, limit: int | None = None
    ) -> Examples:
        """The accepted rows of rows-*.jsonl, each once. Raises DataError for rows that are too long, and for none."""
        texts = list(dict.fromkeys((r.prompt, r.response) for r in read_rows(path) if r.label == 1))[:limit]
        if not texts:
            raise DataError(f"{path.name} has no accepted rows (label 1); supervised training needs some")
        examples = Examples(
            [prompt_ids(tokenizer, prompt) for prompt, _ in texts],
            [response_ids(tokenizer, response) for _, response in texts],
        )
        for (prompt, _), p, r in zip(texts, examples.prompts, examples.responses, strict=True):
            for name, length, most in (
                ("data.maxPromptTokens", len(p), data.max_prompt_tokens),
                ("the generator's longest sequence", len(p) + len(r), positions),
            ):
                if length > most:
                    raise DataError(
                        f"{path.name}: a row has {length} tokens, {name} is {most}; shorten it (prompt: {prompt[:80]!r})"
                    )
        return examples

    def __len__(self) -> int:
        return len(self.prompts)

    def sequences(self, rows: Sequence[int], device: torch.device) -> Sequences:
        return Sequences.of([self.prompts[i] for i in rows], [self.responses[i] for i in rows], device)


@dataclass
class State:
    """What a resume point holds beside weights and moments."""

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    """metrics.jsonl so far."""
    loss_sum: float = 0.0
    loss_steps: int = 0
    grad_norm_sum: float = 0.0
    """Over the same steps as the losses."""
    trained_tokens: int = 0
    seconds: float = 0.0
    """In the loop, looks included."""


@dataclass
class SftTrainer:
    """A generator in supervised training."""

    engine: Engine[Policy]
    train: Examples
    val: Examples
    cfg: Sft
    steps: int
    tokens_per_micro_batch: int
    seed: int
    stage: int
    state: State = field(default_factory=State)

    def step(self) -> None:
        """One optimiser step on the next batch. Two trainers in the same state do the same, bit for bit, on a CPU."""
        state = self.state
        sequences = self.train.sequences(self._rows(state.step), self.engine.device)
        tokens = int(sequences.response_lengths.sum())
        mine = torch.arange(len(sequences.lengths))[self.engine.rank :: self.engine.world]
        mine = mine[torch.argsort(sequences.lengths[mine], stable=True)]
        parts = torch.tensor_split(mine, lanes()) if self.engine.alone else (mine,)
        micros = [
            m for part in parts for m in micro_batches(sequences.lengths, part, self.tokens_per_micro_batch)
        ]
        total = self.engine.backward_all(
            [partial(self._loss, sequences, micro, tokens) for micro in micros if len(micro)]
        )
        state.grad_norm_sum += self.engine.step(self._lr_factor(state.step))
        state.step += 1
        state.loss_sum += float(self.engine.all_reduce(total))
        state.loss_steps += 1
        state.trained_tokens += int(sequences.lengths.sum())

    def _loss(self, sequences: Sequences, micro: Tensor, tokens: int) -> Tensor:
        return nll(self.engine.model, MicroBatch.of(sequences, micro)) / tokens

    @torch.no_grad()
    def val_loss(self) -> float:
        """Mean negative log-likelihood a response token on held-out rows, nats."""
        sequences = self.val.sequences(range(len(self.val)), self.engine.device)
        total = torch.zeros((), device=self.engine.device)
        with self.engine.autocast():
            for micro in micro_batches(
                sequences.lengths, torch.arange(len(self.val)), self.tokens_per_micro_batch
            ):
                total += nll(self.engine.module, MicroBatch.of(sequences, micro))
        return float(total) / int(sequences.response_lengths.sum())

    @property
    def look_every(self) -> int:
        """Steps between two looks: LOOKS of them, but none before training has read as many rows as a look does."""
        return max(1, self.steps // LOOKS, math.ceil(len(self.val) / self.cfg.batch))

    def look(self) -> dict[str, float]:
        """A line of metrics.jsonl: the training loss since the last look, and the held-out loss."""
        state = self.state
        row = {"step": float(state.step), "sft/val_loss": self.val_loss()}
        if state.loss_steps:
            row["sft/loss"] = state.loss_sum / state.loss_steps
            row["sft/grad_norm"] = state.grad_norm_sum / state.loss_steps
            row["sft/lr"] = self.engine.optim.lr * self._lr_factor(state.step - 1)
        row["sft/trained_tokens"] = float(state.trained_tokens)
        state.loss_sum, state.loss_steps, state.grad_norm_sum = 0.0, 0, 0.0
        state.rows.append(row)
        return row

    def progress(self, row: Mapping[str, float] = _NOTHING) -> dict[str, Any]:
        """Where the training is, for `TaskContext.report`; `row` is that of a look."""
        state = self.state
        running = {"sft/loss": state.loss_sum / state.loss_steps} if state.loss_steps else {}
        return {
            "fraction": state.step / max(1, self.steps),
            "metrics": row,
            "running": running,
            "step": state.step,
            "steps": self.steps,
            "tokens": state.trained_tokens,
        }

    def _rows(self, step: int) -> list[int]:
        """The batch of a step: passes over all rows, each in a fresh order."""
        rows = []
        for position in range(step * self.cfg.batch, (step + 1) * self.cfg.batch):
            number, offset = divmod(position, len(self.train))
            rows.append(self._order(number)[offset])
        return rows

    def _order(self, number: int) -> list[int]:
        if getattr(self, "_held", (-1,))[0] != number:
            rng = generator(self.seed, self.stage, "sft-order", number)
            self._held = (number, torch.randperm(len(self.train), generator=rng).tolist())
        return self._held[1]

    def _lr_factor(self, step: int) -> float:
        rise = max(1, round(self.cfg.warmup * self.steps))
        if step < rise:
            return (step + 1) / rise
        along = (step - rise) / max(1, self.steps - rise)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))


def nll(policy: torch.nn.Module, batch: MicroBatch) -> Tensor:
    """Sum over the batch's response tokens of -log π(token | what precedes it)."""
    return -batch.logprobs(policy, 1.0)[batch.mask].sum()

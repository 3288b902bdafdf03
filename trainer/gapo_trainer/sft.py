"""The `sft` task: supervised training of the generator on accepted responses.

The loss is the mean negative log-likelihood of the response's tokens, EOS included; prompt tokens carry none.
Stage 0 trains `sft.steps`; a later stage trains on for as many rows as a PPO stage of the same settings would see.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gapo.api.base import ApiModel
from gapo.api.models import Generator
from gapo.api.training import Data, Ppo, Sft, Stages
from gapo.errors import DataError, SpecError
from gapo_trainer.context import TaskContext
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.lanes import lanes
from gapo_trainer.locate import locate
from gapo_trainer.models import (
    build_generator,
    load_generator,
    load_tokenizer,
    prompt_ids,
    response_ids,
    save_generator,
)
from gapo_trainer.ppo.forward import MicroBatch, Policy, Sequences, micro_batches
from gapo_trainer.reward.rows import read_rows
from gapo_trainer.rng import generator

log = logging.getLogger(__name__)

LOOKS = 10
"""How often the loss on held-out rows is measured."""
VAL_ROWS = 500
FLOOR = 0.1
"""The learning rate's end, as a share of its peak."""
_NOTHING: Mapping[str, float] = {}


class Params(ApiModel):
    """The sections of the spec that this task reads."""

    model_config = ConfigDict(extra="ignore")

    generator: Generator
    data: Data
    sft: Sft = Sft()
    stages: Stages = Stages()
    ppo: Ppo = Ppo()

    @staticmethod
    def of(ctx: TaskContext) -> Params:
        """Raises SpecError for what is missing, invalid or cannot be honoured."""
        try:
            return Params.model_validate(dict(ctx.params))
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecError(f"{'.'.join(str(x) for x in first['loc'])}: {first['msg']}") from error

    def steps(self, stage: int) -> int:
        """Optimiser steps of this stage."""
        if stage == 0:
            return self.sft.steps
        rows = self.stages.iterations * self.stages.rollouts_per_iteration * self.ppo.epochs
        return max(1, math.ceil(rows / self.sft.batch))


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
        found = Examples(
            [prompt_ids(tokenizer, prompt) for prompt, _ in texts],
            [response_ids(tokenizer, response) for _, response in texts],
        )
        for (prompt, _), p, r in zip(texts, found.prompts, found.responses, strict=True):
            for name, length, most in (
                ("data.maxPromptTokens", len(p), data.max_prompt_tokens),
                ("the generator's longest sequence", len(p) + len(r), positions),
            ):
                if length > most:
                    raise DataError(
                        f"{path.name}: a row has {length} tokens, {name} is {most}; shorten it (prompt: {prompt[:80]!r})"
                    )
        return found

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

    def said(self, row: Mapping[str, float] = _NOTHING) -> dict[str, Any]:
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


def run(ctx: TaskContext) -> dict[str, float]:
    """Trains the generator and leaves it in `ctx.out`; the manifest's metrics."""
    params = Params.of(ctx)
    stage, seed = ctx.task.stage, ctx.task.seed
    restored = ctx.restore()
    resumed = None if restored is None else restored[1]
    model, tokenizer = _start(ctx, params, resumed)
    positions = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
    data = ctx.inputs["data"]
    sft = params.sft
    trainer = SftTrainer(
        engine=Engine(Policy(model), Optim(sft.lr, weight_decay=sft.weight_decay, eps=1e-8), name="sft"),
        train=Examples.read(data / "rows-train.jsonl", tokenizer, params.data, positions),
        val=Examples.read(data / "rows-val.jsonl", tokenizer, params.data, positions, VAL_ROWS),
        cfg=sft,
        steps=params.steps(stage),
        tokens_per_micro_batch=params.ppo.tokens_per_micro_batch,
        seed=seed,
        stage=stage,
    )
    if resumed is not None:
        held: dict[str, Any] = json.loads((resumed / "progress.json").read_text(encoding="utf-8"))
        trainer.state = State(**held)
        trainer.engine.load(resumed)
    state, look_every = trainer.state, trainer.look_every
    # No dropout, as in PPO: a step depends on its batch alone.
    trainer.engine.model.train(False)
    ctx.report(trainer.said())
    while state.step < trainer.steps:
        began = time.monotonic()
        trainer.step()
        looks = state.step % look_every == 0 or state.step == trainer.steps
        row = trainer.look() if looks else {}
        state.seconds += time.monotonic() - began
        if looks:
            row["wall/seconds"] = state.seconds
        ctx.report(trainer.said(row))
        if trainer.engine.all_reduce(torch.tensor(float(ctx.resume.due()))) > 0:
            _checkpoint(ctx, trainer, tokenizer)
    if not state.rows:
        trainer.look()
    last = state.rows[-1]
    metrics: dict[str, float] = {k: last[k] for k in ("sft/loss", "sft/val_loss") if k in last}
    metrics["sft/trained_tokens"] = float(state.trained_tokens)
    if trainer.engine.rank == 0:
        save_generator(trainer.engine.module.lm, tokenizer, ctx.out / "generator")
        with (ctx.out / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in state.rows)
    trainer.engine.accelerator.wait_for_everyone()
    return metrics


def _start(
    ctx: TaskContext, params: Params, resumed: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train on: of the resume point, of the task before, of the spec, or new."""
    if resumed is not None:
        return load_generator(resumed / "generator", what="the resume point")
    if "generator" in ctx.inputs:
        return load_generator(ctx.inputs["generator"] / "generator", what="the sft task's generator")
    if params.generator.from_scratch is None:
        folder = locate(
            str(params.generator.model), what="generator.model", open=ctx.open, into=ctx.scratch / "model"
        )
        return load_generator(folder)
    folder = ctx.inputs["data"] / "generator-tokenizer"
    tokenizer = load_tokenizer(folder, what="data: generator-tokenizer")
    rng = generator(ctx.task.seed, 0, "generator-init")
    return build_generator(params.generator.from_scratch, tokenizer, rng), tokenizer


def _checkpoint(ctx: TaskContext, trainer: SftTrainer, tokenizer: PreTrainedTokenizerBase) -> None:
    def write(folder: Path) -> None:
        save_generator(trainer.engine.module.lm, tokenizer, folder / "generator")
        trainer.engine.save(folder)
        (folder / "progress.json").write_text(json.dumps(asdict(trainer.state)), encoding="utf-8")

    ctx.save_resume_point(trainer.state.step, write if trainer.engine.rank == 0 else None)

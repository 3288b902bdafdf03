"""The `sft` task: supervised training of the generator on accepted responses.

Stage 0 trains `sft.steps`; a later stage trains on for as many rows as a PPO stage of the same settings would see.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gapo.api.models import Generator
from gapo.api.training import Data, Ppo, Sft, Stages
from gapo.tasks import Kind
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import (
    build_generator,
    load_generator,
    load_tokenizer,
    save_generator,
)
from gapo_trainer.models.source import locate
from gapo_trainer.policy_model import Policy
from gapo_trainer.rng import generator
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.runtime.params import TaskParams
from gapo_trainer.sft import VAL_ROWS, Examples, SftTrainer, State
from gapo_trainer.tasks.registry import runs


class Params(TaskParams):
    """The sections of the spec that this task reads."""

    generator: Generator
    data: Data
    sft: Sft = Sft()
    stages: Stages = Stages()
    ppo: Ppo = Ppo()

    def steps(self, stage: int) -> int:
        """Optimiser steps of this stage."""
        if stage == 0:
            return self.sft.steps
        rows = self.stages.iterations * self.stages.rollouts_per_iteration * self.ppo.epochs
        return max(1, math.ceil(rows / self.sft.batch))


@runs(Kind.SFT)
def run(ctx: TaskContext) -> dict[str, float]:
    """Trains the generator and leaves it in `ctx.out`; the manifest's metrics."""
    params = Params.of(ctx.params)
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
    ctx.report(trainer.progress())
    while state.step < trainer.steps:
        began = time.monotonic()
        trainer.step()
        looks = state.step % look_every == 0 or state.step == trainer.steps
        if looks:
            ctx.report(trainer.progress())  # held-out rows may take longer than the steps between
        row = trainer.look() if looks else {}
        state.seconds += time.monotonic() - began
        if looks:
            row["wall/seconds"] = state.seconds
        ctx.report(trainer.progress(row))
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

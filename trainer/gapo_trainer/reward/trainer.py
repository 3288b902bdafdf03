"""Binary cross-entropy on labelled pairs: the loop of the warm-up and of every adversarial stage.

    loss = mean over the batch of BCE(f(c, t), y),  y smoothed towards 1/2 by labelSmoothing

Looks at held-out pairs raise the shares of weak families and end the training: in the warm-up when the gate is
passed and nothing more is gained, in a stage when held-out pairs are being unlearnt or training rows memorised.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from gapo.api.models import Gate
from gapo_trainer.cpu_parallel import lanes
from gapo_trainer.engine import Engine
from gapo_trainer.reward import gate as gates
from gapo_trainer.reward.batches import BatchComposer, Item
from gapo_trainer.reward.encode import Corpus, Pair, by_length, collate
from gapo_trainer.reward.model import RewardModel
from gapo_trainer.rng import stream
from gapo_trainer.runtime.context import TaskContext

log = logging.getLogger(__name__)

TOKENS_PER_MICRO_BATCH = 16_384
RISE = 0.05
"""Share of the steps over which the learning rate rises; then it falls along a cosine to `FLOOR`."""
FLOOR = 0.05
PATIENCE = 3
"""Warm-up: looks without a gain of `GAIN` in pair accuracy, the gate being passed, after which it ends."""
GAIN = 0.005
_NOTHING: Mapping[str, float] = {}
UNLEARNT = 0.03
"""Stage: fall of held-out pair accuracy below its best that, at two looks in a row, ends the stage."""


@dataclass(frozen=True)
class Schedule:
    """How long, and when to look."""

    steps: int
    look_every: int
    early_stop: str
    """`settled` (warm-up) or `unlearning` (stage)."""
    mismatched_share: float = 0.0
    """Easy negatives among the whole pairs' at the first step; none after half of the steps."""
    max_seconds: float | None = None
    memorisation_gap: float | None = None
    """Stage: the gap between training and held-out accepted scores that ends it."""
    label_smoothing: float = 0.0
    dropout: bool = False

    def lr_factor(self, step: int) -> float:
        rise = max(1, round(RISE * self.steps))
        if step < rise:
            return (step + 1) / rise
        along = (step - rise) / max(1, self.steps - rise)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))

    def mismatched(self, step: int) -> float:
        return self.mismatched_share * max(0.0, 1 - 2 * step / self.steps)


@dataclass
class State:
    """What a resume point holds beside weights, moments and the composer's counts."""

    step: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    """By family, for the composer."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """metrics.jsonl so far."""
    loss_sum: float = 0.0
    loss_steps: int = 0
    last_loss: float = math.nan
    """Mean since the last look, and the mean before it."""
    grad_norm_sum: float = 0.0
    """Over the same steps as the losses."""
    lr: float = 0.0
    """Of the last step."""
    trained_tokens: int = 0
    best: float = -1.0
    stale: int = 0
    """Looks in a row without a gain (warm-up) or under the best (stage)."""
    stopped: str = ""
    """Why training ended early; empty where it did not."""
    seconds: float = 0.0


@dataclass
class BceTrainer:
    """A reward model in training. Two trainers in the same state do the same, bit for bit, on a CPU."""

    engine: Engine[RewardModel]
    corpus: Corpus
    """The composer's rows as text pairs."""
    composer: BatchComposer
    pad: int
    schedule: Schedule
    look: Callable[[], Mapping[str, float]]
    """Held-out metrics of the model as it is."""
    gate: Gate
    seed: int
    stage: int
    clock: Callable[[], float] = time.monotonic
    state: State = field(default_factory=State)
    kept: dict[str, Tensor] | None = None
    """Stage: the weights of the last look that was not under the best."""

    def run(self, ctx: TaskContext, save: Callable[[Path], None], resumed: Path | None = None) -> None:
        """Trains to the end; `save` writes the model into a resume point's folder."""
        if resumed is not None:
            self._restore(resumed)
        self.engine.model.train(True)
        ctx.report(self._progress())
        while self.state.step < self.schedule.steps and not self.state.stopped:
            began = self.clock()
            self._step()
            done = self.state.step
            looks = done % self.schedule.look_every == 0 or done == self.schedule.steps
            if looks:
                self._look(ctx)
            else:
                ctx.report(self._progress())
            self.state.seconds += self.clock() - began
            if looks:
                self.state.rows[-1]["wall/seconds"] = self.state.seconds
            limit = self.schedule.max_seconds
            if limit is not None and self.state.seconds >= limit and not self.state.stopped:
                self.state.stopped = f"max_seconds: {limit:g} s"
            if self._agree(ctx.resume.due()):
                self._checkpoint(ctx, save)
        if self.state.stopped:
            log.info(
                "stage %d: the reward model stopped after step %d: %s",
                self.stage,
                self.state.step,
                self.state.stopped,
            )
        self.engine.model.train(False)

    # --- one step ---

    def _step(self) -> None:
        step = self.state.step
        items = self.composer.compose(step, self.state.weights, self.schedule.mismatched(step))
        loss, tokens = self._backward(items, step)
        self.state.lr = self.engine.optim.lr * self.schedule.lr_factor(step)
        self.state.grad_norm_sum += self.engine.step(self.schedule.lr_factor(step))
        self.state.step += 1
        self.state.loss_sum += loss
        self.state.loss_steps += 1
        self.state.trained_tokens += tokens

    def _backward(self, items: Sequence[Item], step: int) -> tuple[float, int]:
        """Gradients of the batch's mean loss; that loss, and the batch's tokens."""
        everyone = self._pairs(items)
        mine = items[self.engine.rank :: self.engine.world]
        pairs = everyone[self.engine.rank :: self.engine.world]
        targets = torch.tensor([item.target for item in mine], device=self.engine.device)
        smoothing = self.schedule.label_smoothing
        targets = targets * (1 - smoothing) + 0.5 * smoothing

        def loss(rows: list[int]) -> Tensor:
            logits = self.engine.model(collate([pairs[r] for r in rows], self.pad, self.engine.device))
            return bce(logits, targets[rows]) / len(items)

        dropout = self.schedule.dropout
        side_by_side = self.engine.alone and not dropout
        micros = by_length(pairs, TOKENS_PER_MICRO_BATCH, at_least=lanes() if side_by_side else 1)
        with torch.random.fork_rng(enabled=dropout):
            if dropout:
                torch.manual_seed(stream(self.seed, self.stage, f"rm-dropout-{self.engine.rank}", step))
            total = self.engine.backward_all(
                [partial(loss, rows) for rows in micros], side_by_side=side_by_side
            )
        return float(self.engine.all_reduce(total)), sum(len(p.ids) for p in everyone)

    def _pairs(self, items: Sequence[Item]) -> list[Pair]:
        own = self.corpus.take([item.row for item in items])
        others = self.corpus.take([i.row if i.response_of is None else i.response_of for i in items])
        return [
            mine if mine is other else mine.with_response_of(other, self.corpus.max_tokens)
            for mine, other in zip(own, others, strict=True)
        ]

    # --- looking ---

    def _look(self, ctx: TaskContext) -> None:
        state = self.state
        state.last_loss = state.loss_sum / max(1, state.loss_steps)
        grad_norm = state.grad_norm_sum / max(1, state.loss_steps)
        state.loss_sum, state.loss_steps, state.grad_norm_sum = 0.0, 0, 0.0
        figures = self.look()
        row = {
            "step": float(state.step),
            "rm/loss": state.last_loss,
            "rm/grad_norm": grad_norm,
            "rm/lr": state.lr,
            "rm/trained_tokens": float(state.trained_tokens),
            **figures,
        }
        state.rows.append(row)
        state.weights = gates.family_weights(figures, self.gate)
        ctx.report(self._progress(row))
        if self.schedule.early_stop == "settled":
            self._settled(figures)
        else:
            self._unlearning(figures)

    def _progress(self, row: Mapping[str, float] = _NOTHING) -> dict[str, Any]:
        """Where the training is, for `TaskContext.report`; `row` is that of a look."""
        state = self.state
        running = {"rm/loss": state.loss_sum / state.loss_steps} if state.loss_steps else {}
        return {
            "fraction": state.step / self.schedule.steps,
            "metrics": row,
            "running": running,
            "step": state.step,
            "steps": self.schedule.steps,
            "tokens": state.trained_tokens,
        }

    def _settled(self, figures: Mapping[str, float]) -> None:
        state, now = self.state, figures.get(gates.PAIR, -1.0)
        state.stale = 0 if now > state.best + GAIN else state.stale + 1
        state.best = max(state.best, now)
        if state.stale >= PATIENCE and gates.judge(figures, self.gate).clear:
            state.stopped = f"held-out pair accuracy {now:.3f} no longer rises"

    def _unlearning(self, figures: Mapping[str, float]) -> None:
        state, now = self.state, figures.get(gates.PAIR, 1.0)
        under = now < state.best - UNLEARNT
        state.stale = state.stale + 1 if under else 0
        state.best = max(state.best, now)
        gap, limit = figures.get("rm/memorisation_gap", 0.0), self.schedule.memorisation_gap
        if limit is not None and gap > limit:
            state.stopped = f"memorisation gap {gap:.3f} is above {limit:g}"
        elif state.stale >= 2:
            state.stopped = f"held-out pair accuracy fell from {state.best:.3f} to {now:.3f}"
            if self.kept is not None:
                self.engine.module.load_state_dict(self.kept)
        elif not under:
            self.kept = {k: v.detach().cpu().clone() for k, v in self.engine.module.state_dict().items()}

    def judge_start(self) -> None:
        """Takes the held-out metrics before the first step as the bar; does nothing once training has begun."""
        if self.state.step == 0:
            figures = self.look()
            self.state.weights = gates.family_weights(figures, self.gate)
            if self.schedule.early_stop == "unlearning":
                self._unlearning({k: v for k, v in figures.items() if k != "rm/memorisation_gap"})

    # --- resume points ---

    def _checkpoint(self, ctx: TaskContext, save: Callable[[Path], None]) -> None:
        def write(folder: Path) -> None:
            save(folder)
            self.engine.save(folder)
            if self.kept is not None:
                save_file({k: v.contiguous() for k, v in self.kept.items()}, folder / "kept.safetensors")
            held = {"state": asdict(self.state), "planner": self.composer.state()}
            (folder / "progress.json").write_text(json.dumps(held), encoding="utf-8")

        ctx.save_resume_point(self.state.step, write if self.engine.rank == 0 else None)

    def _restore(self, folder: Path) -> None:
        """All but the weights, which the caller has loaded from the same folder."""
        held: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        self.state = State(**held["state"])
        self.composer.restore(held["planner"])
        self.engine.load(folder)
        kept = folder / "kept.safetensors"
        self.kept = load_file(kept) if kept.is_file() else None

    def _agree(self, mine: bool) -> bool:
        """True on all processes where it is on any."""
        return bool(self.engine.all_reduce(torch.tensor(float(mine))) > 0)


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the rows of -y log σ(f) - (1 - y) log(1 - σ(f)); logits, targets [b]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")

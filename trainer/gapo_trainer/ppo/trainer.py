"""The PPO loop: rollouts, scores, logprobs and values, advantages, epochs of minibatches, metrics.

Differs from the textbook: the ratio's denominator is recomputed by the trainer, and the sampler's own logprobs
serve only as truncated importance weights; losses are normalised by the minibatch's tokens over all processes, so
that micro-batches and processes change nothing but rounding; the first epoch's cut into minibatches is made before
the old logprobs, which are computed on the same micro-batches, so that its first ratio is 1 exactly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from gapo.api.training import Ppo, Stages
from gapo_trainer.cpu_parallel import in_lanes
from gapo_trainer.engine import Engine
from gapo_trainer.models.networks import Critic
from gapo_trainer.policy_model import MicroBatch, Policy, micro_batches, put
from gapo_trainer.ppo import math as ppo
from gapo_trainer.ppo.batch import Batch
from gapo_trainer.ppo.iteration_metrics import RATIO_FIRST, iteration_metrics
from gapo_trainer.ppo.rewards import Terminal, terminal
from gapo_trainer.ppo.scorer import BoundedScorer, Scorer
from gapo_trainer.ppo.under_way import UnderWay, Update
from gapo_trainer.ppo.update import PolicyTargets, ValueTargets, add, policy_step, value_step
from gapo_trainer.rng import generator
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.sampler import Kept, Rollouts, Sampler

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What an iteration leaves: its metrics, and what the stage's summary and the next stage need."""

    metrics: dict[str, float]
    kept: Kept
    scores: list[float]
    passed: list[bool] | None


def _go_on() -> None:
    """An iteration that nobody wants to leave."""


@dataclass
class PpoTrainer:
    """Actor and critic in training, with everything that an iteration reads."""

    cfg: Ppo
    stages: Stages
    actor: Engine[Policy]
    critic: Engine[Critic]
    reference: Policy
    start: Policy | None
    """The supervised start, where the reference is another model."""
    sampler: Sampler
    scorer: Scorer
    kl: ppo.AdaptiveKL
    std: ppo.RunningStd
    seed: int
    stage: int
    clock: dict[str, float] = field(default_factory=dict)
    """Seconds by phase in the current iteration, of those that are over."""
    _open: dict[str, float] = field(default_factory=dict)
    """When those began that are not over."""

    @property
    def temperature(self) -> float:
        return self.sampler.generation.temperature

    def iteration(
        self, iteration: int, under_way: UnderWay | None = None, rest: Callable[[], None] = _go_on
    ) -> Outcome:
        """Runs one iteration; two trainers in the same state do the same, bit for bit, on a CPU.

        `under_way` is how far it has come already, and is kept up to date. `rest` is called wherever the iteration
        may be left, between batches of rollouts and between minibatches, by an exception that it raises.
        """
        at = under_way or UnderWay()
        self.clock, self._open = dict(at.clock), {}

        def resting() -> None:
            at.clock = self._so_far()
            rest()

        with self._timed("iteration"):
            if at.rollouts is None:
                with self._timed("rollout"):
                    at.rollouts = self._sample(at, iteration, resting)
                resting()
            plan = self._plan(at.rollouts, iteration, epoch=0)
            if at.update is None:
                at.update = self._prepare(at.rollouts, plan)
            update = at.update
            if update.saturated:
                update.metrics["ppo/skipped_updates"] = 1.0
                log.warning(
                    "stage %d iteration %d: the scores' spread is %.3g, under ppo.reward.saturationStd %g; "
                    "no update", self.stage, iteration, update.metrics["ppo/score_std"],
                    self.cfg.reward.saturation_std,
                )  # fmt: skip
            else:
                with self._timed("update"):
                    update.metrics |= self._update(update, plan, iteration, resting)
                self.kl = self.kl.after(update.metrics["ppo/kl"], len(at.rollouts.prompts) * self.actor.world)
            self.std = update.std
        metrics = update.metrics | {f"wall/{name}": seconds for name, seconds in self.clock.items()}
        return Outcome(metrics, Kept(at.rollouts, update.batch.kl), update.probabilities, at.rollouts.passed)

    def publish(self) -> str:
        """Hands the actor's weights to the rollout backend; their version."""
        version = f"{self.stage}.{self.actor.steps}"
        self.sampler.backend.publish(version)
        return version

    def warm_critic(self, kept: Kept, passes: int, *, same_reference: bool = True) -> dict[str, float]:
        """Trains only the critic on an earlier stage's last rollouts, scored anew (docs/method/ppo.md#critic); their KL is
        measured anew too where the reference is not the one that it was kept against.

        Values and returns are computed anew for each pass; no value clipping, for the old values are to be left.
        """
        device = self.critic.device
        sequences, kl = kept.rollouts.sequences(device), kept.kl.to(device)
        if not same_reference:
            kl = self._measure(kept.rollouts, self._cut(sequences.lengths, "critic-warmup-kl", 0)).kl
        mask = sequences.mask
        scored = self._score(kept.rollouts)
        self.std = scored.std
        rewards = ppo.shape_rewards(scored.reward.to(device), kl, mask, self.kl.kl_coef)
        metrics: dict[str, float] = {}
        for index in range(passes):
            plan = self._cut(sequences.lengths, f"critic-warmup-{index}", 0)
            values = torch.zeros_like(rewards)
            for micro in _flat(plan):
                with torch.no_grad():
                    put(values, micro, MicroBatch.of(sequences, micro).values(self.critic.model))
            _, returns = ppo.gae(values, rewards, mask, self.cfg.gamma, self.cfg.lambda_)
            variance = ppo.explained_variance(values, returns, mask, self.critic.all_reduce)
            metrics.setdefault("critic/warmup_explained_variance_before", variance)
            for minibatch in plan:
                weights = self._weights(mask, minibatch, "token")
                micros = [MicroBatch.of(sequences, rows) for rows in minibatch]
                targets = ValueTargets(values, returns, weights)
                value_step(self.critic, micros, targets, 0.0, self._lr_factor(self.critic.steps, 0.0))
            metrics["critic/warmup_explained_variance"] = variance
        return metrics

    # --- what was sampled ---

    def _sample(self, at: UnderWay, iteration: int, rest: Callable[[], None]) -> Rollouts:
        def after_batch(done: Completions) -> None:
            at.completions = done
            rest()

        rollouts = self.sampler.sample(
            self._prompts(iteration),
            iteration,
            self.publish(),
            self._role(),
            done=at.completions,
            after_batch=after_batch,
        )
        at.completions = None
        return rollouts

    def _prepare(self, rollouts: Rollouts, plan: list[list[Tensor]]) -> Update:
        """Scores and measures the rollouts with the weights that sampled them."""
        cut_before = self._cut_so_far()
        with self._timed("score"):
            scored = self._score(rollouts)
        with self._timed("forward"):
            batch = self._measure(rollouts, plan)
        rewards = ppo.shape_rewards(
            scored.reward.to(batch.mask.device), batch.kl, batch.mask, self.kl.kl_coef
        )
        advantages, returns = ppo.gae(batch.values, rewards, batch.mask, self.cfg.gamma, self.cfg.lambda_)
        metrics = iteration_metrics(
            rollouts, scored, batch, rewards, returns, self.kl.kl_coef, self.stage, self.actor
        )
        cut = torch.tensor(float(self._cut_so_far() - cut_before))
        metrics["ppo/pairs_cut"] = float(self.actor.all_reduce(cut)) / metrics["ppo/rollouts"]
        if self.cfg.whiten:
            advantages = ppo.masked_whiten(advantages, batch.mask, self.actor.all_reduce)
        saturated = scored.saturated(self.cfg.reward)
        return Update(batch, advantages, returns, metrics, scored.probability.tolist(), scored.std, saturated)

    def _prompts(self, iteration: int) -> list[int]:
        per_prompt = self.sampler.generation.samples_per_prompt
        chosen = self.sampler.choose(
            self.stages.rollouts_per_iteration // per_prompt, iteration, self.stages.prompt_sampling
        )
        repeated = [index for index in chosen for _ in range(per_prompt)]
        return repeated[self.actor.rank :: self.actor.world]

    def _role(self) -> str:
        return "rollouts" if self.actor.world == 1 else f"rollouts-{self.actor.rank}"

    def _score(self, rollouts: Rollouts) -> Terminal:
        """Scores of this process's rollouts; their spread is over all processes'."""
        logits = self.scorer.score(rollouts.prompt_texts, rollouts.responses, rollouts.contexts).float().cpu()
        both = self._gathered(torch.stack([logits, torch.tensor(rollouts.clean).float()]))
        terminals = terminal(both[0], both[1] > 0.5, self.cfg.reward, self.std, self.scorer.digest)
        if self.actor.world == 1:
            return terminals
        mine = slice(self.actor.rank * len(logits), (self.actor.rank + 1) * len(logits))
        return Terminal(terminals.probability[mine], terminals.reward[mine], terminals.spread, terminals.std)

    def _cut_so_far(self) -> int:
        return self.scorer.cut if isinstance(self.scorer, BoundedScorer) else 0

    def _gathered(self, x: Tensor) -> Tensor:
        """[k, n] of this process -> [k, n * world] of all."""
        world, rank = self.actor.world, self.actor.rank
        if world == 1:
            return x
        slots = torch.zeros(x.shape[0], world, x.shape[1])
        slots[:, rank] = x.nan_to_num(nan=float("nan"), posinf=1e9, neginf=-1e9)
        return self.actor.all_reduce(slots).flatten(1)

    # --- minibatches ---

    def _plan(self, rollouts: Rollouts, iteration: int, epoch: int) -> list[list[Tensor]]:
        lengths = torch.tensor(
            [len(p) + len(r) for p, r in zip(rollouts.prompt_ids, rollouts.token_ids, strict=True)]
        )
        return self._cut(lengths, f"minibatches-{epoch}", iteration)

    def _cut(self, lengths: Tensor, role: str, iteration: int) -> list[list[Tensor]]:
        """A fresh permutation, cut into minibatches of micro-batches."""
        order = torch.randperm(len(lengths), generator=generator(self.seed, self.stage, role, iteration))
        size = max(1, self.cfg.mini_batch // self.actor.world)
        return [
            micro_batches(lengths, rows, self.cfg.tokens_per_micro_batch) for rows in torch.split(order, size)
        ]

    def _weights(self, mask: Tensor, minibatch: Sequence[Tensor], reduction: str) -> Tensor:
        """[n, t] token weights of one minibatch; 0 in every other row."""
        rows = torch.cat(list(minibatch)).to(mask.device)
        weights = torch.zeros(mask.shape, device=mask.device)
        sequence = reduction == "sequence"
        weights[rows] = ppo.token_weights(
            mask[rows], "sequence" if sequence else "token", self.actor.all_reduce
        )
        return weights

    @torch.no_grad()
    def _measure(self, rollouts: Rollouts, plan: Sequence[Sequence[Tensor]]) -> Batch:
        """Old logprobs, entropies, values and KLs, micro-batch by micro-batch of `plan`."""
        device = self.actor.device
        sequences = rollouts.sequences(device)
        mask = sequences.mask
        old, entropy, values, reference, start = (torch.zeros(mask.shape, device=device) for _ in range(5))
        micros = [MicroBatch.of(sequences, rows) for rows in _flat(plan)]

        def policy(micro: MicroBatch) -> None:
            logprobs, h = micro.logprobs_and_entropy(self.actor.model, self.temperature)
            put(old, micro.rows, logprobs)
            put(entropy, micro.rows, h)

        def value(micro: MicroBatch) -> None:
            put(values, micro.rows, micro.values(self.critic.model))

        def other(model: Policy, into: Tensor, micro: MicroBatch) -> None:
            with self.actor.autocast():
                put(into, micro.rows, micro.logprobs(model, self.temperature))

        self._side_by_side(*(partial(work, micro) for micro in micros for work in (policy, value)))
        for model, into in ((self.reference, reference), (self.start, start)):
            if model is not None:
                with _on(model, device):
                    self._side_by_side(*(partial(other, model, into, micro) for micro in micros))
        kl_reference = old - reference
        return Batch(
            sequences=sequences,
            mask=mask,
            sampled_logprobs=rollouts.padded_logprobs(device),
            old_logprobs=old,
            entropy=entropy,
            values=values,
            kl=ppo.kl_per_token(old, reference, self.cfg.kl.estimator),
            kl_reference=kl_reference,
            kl_start=kl_reference if self.start is None else old - start,
        )

    # --- learning ---

    def _update(
        self, update: Update, plan: list[list[Tensor]], iteration: int, rest: Callable[[], None]
    ) -> dict[str, float]:
        """Takes the steps that are left, and returns the update's metrics."""
        cfg, batch = self.cfg, update.batch
        last = cfg.epochs * len(plan)
        for epoch in range(update.steps // len(plan), cfg.epochs):
            if epoch > 0:
                plan = self._cut(batch.sequences.lengths, f"minibatches-{epoch}", iteration)
            for number in range(update.steps % len(plan), len(plan)):
                done = (iteration + (epoch + number / len(plan)) / cfg.epochs) / self.stages.iterations
                self._step(update, plan[number], done)
                if update.steps < last:
                    rest()
        metrics = {name: float(self.actor.all_reduce(total)) / last for name, total in update.sums.items()}
        tokens = float(batch.sequences.lengths.sum()) * cfg.epochs
        return metrics | {
            RATIO_FIRST: update.first_ratio,
            "ppo/grad_norm": update.grad_norms[0] / last,
            "critic/grad_norm": update.grad_norms[1] / last,
            "ppo/lr": self.actor.lr,
            "critic/lr": self.critic.lr,
            "ppo/trained_tokens": float(self.actor.all_reduce(torch.tensor(tokens, dtype=torch.float64))),
        }

    def _step(self, update: Update, minibatch: Sequence[Tensor], done: float) -> None:
        """One optimiser step of actor and critic; `done` is the share of the stage's steps before it."""
        cfg, batch = self.cfg, update.batch
        weights = self._weights(batch.mask, minibatch, cfg.loss_reduction)
        uniform = weights if cfg.loss_reduction == "token" else self._weights(batch.mask, minibatch, "token")
        micros = [MicroBatch.of(batch.sequences, rows) for rows in minibatch]
        policy, value = self._side_by_side(
            partial(
                policy_step, self.actor, micros,
                PolicyTargets(batch.old_logprobs, batch.sampled_logprobs, update.advantages, weights),
                cfg, self.temperature, self._lr_factor(self.actor.steps, done),
            ),
            partial(
                value_step, self.critic, micros, ValueTargets(batch.values, update.returns, uniform),
                cfg.value_clip, self._lr_factor(self.critic.steps, done),
            ),
        )  # fmt: skip
        add(update.sums, policy.sums | value.sums)
        update.grad_norms = (
            update.grad_norms[0] + policy.grad_norm,
            update.grad_norms[1] + value.grad_norm,
        )
        if update.steps == 0:
            update.first_ratio = policy.ratio_max
        update.steps += 1

    def _side_by_side(self, *works: Callable[[], T]) -> list[T]:
        """Actor's and critic's work at the same time where that is safe."""
        if not self.actor.alone:
            return [work() for work in works]
        return in_lanes(*works)

    def _lr_factor(self, steps: int, done: float) -> float:
        """Warm-up over the run's first optimiser steps; `linear` falls to 10 % over the stage (`done` 0 to 1)."""
        rise = min(1.0, (steps + 1) / self.cfg.warmup) if self.cfg.warmup else 1.0
        return rise * (1.0 - 0.9 * done if self.cfg.schedule == "linear" else 1.0)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self._open[name] = time.perf_counter()
        yield
        self.clock[name] = self._so_far()[name]
        del self._open[name]

    def _so_far(self) -> dict[str, float]:
        """Seconds by phase, with what the ones under way have taken: those of a phase that is left count as well."""
        now = time.perf_counter()
        return self.clock | {
            name: self.clock.get(name, 0.0) + now - began for name, began in self._open.items()
        }


def frozen(policy: Policy, device: torch.device) -> Policy:
    """A policy that is only read: no gradients, in eval mode, on `device`."""
    policy.requires_grad_(False)
    nn.Module.train(policy, False)
    return policy.to(device)


@contextmanager
def _on(policy: Policy, device: torch.device) -> Iterator[None]:
    """An offloaded model comes in for just this."""
    home = next(policy.parameters()).device
    policy.to(device)
    yield
    policy.to(home)


def _flat(plan: Sequence[Sequence[Tensor]]) -> Iterator[Tensor]:
    return (micro for minibatch in plan for micro in minibatch)

"""The `ppo` task: one stage of PPO against a frozen reward model, then fresh samples (docs/artifacts.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedTokenizerBase

from gapo.api.base import ApiModel
from gapo.api.evaluation import Evaluation
from gapo.api.models import Critic as CriticSpec
from gapo.api.models import Generator, Reference, RewardModel
from gapo.api.training import Adversarial, Generation, Ppo, Stages
from gapo.errors import SpecError
from gapo.tasks import Kind
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import Critic, build_critic, eos_ids, load_critic, load_generator
from gapo_trainer.models.source import locate
from gapo_trainer.policy_model import Policy
from gapo_trainer.ppo.math import AdaptiveKL, RunningStd
from gapo_trainer.ppo.scorer import Scorer
from gapo_trainer.ppo.state import (
    Learner,
    StageProgress,
    read_kept,
    read_progress,
    read_under_way,
    save_progress,
    save_state,
    save_under_way,
)
from gapo_trainer.ppo.summary import Share, distributions, stage_metrics
from gapo_trainer.ppo.trainer import PpoTrainer, frozen
from gapo_trainer.ppo.under_way import UnderWay
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.build import rollout_backend
from gapo_trainer.rollout.sampler import Kept, Sampler
from gapo_trainer.rollout.samples import read_prompts, write_samples
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.runtime.params import TaskParams
from gapo_trainer.tasks.registry import runs


class Change(ApiModel):
    """What rollbacks changed, all of them together (docs/method/stages.md#rollback). The task's seed already has its offset."""

    actor_lr_factor: float = 1.0
    kl_factor: float = 1.0
    seed_offset: int = 0


class Params(TaskParams):
    """The sections of the spec that this task reads."""

    generator: Generator
    reward_model: RewardModel
    stages: Stages = Stages()
    ppo: Ppo = Ppo()
    critic: CriticSpec = CriticSpec()
    reference: Reference = Reference()
    adversarial: Adversarial = Adversarial()
    generation: Generation = Generation()
    evaluation: Evaluation = Evaluation()
    change: Change = Change()

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Raises SpecError for what is missing, invalid or cannot be honoured."""
        task_params = super().of(params)
        if task_params.critic.lora is not None:
            raise SpecError("critic.lora is not supported by PPO yet; leave it out to train all weights")
        if task_params.stages.rollouts_per_iteration % task_params.generation.samples_per_prompt:
            raise SpecError(
                f"stages.rolloutsPerIteration ({task_params.stages.rollouts_per_iteration}) must be a multiple of "
                f"generation.samplesPerPrompt ({task_params.generation.samples_per_prompt})"
            )
        return task_params


@runs(Kind.PPO)
def run(ctx: TaskContext) -> dict[str, float]:
    """Trains one stage and writes its artifact to `ctx.out`; the manifest's metrics."""
    params = Params.of(ctx.params)
    stage = _Stage.open(ctx, params)
    trainer, progress = stage.trainer, stage.progress
    parts = params.stages.iterations + 1  # the last is the final samples

    def report(done: int, metrics: Mapping[str, float]) -> None:
        steps = params.stages.iterations
        update = {"fraction": done / parts, "metrics": metrics, "tokens": progress.tokens}
        ctx.report({**update, "step": done, "steps": steps})

    report(stage.done, {})
    for iteration in range(stage.done, params.stages.iterations):
        outcome = trainer.iteration(iteration, stage.under_way, partial(stage.rest, ctx, iteration))
        progress.add(outcome)
        stage.kept, stage.under_way = outcome.kept, UnderWay()
        report(iteration + 1, progress.rows[-1])
        if stage.agree(ctx.resume.due()):
            stage.checkpoint(ctx, iteration + 1)
    return stage.finish(ctx)


@dataclass
class _Stage:
    """A stage between opening and committing."""

    params: Params
    trainer: PpoTrainer
    tokenizer: PreTrainedTokenizerBase
    progress: StageProgress
    done: int
    """Iterations that a resume point already holds."""
    kept: Kept | None
    reference: str
    """The KL reference: its run and its manifest's key."""
    under_way: UnderWay = field(default_factory=UnderWay)
    """Of the iteration after those that are done; after the last, of the final samples."""

    @staticmethod
    def open(ctx: TaskContext, params: Params) -> _Stage:
        """Loads the models and the state: of this task's resume point, of the stage before, or of the start.

        In one piece, for nearly every step needs what those before it have found.
        """
        # Where everything comes from.
        restored = ctx.restore()
        done, resumed = (0, None) if restored is None else restored
        source = ctx.inputs.get("state") if resumed is None else resumed
        learner = None if source is None else Learner.read(source)
        scorer = make_scorer(ctx, params)
        start_folder = ctx.inputs.get("start", ctx.inputs["reference"]) / "generator"

        # The actor, and a critic that goes on from the stage before unless the reward model it learnt from has changed.
        weights = ctx.inputs["generator"] if resumed is None else resumed
        model, tokenizer = load_generator(weights / "generator", what="the ppo task's generator")
        actor = Engine(
            Policy(model),
            _optim(params.ppo, params.ppo.actor_lr * params.change.actor_lr_factor),
            name="actor",
        )
        changed = resumed is None and learner is not None and learner.rm_digest != scorer.digest
        inherits = source is not None and learner is not None and (source / "critic").is_dir()
        if changed and params.critic.on_stage_change == "reset":
            inherits = False
        heads = load_critic(source / "critic") if inherits and source is not None else None
        critic = Engine(
            heads or _new_critic(ctx, params, start_folder, tokenizer),
            _optim(params.ppo, params.ppo.critic_lr),
            name="critic",
        )
        if learner is not None and source is not None:
            actor.load(source / "state")
            if inherits:
                critic.load(source / "state")

        # The models that are only read: the KL reference, and the start where that is another one.
        start = None
        if "start" in ctx.inputs:
            start = frozen(Policy(load_generator(start_folder)[0]), actor.device)
        reference = Policy(load_generator(ctx.inputs["reference"] / "generator")[0])
        trainer = PpoTrainer(
            cfg=params.ppo,
            stages=params.stages,
            actor=actor,
            critic=critic,
            reference=frozen(reference, torch.device("cpu") if params.reference.offload else actor.device),
            start=start,
            sampler=_sampler(ctx, params, actor, tokenizer),
            scorer=scorer,
            kl=_controller(params, learner),
            std=RunningStd() if learner is None else learner.std,
            seed=ctx.task.seed,
            stage=ctx.task.stage,
        )
        # How far the stage has come, and a critic that must get used to a new reward model.
        # By name: a manifest's digest depends on clocks, and the same stage trained again is to be the same.
        reference_name = f"{ctx.task.run_id}/{ctx.task.inputs['reference'].key}"
        stage = _Stage(params, trainer, tokenizer, StageProgress(), done, None, reference_name)
        if resumed is not None:
            stage.progress = read_progress(resumed)
            stage.under_way = read_under_way(resumed, actor.device)
        if source is not None:
            stage.kept = read_kept(source)
        warms = changed and inherits and params.critic.on_stage_change == "warm"
        if warms and learner is not None and stage.kept is not None:
            same = params.reference.mode == "sft" and learner.reference in ("", reference_name)
            stage.progress.warmup = trainer.warm_critic(
                stage.kept, params.critic.warmup_passes, same_reference=same
            )
        return stage

    def agree(self, mine: bool) -> bool:
        """True on all processes where it is on any."""
        return bool(self.trainer.actor.all_reduce(torch.tensor(float(mine))) > 0)

    def checkpoint(self, ctx: TaskContext, iteration: int) -> None:
        """Saves a resume point after `iteration` iterations, and what the next one has done already."""

        def write(folder: Path) -> None:
            self._save(folder)
            save_progress(folder, self.progress)
            if self.under_way.begun:
                save_under_way(folder, self.under_way)

        ctx.save_resume_point(iteration, write if self.trainer.actor.rank == 0 else None)

    def rest(self, ctx: TaskContext, iteration: int) -> None:
        """Within an iteration. Several processes rest between iterations alone: each has rollouts of its own."""
        if self.trainer.actor.world == 1 and ctx.due_within():
            self.checkpoint(ctx, iteration)

    def finish(self, ctx: TaskContext) -> dict[str, float]:
        """Samples with the final weights and writes the artifact."""

        def after_batch(done: Completions) -> None:
            self.under_way.completions = done
            self.rest(ctx, self.params.stages.iterations)

        trainer, params = self.trainer, self.params
        chosen = trainer.sampler.choose(
            params.adversarial.samples_per_stage, 0, "shuffled", role="sampled-prompts"
        )
        rollouts = trainer.sampler.sample(
            chosen,
            0,
            trainer.publish(),
            role="samples",
            done=self.under_way.completions,
            after_batch=after_batch,
        )
        logits = trainer.scorer.score(rollouts.prompt_texts, rollouts.responses, rollouts.contexts)
        samples = rollouts.samples(logits.float().sigmoid().tolist())
        actor = trainer.actor
        share = Share(params.generation.samples_per_prompt, actor.rank, actor.world)
        metrics = stage_metrics(self.progress, samples, share)
        if trainer.actor.rank == 0:
            self._save(ctx.out)
            write_samples(ctx.out / "samples.jsonl", samples)
            with (ctx.out / "metrics.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in self.progress.rows)
            shown = distributions(samples, params.generation.max_new_tokens)
            (ctx.out / "distributions.json").write_text(json.dumps(shown), encoding="utf-8")
        trainer.actor.accelerator.wait_for_everyone()
        return metrics

    def _save(self, folder: Path) -> None:
        save_state(
            folder,
            self.trainer,
            self.tokenizer,
            self.kept,
            kl_factor=self.params.change.kl_factor,
            reference=self.reference,
        )


def make_scorer(ctx: TaskContext, params: Params) -> Scorer:
    """The verifier, or the reward model that the task was given."""
    from gapo_trainer.reward.scorer import RewardModelScorer, VerifierScorer

    if params.reward_model.source == "verifier":
        return VerifierScorer()
    if "rm" not in ctx.inputs:
        raise SpecError("the ppo task has no rm input, and rewardModel.source is not verifier")
    return RewardModelScorer.load(ctx.inputs["rm"] / "rm")


def _verified(params: Params) -> bool:
    return params.evaluation.scorer == "verifier"


def _sampler(
    ctx: TaskContext, params: Params, actor: Engine[Policy], tokenizer: PreTrainedTokenizerBase
) -> Sampler:
    """Samples from the weights that are being trained."""
    model = actor.module.lm
    return Sampler(
        read_prompts(ctx.inputs["data"] / "prompts-train.jsonl", sys.maxsize, verified=_verified(params)),
        tokenizer,
        rollout_backend(
            model,
            eos_ids=eos_ids(tokenizer, model),
            batch=params.generation.batch,
            access=ctx.rollout,
            scratch=ctx.scratch,
            autocast=actor.autocast,
        ),
        params.generation,
        seed=ctx.task.seed,
        stage=ctx.task.stage,
        verified=_verified(params),
    )


def _new_critic(ctx: TaskContext, params: Params, start: Path, tokenizer: PreTrainedTokenizerBase) -> Critic:
    if params.critic.model is not None:
        into = ctx.scratch / "model"
        folder = locate(params.critic.model, what="critic.model", open=ctx.open, into=into)
        return build_critic(folder, reads=tokenizer)
    return build_critic(start, what="the supervised start")


def _optim(cfg: Ppo, lr: float) -> Optim:
    return Optim(lr, cfg.betas, cfg.eps, cfg.weight_decay, cfg.grad_clip)


def _controller(params: Params, learner: Learner | None) -> AdaptiveKL:
    """The KL controller: where the last stage left it, or as the spec says; a rollback's factor is applied once."""
    cfg, factor = params.ppo.kl, params.change.kl_factor
    fresh = AdaptiveKL(cfg.coef * factor, cfg.target, cfg.horizon if cfg.adaptive else 0)
    if learner is None or not cfg.adaptive:
        return fresh
    return replace(fresh, kl_coef=learner.kl_coef * factor / learner.kl_factor)

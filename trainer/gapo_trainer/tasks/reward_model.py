"""The `rm-warmup` and `rm` tasks: a reward model on augmented pairs, then on the generator's samples as well."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from gapo.api.evaluation import Guards
from gapo.api.models import RewardModel as RewardModelSpec
from gapo.api.training import Adversarial
from gapo.errors import InputArtifactError, SpecError
from gapo.tasks import Kind
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import load_generator
from gapo_trainer.models.source import locate
from gapo_trainer.reward import gate as gates
from gapo_trainer.reward import model as models
from gapo_trainer.reward import warmstart
from gapo_trainer.reward.batches import BatchComposer, Pools
from gapo_trainer.reward.encode import Corpus, PairEncoder, pad_id
from gapo_trainer.reward.heldout import HeldOut
from gapo_trainer.reward.model import RewardModel
from gapo_trainer.reward.rows import Generated, Row, generated, read_rows
from gapo_trainer.reward.sample_selection import hardest, near_misses, verifier
from gapo_trainer.reward.trainer import BceTrainer, Schedule
from gapo_trainer.rng import generator, stream
from gapo_trainer.rollout.samples import read_samples
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.runtime.params import TaskParams
from gapo_trainer.stats.reward_model import label_noise
from gapo_trainer.tasks.registry import runs

HELD_OUT_SAMPLES = 0.2
"""Share of the newest samples' prompts that a stage never trains on, so that rm/adversarial_* is not recall."""
DEFAULT_EPOCHS = 2.0


class Params(TaskParams):
    """The sections of the spec that these tasks read."""

    reward_model: RewardModelSpec
    adversarial: Adversarial = Adversarial()
    guards: Guards = Guards()

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Raises SpecError for what is missing or invalid, and where there is no reward model to train."""
        task_params = super().of(params)
        if task_params.reward_model.source != "rewardModel":
            raise SpecError("rewardModel.source is verifier: there is no reward model to train")
        return task_params


def _base(ctx: TaskContext, spec: RewardModelSpec) -> Path:
    """The folder that a reward model starts from: of the model that the spec names, or of the data's tokenizer."""
    if spec.model is None:
        return ctx.inputs["data"] / "rm-tokenizer"
    return locate(spec.model, what="rewardModel.model", open=ctx.open, into=ctx.scratch / "model")


@runs(Kind.RM_WARMUP)
def run_warmup(ctx: TaskContext) -> dict[str, float]:
    """Trains the first reward model; its metrics. Raises GateError where it does not pass its gate."""
    params = Params.of(ctx.params)
    spec, seed = params.reward_model, ctx.task.seed
    restored = ctx.restore()
    resumed = None if restored is None else restored[1]
    if resumed is None:
        model, encoder = models.build(spec, _base(ctx, spec), generator(seed, 0, "rm-init"))
    else:
        model, encoder = models.load(resumed / "rm", dropout=spec.dropout, what="the resume point")
    rows = read_rows(ctx.inputs["data"] / "rows-train.jsonl")
    corpus = _corpus(encoder, rows)
    if resumed is None and spec.warmup.warm_start == "generator":
        language_model, tokenizer = load_generator(ctx.inputs["generator"] / "generator")
        warmstart.take_embeddings(model, encoder.tokenizer, language_model, tokenizer)
    model.freeze(spec.freeze_layers)
    if resumed is None and spec.warmup.warm_start == "mlm":
        warmstart.learn_masked_words(
            _engine(model, spec),
            corpus,
            encoder.tokenizer,
            steps=spec.warmup.mlm_steps,
            batch=spec.batch,
            seed=seed,
        )
    steps = spec.warmup.steps
    trainer, held_out = _trainer(
        ctx,
        spec,
        _engine(model, spec),
        encoder,
        rows,
        corpus,
        BatchComposer(Pools.of(rows), batch=spec.batch, seed=seed, stage=0),
        Schedule(
            steps=steps,
            look_every=max(10, min(100, steps // 8)),
            early_stop="settled",
            mismatched_share=spec.warmup.mismatched_share,
            max_seconds=spec.warmup.max_seconds,
            label_smoothing=spec.label_smoothing,
            dropout=spec.dropout > 0,
        ),
        [],
    )
    trainer.run(ctx, _saver(model, encoder), resumed)
    metrics, shown = held_out.measure(model)
    verdict = gates.judge(metrics, spec.warmup.gate)
    metrics |= _training_metrics(trainer) | {"rm/gate_passed": float(verdict.passed)}
    ctx.report({"fraction": 1.0, "metrics": metrics})
    gates.enforce(verdict, spec.warmup.gate)
    _write(ctx.out, model, encoder, trainer, shown)
    return metrics


@runs(Kind.RM)
def run_stage(ctx: TaskContext) -> dict[str, float]:
    """Trains the reward model on with a stage's fresh samples as negatives; its metrics."""
    params = Params.of(ctx.params)
    spec, adversarial, seed, stage = params.reward_model, params.adversarial, ctx.task.seed, ctx.task.stage
    restored = ctx.restore()
    resumed = None if restored is None else restored[1]
    source = ctx.inputs["rm"] if resumed is None else resumed
    model, encoder = models.load(source / "rm", dropout=spec.dropout)
    model.freeze(spec.freeze_layers)
    rows = read_rows(ctx.inputs["data"] / "rows-train.jsonl")
    newest, unseen = split_samples(_samples(ctx, "samples", 0), seed, stage)
    older = [
        sample
        for age in range(1, adversarial.replay.stages)
        if f"samples-{age}" in ctx.inputs
        for sample in _samples(ctx, f"samples-{age}", age)
    ]
    fresh = _chosen(ctx, adversarial, [*newest, *older])
    corpus = _corpus(encoder, rows, fresh)
    composer = BatchComposer(
        Pools.of(rows, fresh, seed=seed, stage=stage),
        batch=spec.batch,
        seed=seed,
        stage=stage,
        generated_share=adversarial.generated_share_of_negatives,
        passing_label=adversarial.passing_label,
        newest_share=adversarial.replay.newest_share,
        prompt_swaps=adversarial.prompt_swaps,
    )
    steps = stage_steps(spec, adversarial, len(newest), with_older=bool(older))
    memorisation = params.guards.memorisation
    trainer, held_out = _trainer(
        ctx,
        spec,
        _engine(model, spec, adversarial.lr),
        encoder,
        rows,
        corpus,
        composer,
        Schedule(
            steps=steps,
            look_every=max(5, steps // 4),
            early_stop="unlearning",
            memorisation_gap=None if memorisation.action == "off" else memorisation.gap,
            label_smoothing=spec.label_smoothing,
            dropout=spec.dropout > 0,
        ),
        unseen,
    )
    trainer.judge_start()
    trainer.run(ctx, _saver(model, encoder), resumed)
    metrics, shown = held_out.measure(model)
    metrics |= _training_metrics(trainer) | {
        "rm/generated_share": composer.achieved_share,
        "rm/generated_pairs_cut": encoder.generated_cut_share,
        "rm/label_noise": label_noise(composer.labelled_zero, composer.passing_among_zero),
    }
    _write(ctx.out, model, encoder, trainer, shown)
    return metrics


def _chosen(ctx: TaskContext, adversarial: Adversarial, samples: list[Generated]) -> list[Generated]:
    """What the spec selects of all samples, and their near misses; each stage's by themselves."""
    ages = sorted({sample.age for sample in samples})
    by_age = [[sample for sample in samples if sample.age == age] for age in ages]
    chosen = [hardest(part) if adversarial.selection == "hard" else part for part in by_age]
    if adversarial.prompt_swaps > 0:
        verdict = verifier(ctx.inputs["data"] / "prompts-train.jsonl")
        chosen += [near_misses(part, verdict) for part in by_age]
    return [sample for part in chosen for sample in part]


def stage_steps(spec: RewardModelSpec, adversarial: Adversarial, newest: int, *, with_older: bool) -> int:
    """Steps of a stage: as given, or as many as `epochs` passes over the newest samples take.

    Without generated samples in the batches, as many as with half of the negatives generated: the control arm
    trains for the same steps.
    """
    if spec.steps is not None:
        return spec.steps
    share = adversarial.generated_share_of_negatives or 0.5
    per_step = share * spec.batch / 2 * (adversarial.replay.newest_share if with_older else 1.0)
    epochs = spec.epochs if spec.epochs is not None else DEFAULT_EPOCHS
    return max(1, math.ceil(epochs * newest / max(per_step, 1e-9)))


def split_samples(samples: list[Generated], seed: int, stage: int) -> tuple[list[Generated], list[Generated]]:
    """Samples to train on, and samples on other prompts to measure with (at least one prompt on each side)."""
    prompts = sorted({sample.prompt for sample in samples})
    order = np.random.default_rng(stream(seed, stage, "rm-held-out-samples")).permutation(len(prompts))
    count = min(len(prompts) - 1, max(1, round(HELD_OUT_SAMPLES * len(prompts))))
    unseen = {prompts[i] for i in order[:count]}
    return [s for s in samples if s.prompt not in unseen], [s for s in samples if s.prompt in unseen]


def _samples(ctx: TaskContext, name: str, age: int) -> list[Generated]:
    path = ctx.inputs[name] / "samples.jsonl"
    samples = generated(read_samples(path), age)
    if not samples:
        raise InputArtifactError(f"{name}: samples.jsonl is empty", manifest=_manifest(ctx, name))
    return samples


def _manifest(ctx: TaskContext, name: str) -> str:
    reference = ctx.task.inputs.get(name)
    return "" if reference is None else reference.key


def _corpus(encoder: PairEncoder, rows: Sequence[Row], samples: Sequence[Generated] = ()) -> Corpus:
    return Corpus(
        encoder,
        [(row.prompt, row.response) for row in rows],
        [(sample.prompt, sample.response) for sample in samples],
    )


def _engine(model: RewardModel, spec: RewardModelSpec, lr: float | None = None) -> Engine[RewardModel]:
    optim = Optim(lr or spec.lr, betas=(0.9, 0.98), eps=1e-8, weight_decay=spec.weight_decay)
    return Engine(model, optim, name="rm")


def _trainer(
    ctx: TaskContext,
    spec: RewardModelSpec,
    engine: Engine[RewardModel],
    encoder: PairEncoder,
    rows: list[Row],
    corpus: Corpus,
    composer: BatchComposer,
    schedule: Schedule,
    unseen: list[Generated],
) -> tuple[BceTrainer, HeldOut]:
    held_out = HeldOut.of(
        read_rows(ctx.inputs["data"] / "rows-val.jsonl"), rows, corpus, unseen, encoder, ctx.task.seed
    )
    trainer = BceTrainer(
        engine=engine,
        corpus=corpus,
        composer=composer,
        pad=pad_id(encoder.tokenizer),
        schedule=schedule,
        look=lambda: held_out.look(engine.module),
        gate=spec.warmup.gate,
        seed=ctx.task.seed,
        stage=ctx.task.stage,
    )
    return trainer, held_out


def _saver(model: RewardModel, encoder: PairEncoder) -> Callable[[Path], None]:
    return lambda folder: models.save(model, encoder.tokenizer, folder / "rm")


def _training_metrics(trainer: BceTrainer) -> dict[str, float]:
    state = trainer.state
    metrics = {"rm/trained_tokens": float(state.trained_tokens), "rm/steps": float(state.step)}
    return metrics if math.isnan(state.last_loss) else {**metrics, "rm/loss": state.last_loss}


def _write(
    out: Path, model: RewardModel, encoder: PairEncoder, trainer: BceTrainer, shown: dict[str, Any]
) -> None:
    if trainer.engine.rank == 0:
        models.save(model, encoder.tokenizer, out / "rm")
        with (out / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in trainer.state.rows)
        (out / "distributions.json").write_text(json.dumps(shown), encoding="utf-8")
    trainer.engine.accelerator.wait_for_everyone()

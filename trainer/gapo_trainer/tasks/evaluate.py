"""The `evaluate` task: a stage's generator on held-out prompts, and how well the reward model judged it there.

What is decided rests on sampled completions; greedy ones are shown beside them (docs/method/stages.md#primary-metric).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gapo.errors import DataError, SpecError
from gapo.tasks import Kind
from gapo_trainer.evaluate.crossplay import Cell, Score, auc_metrics, cross_play, earlier_cells
from gapo_trainer.evaluate.evaluated_generator import (
    EvaluatedGenerator,
    Params,
    SampledPrompts,
    autocast,
    counted,
    to_device,
)
from gapo_trainer.models.networks import load_generator
from gapo_trainer.ppo.summary import histogram as histogram_between
from gapo_trainer.reward.rows import Row, read_rows
from gapo_trainer.reward.scorer import RewardModelScorer
from gapo_trainer.rng import stream
from gapo_trainer.rollout.samples import Prompt, Sample, read_prompts, read_samples, write_samples
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.stats.lengths import by_length, score_length_correlation
from gapo_trainer.stats.policy import TokenMeans, token_means
from gapo_trainer.stats.rates import clustered_auc
from gapo_trainer.stats.reward_model import ece, finite, histogram, prompt_swap_gap, score_shares
from gapo_trainer.stats.satisfaction import constraint_satisfaction, satisfaction
from gapo_trainer.tasks.registry import runs

log = logging.getLogger(__name__)


@runs(Kind.EVALUATE)
def run(ctx: TaskContext) -> dict[str, float]:
    """Writes samples.jsonl and distributions.json to `ctx.out`; the manifest's metrics.

    Raises DataError for prompts that cannot be verified, SpecError where there is no verifier to evaluate with.
    """
    params = Params.of(ctx.params)
    if not params.verified:
        raise SpecError("evaluation.scorer is none: there is nothing to evaluate with; set it to verifier")
    prompts = read_prompts(ctx.inputs["data"] / "prompts-val.jsonl", params.evaluation.prompts, verified=True)
    drawn, greedy, tokens = _sample(ctx, params, prompts)
    samples = drawn.samples
    metrics = _described(samples, greedy, tokens)
    metrics |= counted(prompts, params.evaluation.prompts, "eval")
    shown: dict[str, Any] = {}
    if "rm" in ctx.inputs:
        judged = _ScoredSamples.of(ctx, params, samples)
        samples = judged.samples
        metrics |= judged.metrics
        shown |= judged.distributions
        if params.evaluation.cross_play_samples > 0:
            shown["crossPlay"], new = _cross_play(ctx, params, samples, judged.score)
            metrics |= auc_metrics(new)
    shown |= {
        "lengths": histogram_between(
            [len(sample.token_ids) for sample in samples], 0, params.generation.max_new_tokens
        ),
        "byLength": by_length(samples),
        "scoreLengthCorrelation": score_length_correlation(samples),
    }
    write_samples(ctx.out / "samples.jsonl", samples)
    text = json.dumps(shown, allow_nan=False)
    (ctx.out / "distributions.json").write_text(text + "\n", encoding="utf-8")
    return finite(metrics)


def _sample(
    ctx: TaskContext, params: Params, prompts: Sequence[Prompt]
) -> tuple[SampledPrompts, list[Sample], TokenMeans]:
    """Samples, greedy completions, and the policy's entropy and distance from its start on the samples."""
    subject = EvaluatedGenerator(
        ctx.inputs["generator"],
        prompts,
        params,
        ctx,
        version=version_of(ctx, "generator"),
    )
    passes = params.evaluation.samples

    def progress(done: int) -> None:
        ctx.report({"fraction": 0.7 * done / passes, "metrics": {}})

    progress(0)
    drawn = subject.draw(passes, role="evaluate", progress=progress)
    greedy = subject.draw_greedily().samples
    reference = None
    if "reference" in ctx.inputs:
        folder = ctx.inputs["reference"] / "generator"
        reference = to_device(load_generator(folder, what="the supervised start")[0])
    tokens = token_means(
        subject.model,
        reference,
        drawn.prompt_ids,
        drawn.token_ids,
        temperature=params.evaluation.temperature,
        autocast=autocast,
    )
    ctx.report({"fraction": 0.8, "metrics": {}})
    return drawn, greedy, tokens


def _described(samples: Sequence[Sample], greedy: Sequence[Sample], tokens: TokenMeans) -> dict[str, float]:
    """What is measured without a reward model."""
    overall, families = constraint_satisfaction(samples)
    metrics = {
        **satisfaction(samples).metrics("eval/satisfaction"),
        **overall.metrics("eval/constraint_satisfaction"),
        "eval/greedy_satisfaction": satisfaction(greedy).value,
        "eval/entropy": tokens.entropy,
        "eval/distinct_responses": len({sample.response for sample in samples}) / len(samples),
        "eval/response_length": fmean(len(sample.token_ids) for sample in samples),
        "eval/missing_eos": fmean(not sample.ended for sample in samples),
        "eval/special_tokens_inside": fmean(sample.special_inside for sample in samples),
    }
    for family, estimate in families.items():
        metrics |= estimate.metrics(f"eval/family/{family}")
    if tokens.kl is not None:
        metrics["eval/kl_sft"] = tokens.kl
    return metrics


@dataclass(frozen=True)
class _ScoredSamples:
    """The samples with the scores of the reward model that trained their generator, and how good those were."""

    samples: list[Sample]
    metrics: dict[str, float]
    distributions: dict[str, Any]
    score: Score

    @staticmethod
    def of(ctx: TaskContext, params: Params, samples: Sequence[Sample]) -> _ScoredSamples:
        scorer = RewardModelScorer.load(ctx.inputs["rm"] / "rm")
        score = _probabilities_by(scorer)
        scores = score([s.prompt for s in samples], [s.response for s in samples])
        passed = [sample.passed is True for sample in samples]
        fidelity = clustered_auc(scores, passed, [sample.prompt_id for sample in samples])
        metrics = {
            **(fidelity.metrics("fidelity/auc") if fidelity else {}),
            "fidelity/ece": ece(scores, [float(ok) for ok in passed]),
            "fidelity/n": float(len(scores)),
            "fidelity/pairs_cut": scorer.cut / len(scores),
            "rm/score_generated": fmean(scores),
            **score_shares("generated", scores),
        }
        swapped = _swapped_scores(samples, score)
        if swapped is not None:
            metrics["rm/prompt_swap_gap"] = prompt_swap_gap(scores, swapped)
        return _ScoredSamples(
            [sample.scored(x) for sample, x in zip(samples, scores, strict=True)],
            metrics,
            {"rmScores": {"generated": histogram(scores), **_held_out(ctx, params, score)}},
            score,
        )


def _swapped_scores(samples: Sequence[Sample], score: Score) -> list[float] | None:
    """Scores of the same responses under the next prompt; None where there is one prompt only."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    if len(prompts) < 2:
        return None
    following = dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
    return list(score([following[s.prompt] for s in samples], [s.response for s in samples]))


def _held_out(ctx: TaskContext, params: Params, score: Score) -> dict[str, Any]:
    """Histograms of the scores of held-out rows, as many as there are prompts."""
    rows = _held_out_rows(ctx)
    histograms = {}
    for name, label in (("accepted", 1), ("rejected", 0)):
        chosen = [row for row in rows if row.label == label][: params.evaluation.prompts]
        if chosen:
            histograms[name] = histogram(score([r.prompt for r in chosen], [r.response for r in chosen]))
    return histograms


def _held_out_rows(ctx: TaskContext) -> list[Row]:
    return read_rows(ctx.inputs["data"] / "rows-val.jsonl")


def _cross_play(
    ctx: TaskContext, params: Params, samples: Sequence[Sample], newest: Score
) -> tuple[list[Cell], list[Cell]]:
    """The matrix of all reward models and generators so far, and its cells that are new; `samples` are this stage's."""
    reward_models: dict[int, Callable[[], Score]] = {
        number: partial(scores_of, ctx.inputs[name]) for number, name in _numbered(ctx, "rm").items()
    }
    reward_models[stage_of(ctx, "rm")] = lambda: newest
    evaluations = {number: ctx.inputs[name] for number, name in _numbered(ctx, "evaluate").items()}
    generators: dict[int, Callable[[], Sequence[Sample]]] = {
        number: partial(read_samples, folder / "samples.jsonl") for number, folder in evaluations.items()
    }
    generators[ctx.task.stage] = lambda: samples
    earlier = earlier_cells(folder / "distributions.json" for _, folder in sorted(evaluations.items()))
    cells = cross_play(
        earlier,
        reward_models,
        generators,
        [(row.prompt, row.response) for row in _held_out_rows(ctx) if row.label == 1],
        limit=params.evaluation.cross_play_samples,
        seed=stream(ctx.task.seed, 0, "cross-play"),
    )
    return cells, [cell for cell in cells if (cell["rm"], cell["generator"]) not in earlier]


def scores_of(folder: Path) -> Score:
    """Q(c, t) in [0, 1] by the reward model in folder/rm."""
    return _probabilities_by(RewardModelScorer.load(folder / "rm"))


def _probabilities_by(scorer: RewardModelScorer) -> Score:
    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        probabilities: list[float] = scorer.score(prompts, responses).sigmoid().tolist()
        return probabilities

    return score


def stage_of(ctx: TaskContext, name: str) -> int:
    """The stage whose task committed the input `name`, from its manifest's key."""
    key = ctx.task.inputs[name].key
    match = re.match(r"stages/(\d+)/", key)
    if match is None:
        raise DataError(f"input {name}: {key} is not a manifest of a stage")
    return int(match[1])


def version_of(ctx: TaskContext, name: str) -> str:
    """Names the weights of an input: its manifest's digest, shortened."""
    return ctx.task.inputs[name].sha256[:12]


def _numbered(ctx: TaskContext, prefix: str) -> dict[int, str]:
    """Inputs `prefix-<stage>`, by stage."""
    names = {name: re.fullmatch(rf"{prefix}-(\d+)", name) for name in ctx.inputs}
    return {int(match[1]): name for name, match in names.items() if match}

"""The `export` task: the best stage's generator with its figures on the untouched test split.

The stage was chosen on validation prompts; best, last and start meet the test prompts here, once
(docs/method/stages.md#best-stage).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from gapo.api.models import Gate
from gapo.decision_rules.gate import PASSED
from gapo.tasks import Kind, TaskKey
from gapo.telemetry.wording import fewer_prompts
from gapo_trainer.evaluate.base_model import base_model
from gapo_trainer.evaluate.evaluated_generator import EvaluatedGenerator, Params, counted
from gapo_trainer.evaluate.model_card import TestSplitFigures, model_card
from gapo_trainer.models.networks import load_tokenizer
from gapo_trainer.reward.gate import judge
from gapo_trainer.rollout.samples import Prompt, Sample, read_prompts, write_samples
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.stats.rates import paired_gain
from gapo_trainer.stats.satisfaction import constraint_satisfaction, rates_by_prompt, satisfaction
from gapo_trainer.tasks.evaluate import stage_of, version_of
from gapo_trainer.tasks.registry import runs
from gapo_trainer.versions import versions

ARMS = {"best": "generator", "last": "last", "start": "start"}
"""Names in metrics, and the inputs that they are."""


@runs(Kind.EXPORT)
def run(ctx: TaskContext) -> dict[str, float]:
    """Writes model/ with its model card, and samples.jsonl of the best generator; the manifest's metrics.

    With evaluation.scorer none there are samples and no figures. Raises DataError for test prompts that cannot be
    verified.
    """
    params = Params.of(ctx.params)
    model = ctx.out / "model"
    shutil.copytree(ctx.inputs["generator"] / "generator", model)
    stage = stage_of(ctx, "generator")
    metrics = {"export/stage": float(stage)}
    prompts = read_prompts(
        ctx.inputs["data"] / "prompts-test.jsonl", params.evaluation.test_prompts, verified=params.verified
    )
    counts = counted(prompts, params.evaluation.test_prompts, "test")
    samples = _sample(ctx, params, prompts)
    write_samples(ctx.out / "samples.jsonl", samples["best"])
    figures = None
    if params.verified:
        rates = {arm: satisfaction(drawn) for arm, drawn in samples.items()}
        gain = paired_gain(rates_by_prompt(samples["best"]), rates_by_prompt(samples["start"]))
        families = constraint_satisfaction(samples["best"])[1]
        figures = TestSplitFigures(rates, gain, families, fewer=fewer_prompts(counts))
        metrics |= counts
        for arm, rate in rates.items():
            metrics |= rate.metrics(f"test/{arm}_satisfaction")
        metrics |= gain.metrics("test/gain")
    card = model_card(
        ctx.params,
        figures,
        stage=stage,
        last_stage=stage_of(ctx, "last"),
        seed=ctx.task.seed,
        run=ctx.task.run_id,
        gate=_gate_that_failed(ctx),
        tokenizer=load_tokenizer(model, what="the exported generator"),
        base=base_model(ctx.params["generator"].get("model"), ctx.open),
        versions=versions(),
    )
    (model / "README.md").write_text(card, encoding="utf-8")
    return metrics


def _gate_that_failed(ctx: TaskContext) -> str:
    """What the warm-up's gate found, where the run went on without passing it; else empty."""
    warmup = ctx.metrics_of(TaskKey(0, Kind.RM_WARMUP))
    if warmup.get(PASSED) != 0:
        return ""
    return judge(warmup, Gate.model_validate(ctx.params["rewardModel"]["warmup"]["gate"])).message


def _sample(ctx: TaskContext, params: Params, prompts: Sequence[Prompt]) -> dict[str, list[Sample]]:
    """One completion of each test prompt by each arm, all from the same random numbers; without a verifier, by the
    best alone. Arms with the same weights are sampled once."""
    arms = ARMS if params.verified else {"best": ARMS["best"]}
    by_version: dict[str, list[Sample]] = {}
    ctx.report({"fraction": 0.0, "metrics": {}})
    for done, name in enumerate(arms.values()):
        version = version_of(ctx, name)
        if version not in by_version:
            subject = EvaluatedGenerator(ctx.inputs[name], prompts, params, ctx, version=version)
            by_version[version] = subject.draw(1, role="export").samples
        ctx.report({"fraction": (done + 1) / (len(arms) + 1), "metrics": {}})
    return {arm: by_version[version_of(ctx, name)] for arm, name in arms.items()}

"""The ppo task: the files and metrics that it commits, and the parameters and inputs that it refuses."""

from __future__ import annotations

import json

import pytest
from tests.unit.ppo.ppo_stages import ITERATIONS, World
from transformers import AutoModelForCausalLM

from gapo.errors import DataError, SpecError
from gapo_trainer.tasks import ppo as ppo_task


def test_the_artifact_holds_the_files_and_metrics_that_the_contract_names(first):
    out, metrics, reports = first.out, first.metrics, first.reports
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {
        "generator/config.json",
        "generator/model.safetensors",
        "generator/tokenizer.json",
        "critic/model.safetensors",
        "critic/head.safetensors",
        "state/actor.safetensors",
        "state/critic.safetensors",
        "state/learner.json",
        "state/rollouts.jsonl",
        "samples.jsonl",
        "metrics.jsonl",
        "distributions.json",
    } <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    named = [
        "ppo/reward",
        "ppo/score",
        "ppo/score_std",
        "ppo/kl",
        "ppo/kl_sft",
        "ppo/kl_coef",
        "ppo/entropy",
        "ppo/clip_fraction",
        "ppo/approx_kl",
        "ppo/ratio_first_minibatch_max",
        "ppo/policy_loss",
        "ppo/value_loss",
        "critic/explained_variance",
        "ppo/response_length",
        "ppo/missing_eos",
        "ppo/skipped_updates",
        "ppo/rollouts",
        "ppo/trained_tokens",
        "ppo/generated_tokens",
        "ppo/distinct_responses",
        "ppo/satisfaction",
        "guard/score_first",
        "guard/score_first_se",
        "guard/score_last",
        "guard/score_last_se",
        "guard/satisfaction_first",
        "guard/satisfaction_first_se",
        "guard/satisfaction_last",
        "guard/satisfaction_last_se",
    ]
    assert set(named) <= set(metrics)
    assert all(isinstance(value, float | int) and value == value for value in metrics.values())
    assert metrics["ppo/rollouts"] == 16 * ITERATIONS
    assert metrics["ppo/ratio_first_minibatch_max"] <= 1e-6
    assert [round(r["fraction"], 2) for r in reports] == [0.0, 0.25, 0.5, 0.75]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert metrics["ppo/kl"] == pytest.approx(sum(row["ppo/kl"] for row in rows) / ITERATIONS)
    AutoModelForCausalLM.from_pretrained(out / "generator")


def test_the_samples_are_those_of_the_final_weights_with_verdicts_and_scores(first):
    out = first.out
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == len({sample["promptId"] for sample in samples}) == 20
    steps = json.loads((out / "state" / "actor.json").read_text())["steps"]
    assert steps == ITERATIONS * 2
    for sample in samples:
        words = sample["response"].split()
        assert sample["weightVersion"] == f"1.{steps}"
        whole = sample["ended"] and min(sample["tokenIds"][:-1], default=4) >= 4
        assert sample["passed"] == (whole and bool(words) and "b" not in words)
        assert [verdict["family"] for verdict in sample["verdicts"]] == ["keywords.forbidden_words"]
        share = words.count("a") / len(words) if words else 0
        assert sample["score"] == pytest.approx(min(max(share, 1e-3), 1 - 1e-3), abs=1e-5)
    shown = json.loads((out / "distributions.json").read_text())
    assert sum(shown["rmScores"]["generated"]["counts"]) == 20
    assert len(shown["rmScores"]["generated"]["edges"]) == 21


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ppo": {"clipLow": 7}}, "ppo.clipLow"),
        ({"generator": {"lora": {"r": 8}}}, "generator: Value error, lora is not supported"),
        ({"critic": {"lora": {"r": 8}}}, "critic.lora is not supported"),
        ({"generation": {"samplesPerPrompt": 3}}, "rolloutsPerIteration .16. must be a multiple"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_refused_by_name(world, sections, message):
    with pytest.raises(SpecError, match=message):
        ppo_task.Params.of(world.params(**sections))


def test_a_data_set_without_prompts_is_refused(world):
    (world.data / "prompts-train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"prompts-train\.jsonl"):
        world.run("a")


def test_the_verifier_can_be_the_reward(tmp_path):
    world = World(tmp_path)
    out, metrics = world.run("a", rewardModel={"source": "verifier"})
    assert metrics["ppo/score"] == pytest.approx(metrics["ppo/satisfaction"])
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {(sample["score"], sample["passed"]) for sample in samples} <= {(1.0, True), (0.0, False)}
    assert all(0 <= metrics[f"guard/score_{end}"] <= 1 for end in ("first", "last"))


def test_a_reward_model_that_is_not_among_the_inputs_is_missed_by_name(tmp_path):
    with pytest.raises(SpecError, match="no rm input"):
        World(tmp_path).run("a")

"""The evaluate task, whole, with small real models."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from itertools import groupby
from statistics import fmean

import pytest
import torch
from tests.unit.evaluate.tiny_evaluation import (
    EVALUATION,
    GENERATION,
    NO_VERIFIER,
    context,
    prompt_row,
    write_data,
    write_generator,
    write_lines,
    write_rm,
)

from gapo.errors import DataError, SpecError
from gapo_trainer.models.networks import load_generator, prompt_ids
from gapo_trainer.reward.scorer import RewardModelScorer
from gapo_trainer.tasks import evaluate

SPECIAL = set(range(4))
"""<pad>, <unk>, <bos> and <eos> come first."""
PROMPTS = {row["promptId"]: row for row in (prompt_row(i, "val") for i in range(16))}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    data = write_data(folder / "data")
    return {
        "data": ("stages/0/data/manifest-0.json", data),
        "sft": ("stages/0/sft/manifest-0.json", write_generator(folder / "sft", data, seed=0)),
        "ppo": ("stages/1/ppo/manifest-0.json", write_generator(folder / "ppo", data, seed=1)),
        "rm-0": ("stages/0/rm-warmup/manifest-0.json", write_rm(folder / "rm0", data, seed=0)),
        "rm-1": ("stages/1/rm/manifest-0.json", write_rm(folder / "rm1", data, seed=1)),
    }


@pytest.fixture(scope="module")
def evaluated(artifacts, tmp_path_factory):
    """Stage 1: its context, metrics and files."""
    ctx = context(tmp_path_factory.mktemp("stage1") / "out", inputs_of(artifacts))
    metrics = evaluate.run(ctx)
    return ctx, metrics, *files_of(ctx.out)


def inputs_of(artifacts, **more):
    return {
        "data": artifacts["data"],
        "generator": artifacts["ppo"],
        "reference": artifacts["sft"],
        "rm": artifacts["rm-0"],
        **more,
    }


def files_of(out):
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(x) for x in lines if x], json.loads((out / "distributions.json").read_text())


def whole(sample):
    return sample["ended"] and not sample["specialInside"]


def words_met(row, response):
    """The two constraints of the tiny prompts, checked in the plainest way; an empty response meets none."""
    words = re.findall(r"[a-z0-9]+", response)
    forbidden = set(row["constraints"][0]["params"]["words"])
    return [bool(words) and not forbidden & set(words), len(words) >= 4]


def test_every_prompt_is_sampled_as_often_as_asked_with_every_constraint_judged(evaluated) -> None:
    _, metrics, samples, _ = evaluated
    assert metrics["eval/satisfaction_n"] == len(samples) == 24
    counts = Counter(sample["promptId"] for sample in samples)
    assert set(counts.values()) == {3}
    assert len(counts) == 8
    responses = [tuple(sample["tokenIds"]) for sample in samples if len(sample["tokenIds"]) > 1]
    assert len(set(responses)) == len(responses) > 12
    for sample in samples:
        assert sample["prompt"] == PROMPTS[sample["promptId"]]["prompt"]
        assert [v["family"] for v in sample["verdicts"]] == ["keywords.forbidden_words", "length.words"]
        met = words_met(PROMPTS[sample["promptId"]], sample["response"])
        assert [v["ok"] for v in sample["verdicts"]] == met
        assert sample["specialInside"] == (sample["ended"] and bool(SPECIAL & set(sample["tokenIds"][:-1])))
        assert sample["passed"] == (all(met) and whole(sample))
        assert len(sample["tokenIds"]) <= GENERATION["maxNewTokens"]


def test_the_metrics_follow_from_the_samples(evaluated) -> None:
    ctx, metrics, samples, _ = evaluated
    rate = fmean(sample["passed"] for sample in samples)
    assert 0 < rate < 1
    assert metrics["eval/satisfaction"] == pytest.approx(rate)
    assert metrics["eval/satisfaction_lo"] < rate < metrics["eval/satisfaction_hi"]
    verdicts = [v | {"ok": v["ok"] and whole(sample)} for sample in samples for v in sample["verdicts"]]
    assert metrics["eval/constraint_satisfaction"] == pytest.approx(fmean(v["ok"] for v in verdicts))
    for family, group in groupby(sorted(verdicts, key=lambda v: v["family"]), key=lambda v: v["family"]):
        members = [v["ok"] for v in group]
        assert metrics[f"eval/family/{family}"] == pytest.approx(fmean(members))
        assert metrics[f"eval/family/{family}_n"] == len(members)
    assert metrics["eval/distinct_responses"] == len({s["response"] for s in samples}) / 24
    assert metrics["eval/response_length"] == fmean(len(s["tokenIds"]) for s in samples)
    assert metrics["eval/missing_eos"] == fmean(not s["ended"] for s in samples)
    assert metrics["eval/special_tokens_inside"] == fmean(s["specialInside"] for s in samples)
    assert 0 <= metrics["eval/greedy_satisfaction"] <= 1
    assert metrics["eval/entropy"] > 0
    assert metrics["eval/kl_sft"] > 0.1
    fractions = [report["fraction"] for report in ctx.report.__self__]
    assert fractions == sorted(fractions)


def test_it_is_counted_how_many_prompts_there_were_of_those_asked_for(evaluated) -> None:
    _, metrics, samples, _ = evaluated
    assert metrics["eval/prompts"] == len({sample["promptId"] for sample in samples}) == 8
    assert metrics["eval/prompts_asked"] == 8


def test_fidelity_is_that_of_the_reward_model_on_these_samples(evaluated, artifacts) -> None:
    _, metrics, samples, shown = evaluated
    scorer = RewardModelScorer.load(artifacts["rm-0"][1] / "rm")
    scores = torch.sigmoid(scorer.score([s["prompt"] for s in samples], [s["response"] for s in samples]))
    assert [s["score"] for s in samples] == pytest.approx(scores.tolist(), abs=1e-6)
    passed = [s["score"] for s in samples if s["passed"]]
    failed = [s["score"] for s in samples if not s["passed"]]
    wins = [(p > f) + 0.5 * (p == f) for p in passed for f in failed]
    assert metrics["fidelity/auc"] == pytest.approx(fmean(wins))
    # All scores of an untrained reward model lie in one or two bins about 1/2.
    assert metrics["fidelity/ece"] == pytest.approx(
        abs(fmean(s["score"] - s["passed"] for s in samples)), abs=0.1
    )
    assert metrics["fidelity/n"] == metrics["fidelity/auc_n"] == 24
    assert metrics["fidelity/auc_lo"] < metrics["fidelity/auc"] < metrics["fidelity/auc_hi"]
    assert metrics["fidelity/pairs_cut"] == 0
    assert metrics["rm/score_generated"] == pytest.approx(float(scores.mean()))
    for bound in (0.2, 0.4, 0.6, 0.8, 0.95, 1.0):
        assert metrics[f"scores/generated/le_{bound}"] == sum(s["score"] <= bound for s in samples) / 24
    assert not [name for name in metrics if name.startswith(("scores/accepted", "scores/rejected"))]
    assert sum(shown["rmScores"]["generated"]["counts"]) == 24
    assert sum(shown["rmScores"]["accepted"]["counts"]) == sum(shown["rmScores"]["rejected"]["counts"]) == 8
    assert sum(shown["lengths"]["counts"]) == 24
    assert sum(decile["n"] for decile in shown["byLength"]) == 24


def test_the_prompt_swap_gap_compares_each_response_under_its_own_and_another_prompt(
    evaluated, artifacts
) -> None:
    _, metrics, samples, _ = evaluated
    scorer = RewardModelScorer.load(artifacts["rm-0"][1] / "rm")
    prompts = list(dict.fromkeys(s["prompt"] for s in samples))
    swapped = [prompts[(prompts.index(s["prompt"]) + 1) % 8] for s in samples]
    responses = [s["response"] for s in samples]
    own = torch.sigmoid(scorer.score([s["prompt"] for s in samples], responses))
    other = torch.sigmoid(scorer.score(swapped, responses))
    assert metrics["rm/prompt_swap_gap"] == pytest.approx(float((own - other).mean()), abs=1e-6)
    assert metrics["rm/prompt_swap_gap"] != 0


def test_greedy_satisfaction_is_that_of_the_likeliest_completions(evaluated, artifacts) -> None:
    _, metrics, samples, _ = evaluated
    model, tokenizer = load_generator(artifacts["ppo"][1] / "generator")
    passed = []
    for name in dict.fromkeys(sample["promptId"] for sample in samples):
        ids = prompt_ids(tokenizer, PROMPTS[name]["prompt"])
        out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12)[0, len(ids) :].tolist()
        text = tokenizer.decode(out[:-1] if out[-1] == tokenizer.eos_token_id else out)
        clean = out[-1] == tokenizer.eos_token_id and not SPECIAL & set(out[:-1])
        passed.append(clean and all(words_met(PROMPTS[name], text)))
    assert metrics["eval/greedy_satisfaction"] == fmean(passed)


def test_the_same_task_writes_the_same_bytes_and_another_seed_samples_otherwise(
    evaluated, artifacts, tmp_path
) -> None:
    ctx, metrics, *_ = evaluated
    again = context(tmp_path / "again" / "out", inputs_of(artifacts))
    assert evaluate.run(again) == metrics
    for name in ("samples.jsonl", "distributions.json"):
        assert (again.out / name).read_bytes() == (ctx.out / name).read_bytes()
    other = context(tmp_path / "other" / "out", inputs_of(artifacts), seed=1)
    evaluate.run(other)
    assert (other.out / "samples.jsonl").read_bytes() != (ctx.out / "samples.jsonl").read_bytes()


def test_samples_do_not_depend_on_the_decoding_batch(evaluated, artifacts, tmp_path) -> None:
    _, _, samples, _ = evaluated
    ctx = context(tmp_path / "out", inputs_of(artifacts), generation={**GENERATION, "batch": 3})
    evaluate.run(ctx)
    assert [s["tokenIds"] for s in files_of(ctx.out)[0]] == [s["tokenIds"] for s in samples]


def test_the_start_is_at_no_distance_from_itself(artifacts, tmp_path) -> None:
    inputs = {"data": artifacts["data"], "generator": artifacts["sft"], "reference": artifacts["sft"]}
    assert evaluate.run(context(tmp_path / "out", inputs))["eval/kl_sft"] == 0.0


def test_without_a_reward_model_there_are_verdicts_and_no_fidelity(artifacts, tmp_path) -> None:
    ctx = context(tmp_path / "out", {"data": artifacts["data"], "generator": artifacts["sft"]}, stage=0)
    metrics = evaluate.run(ctx)
    assert 0 < metrics["eval/satisfaction"] < 1
    assert not [name for name in metrics if name.startswith(("fidelity/", "rm/", "scores/", "crossplay/"))]
    assert "eval/kl_sft" not in metrics
    samples, shown = files_of(ctx.out)
    assert "score" not in samples[0]
    assert set(shown) == {"lengths", "byLength", "scoreLengthCorrelation"}


def crossplay_in(metrics):
    prefix = "crossplay/auc/"
    return {name.removeprefix(prefix): x for name, x in metrics.items() if name.startswith(prefix)}


def test_the_start_meets_the_warmed_up_reward_model(artifacts, tmp_path) -> None:
    inputs = {"data": artifacts["data"], "generator": artifacts["sft"], "rm": artifacts["rm-0"]}
    metrics = evaluate.run(context(tmp_path / "out", inputs, stage=0))
    assert crossplay_in(metrics).keys() == {"0/0"}
    assert metrics["scores/generated/le_1.0"] == 1.0


def test_the_last_evaluation_holds_the_whole_cross_play_matrix(artifacts, evaluated, tmp_path) -> None:
    ctx1, metrics1, _, shown1 = evaluated
    # Stage 1 meets the warm-up reward model alone.
    assert [(c["rm"], c["generator"]) for c in shown1["crossPlay"]] == [(0, 1)]
    assert crossplay_in(metrics1) == {"0/1": shown1["crossPlay"][0]["auc"]}
    assert shown1["crossPlay"][0]["n"] == EVALUATION["crossPlaySamples"]
    inputs = inputs_of(
        artifacts,
        **{
            "rm": artifacts["rm-1"],
            "rm-0": artifacts["rm-0"],
            "evaluate-1": ("stages/1/evaluate/manifest-0.json", ctx1.out),
        },
    )
    ctx2 = context(tmp_path / "out", inputs, stage=2)
    metrics2 = evaluate.run(ctx2)
    cells = {(c["rm"], c["generator"]): c for c in files_of(ctx2.out)[1]["crossPlay"]}
    assert sorted(cells) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert cells[0, 1] == shown1["crossPlay"][0]
    # What the stage before has told is not told again.
    assert crossplay_in(metrics2) == {f"{i}/{j}": cells[i, j]["auc"] for i, j in ((0, 2), (1, 1), (1, 2))}
    assert all(0 <= cell["winRate"] <= 1 for cell in cells.values())


def test_cells_of_earlier_evaluations_are_handed_on_as_they_are(artifacts, evaluated, tmp_path) -> None:
    ctx1, *_ = evaluated
    earlier = tmp_path / "evaluate-1"
    earlier.mkdir()
    (earlier / "samples.jsonl").write_bytes((ctx1.out / "samples.jsonl").read_bytes())
    cell = {"rm": 0, "generator": 1, "auc": 0.125, "winRate": 0.25, "n": 8}
    (earlier / "distributions.json").write_text(json.dumps({"crossPlay": [cell]}))
    inputs = inputs_of(
        artifacts, **{"rm": artifacts["rm-1"], "evaluate-1": ("stages/1/evaluate/manifest-0.json", earlier)}
    )
    ctx2 = context(tmp_path / "out", inputs, stage=2)
    evaluate.run(ctx2)
    assert files_of(ctx2.out)[1]["crossPlay"][0] == cell


def test_all_samples_in_cross_play_give_the_fidelity_of_the_current_reward_model(artifacts, tmp_path) -> None:
    ctx = context(tmp_path / "out", inputs_of(artifacts), evaluation={**EVALUATION, "crossPlaySamples": 24})
    metrics = evaluate.run(ctx)
    assert files_of(ctx.out)[1]["crossPlay"][0]["auc"] == pytest.approx(metrics["fidelity/auc"])


def test_cross_play_of_no_samples_is_switched_off(artifacts, tmp_path) -> None:
    ctx = context(tmp_path / "out", inputs_of(artifacts), evaluation={**EVALUATION, "crossPlaySamples": 0})
    metrics = evaluate.run(ctx)
    assert "crossPlay" not in files_of(ctx.out)[1]
    assert crossplay_in(metrics) == {}


def test_nothing_is_evaluated_without_a_verifier(artifacts, tmp_path) -> None:
    ctx = context(tmp_path / "out", inputs_of(artifacts), **NO_VERIFIER)
    with pytest.raises(SpecError, match=r"evaluation.scorer is none"):
        evaluate.run(ctx)


def test_prompts_without_constraints_are_refused_before_any_model_is_loaded(artifacts, tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "prompts-val.jsonl", [{"promptId": "free", "prompt": "write what you like"}])
    ctx = context(tmp_path / "out", inputs_of(artifacts, data=("stages/0/data/manifest-0.json", data)))
    with pytest.raises(
        DataError, match=r"prompt 'write what you like' has no constraints.*evaluation.scorer: none"
    ):
        evaluate.run(ctx)


def test_an_evaluation_says_when_it_has_fewer_prompts_than_were_asked_for(
    artifacts, tmp_path, caplog
) -> None:
    few = {**EVALUATION, "prompts": 20, "samples": 1, "crossPlaySamples": 0}
    with caplog.at_level(logging.WARNING):
        metrics = evaluate.run(context(tmp_path / "out", inputs_of(artifacts), evaluation=few))
    assert metrics["eval/prompts"] == metrics["eval/satisfaction_n"] == 16
    assert "the validation split has 16 prompts, fewer than the 20 of evaluation.prompts" in caplog.text
    caplog.clear()
    enough = {**few, "prompts": 16}
    evaluate.run(context(tmp_path / "enough", inputs_of(artifacts), evaluation=enough))
    assert "fewer than" not in caplog.text

"""The export task: the model that others load, its figures and its card."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from statistics import fmean

import pytest
import torch
import yaml
from tests.unit.evaluate.tiny_evaluation import (
    EVALUATION,
    NO_VERIFIER,
    SPEC,
    context,
    write_data,
    write_generator,
    write_lines,
)
from tests.unit.ppo.tiny_ppo import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from gapo.api.methods import METHODS, WITHOUT_REWARD, Method
from gapo.api.run import GapoRunSpec
from gapo.tasks import Kind, TaskKey, task_params
from gapo_trainer.evaluate.model_card import model_card
from gapo_trainer.models.networks import load_tokenizer, prompt_ids
from gapo_trainer.tasks import export


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    data = write_data(folder / "data")
    return {
        "data": ("stages/0/data/manifest-0.json", data),
        "generator": ("stages/2/ppo/manifest-0.json", write_generator(folder / "best", data, seed=2)),
        "last": ("stages/3/ppo/manifest-0.json", write_generator(folder / "last", data, seed=3)),
        "start": ("stages/0/sft/manifest-0.json", write_generator(folder / "start", data, seed=0)),
    }


@pytest.fixture(scope="module")
def exported(inputs, tmp_path_factory):
    ctx = context(tmp_path_factory.mktemp("export") / "out", inputs, kind=Kind.EXPORT, stage=3)
    return ctx, export.run(ctx)


def samples_of(ctx):
    lines = (ctx.out / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def card_of(ctx):
    return (ctx.out / "model" / "README.md").read_text(encoding="utf-8")


def test_the_exported_folder_loads_and_is_the_best_stages_generator(exported, inputs) -> None:
    ctx, metrics = exported
    model = AutoModelForCausalLM.from_pretrained(ctx.out / "model")
    best = AutoModelForCausalLM.from_pretrained(inputs["generator"][1] / "generator")
    ids = torch.tensor([[2, 9, 10, 11]])
    assert torch.equal(model(ids).logits, best(ids).logits)
    assert AutoTokenizer.from_pretrained(ctx.out / "model").decode([9]) != ""
    assert metrics["export/stage"] == 2


def test_the_three_arms_meet_the_test_prompts_and_the_gain_is_paired_by_prompt(
    exported, inputs, tmp_path
) -> None:
    ctx, metrics = exported
    samples = samples_of(ctx)
    assert len(samples) == EVALUATION["testPrompts"] == metrics["test/best_satisfaction_n"]
    assert all(sample["promptId"].startswith("test-") for sample in samples)
    assert metrics["test/best_satisfaction"] == fmean(sample["passed"] for sample in samples)
    # The start alone, exported as the best of a run without stages, meets the same prompts with the same numbers.
    alone = context(
        tmp_path / "out",
        {**inputs, "generator": inputs["start"], "last": inputs["start"]},
        kind=Kind.EXPORT,
        stage=3,
    )
    alone_metrics = export.run(alone)
    start = {sample["promptId"]: sample["passed"] for sample in samples_of(alone)}
    assert alone_metrics["test/best_satisfaction"] == metrics["test/start_satisfaction"]
    differences = [sample["passed"] - start[sample["promptId"]] for sample in samples]
    assert metrics["test/gain"] == pytest.approx(fmean(differences))
    assert metrics["test/gain_lo"] < metrics["test/gain"] < metrics["test/gain_hi"]
    assert metrics["test/gain_n"] == 10
    assert alone_metrics["test/gain"] == 0.0


def test_the_same_task_writes_the_same_bytes(exported, inputs, tmp_path) -> None:
    ctx, metrics = exported
    again = context(tmp_path / "out", inputs, kind=Kind.EXPORT, stage=3)
    assert export.run(again) == metrics
    names = sorted(p.relative_to(ctx.out) for p in ctx.out.rglob("*") if p.is_file())
    assert [p for p in names if p.name in {"README.md", "model.safetensors", "samples.jsonl", "config.json"}]
    for name in names:
        assert (again.out / name).read_bytes() == (ctx.out / name).read_bytes()


def test_the_card_states_the_measured_figures_with_their_intervals(exported) -> None:
    ctx, metrics = exported
    card = card_of(ctx)
    for arm in ("best", "last", "start"):
        name = f"test/{arm}_satisfaction"
        assert (
            f"| {100 * metrics[name]:.1f} % | {100 * metrics[f'{name}_lo']:.1f} % – "
            f"{100 * metrics[f'{name}_hi']:.1f} % |"
        ) in card
    assert f"{100 * metrics['test/gain']:+.1f} percentage points" in card
    assert "stage 2 of 3" in card
    assert "`keywords.forbidden_words`" in card
    assert "200 synthetic pairs of the grammar `micro`" in card


def test_the_cards_front_matter_and_settings_are_yaml_with_the_runs_values(exported) -> None:
    ctx, _ = exported
    card = card_of(ctx)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "transformers"
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert settings == ctx.params
    assert settings["ppo"]["kl"]["coef"] == 0.01


def test_fewer_test_prompts_than_asked_for_are_counted_and_said(inputs, tmp_path, caplog) -> None:
    asked = {"evaluation": {**EVALUATION, "testPrompts": 500}}
    ctx = context(tmp_path / "out", inputs, kind=Kind.EXPORT, stage=3, **asked)
    metrics = export.run(ctx)
    assert (metrics["test/prompts"], metrics["test/prompts_asked"]) == (16.0, 500.0)
    sentence = "the test split has 16 prompts, fewer than the 500 of evaluation.testPrompts"
    assert sentence in caplog.text
    assert sentence in card_of(ctx)


def test_as_many_prompts_as_asked_for_are_no_news(exported) -> None:
    ctx, metrics = exported
    assert metrics["test/prompts"] == metrics["test/prompts_asked"] == 10.0
    assert "fewer than" not in card_of(ctx)


def test_the_cards_code_runs_and_reads_prompts_as_training_did(exported) -> None:
    ctx, _ = exported
    code = re.search(r"```python\n(.*?)```", card_of(ctx), re.DOTALL)[1]
    prompt = "lamp ; 8 words ; no nice ."
    code = code.replace('folder = "."', f"folder = {str(ctx.out / 'model')!r}").replace("…", prompt)
    scope = {}
    torch.manual_seed(0)
    exec(code, scope)  # noqa: S102
    assert scope["ids"] == prompt_ids(load_tokenizer(ctx.out / "model"), prompt)
    assert scope["text"]


@pytest.mark.parametrize("label", ["drop", "half", "one"])
def test_a_run_that_showed_verdicts_to_its_reward_model_says_so(inputs, tmp_path, label: str) -> None:
    ctx = context(tmp_path / "out", inputs, kind=Kind.EXPORT, adversarial={"passingLabel": label})
    export.run(ctx)
    assert "**Verifier-informed**" in card_of(ctx)
    assert f"labelled `{label}`" in card_of(ctx)


def test_a_run_after_the_papers_labels_is_not_called_verifier_informed(exported) -> None:
    assert "erifier-informed" not in card_of(exported[0])


@pytest.mark.parametrize("passed", [0.0, 1.0, None])
def test_the_card_says_that_the_reward_model_did_not_pass_its_gate(inputs, tmp_path, passed) -> None:
    warmup = {"rm/pair_accuracy": 0.61, "rm/pair_family/length": 0.9}
    if passed is not None:
        warmup["rm/gate_passed"] = passed
    ctx = replace(
        context(tmp_path / "out", inputs, kind=Kind.EXPORT),
        metrics_of=lambda key: warmup if key == TaskKey(0, Kind.RM_WARMUP) else {},
    )
    export.run(ctx)
    sentence = "did not pass its gate before PPO** (`rewardModel.warmup.gate`, `onFail: warn`): pair accuracy 0.61 (0.75"
    assert (sentence in card_of(ctx)) == (passed == 0.0)


def test_a_run_rewarded_by_the_verifier_says_so(inputs, tmp_path) -> None:
    ctx = context(
        tmp_path / "out", inputs, kind=Kind.EXPORT, method="PPO", rewardModel={"source": "verifier"}
    )
    export.run(ctx)
    assert "The reward was the verifier's own verdict" in card_of(ctx)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({}, "retrained after every stage on the generator's own samples (GAPO"),
        (
            {"adversarial": {"promptSwaps": 0.5}},
            "on the generator's own samples, 50% of them read under another prompt (a variant of GAPO,",
        ),
        (
            {"adversarial": {"selection": "hard", "passingLabel": "one"}},
            "on the hard half of the generator's own samples (a variant of GAPO,",
        ),
        ({"method": "PPO"}, "PPO against a frozen encoder reward model, from"),
        ({"adversarial": {"retrain": False}}, "PPO against a frozen encoder reward model, from"),
        ({"adversarial": {"generatedShareOfNegatives": 0}}, "the control arm of GAPO"),
        ({"method": "SFT", "rewardModel": None}, "Made by supervised training on accepted responses, from"),
    ],
)
def test_the_card_names_the_method_that_the_settings_amount_to(sections, sentence: str) -> None:
    params = task_params(GapoRunSpec.model_validate({**SPEC, **sections}), Kind.EXPORT)
    card = model_card(params, None, stage=0, last_stage=1, seed=0, run="tiny", tokenizer=tiny_tokenizer())
    assert sentence in card


@pytest.mark.parametrize("method", WITHOUT_REWARD)
def test_a_method_without_reward_has_words_of_its_own_on_the_card(method: Method) -> None:
    params = task_params(
        GapoRunSpec.model_validate({**SPEC, "method": method, "rewardModel": None}), Kind.EXPORT
    )
    card = model_card(params, None, stage=0, last_stage=1, seed=0, run="tiny", tokenizer=tiny_tokenizer())
    assert f"Made by {METHODS[method].made_by}, from" in card
    assert METHODS[method].made_by
    assert "PPO" not in card


def test_without_a_verifier_there_are_samples_and_no_figures(inputs, tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"promptId": f"t{i}", "prompt": f"{noun} :"} for i, noun in enumerate(("lamp", "mug"))]
    write_lines(data / "prompts-test.jsonl", rows)
    ctx = context(
        tmp_path / "out",
        {**inputs, "data": ("stages/0/data/manifest-0.json", data)},
        kind=Kind.EXPORT,
        **NO_VERIFIER,
    )
    assert export.run(ctx) == {"export/stage": 2.0}
    assert [sample["passed"] for sample in samples_of(ctx)] == [None, None]
    assert "no verifier" in card_of(ctx)
    assert "satisfaction" not in card_of(ctx)


def test_the_card_names_files_without_telling_where_they_lay(inputs, tmp_path) -> None:
    source = {"uri": "/home/someone/secret/pairs.jsonl", "sha256": "ab" * 32}
    ctx = context(
        tmp_path / "out",
        inputs,
        kind=Kind.EXPORT,
        data={"sources": [source]},
        generator={"model": "/home/someone/models/base"},
        rewardModel={"model": "/home/someone/models/encoder"},
    )
    export.run(ctx)
    card = card_of(ctx)
    assert "`pairs.jsonl` (sha256 abababababab)" in card
    assert "`base`" in card
    assert "someone" not in card

"""Supervised training: what carries loss, how long a stage is, and resume points."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.ppo.tiny_ppo import forward_logprobs, tiny_folder, tiny_model, tiny_tokenizer
from tests.unit.reward.tiny_reward import Resume, context, lines_of, micro
from transformers import AutoModelForCausalLM, AutoTokenizer

from gapo.errors import DataError, SpecError
from gapo.tasks import Kind
from gapo_trainer.models.networks import prompt_ids, response_ids
from gapo_trainer.policy_model import MicroBatch, Policy, Sequences
from gapo_trainer.sft import nll
from gapo_trainer.tasks.sft import Params, run

SCRATCH = {"layers": 1, "hidden": 32, "heads": 2, "maxPositions": 48}


def params(**sections):
    return {
        "data": {"generate": {"grammar": "micro", "size": 60}},
        "generator": {"fromScratch": SCRATCH},
        "sft": {"steps": 12, "lr": 3e-3, "batch": 16},
        "stages": {"iterations": 2, "rolloutsPerIteration": 40},
        "ppo": {"epochs": 2},
    } | sections


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro(tmp_path_factory.mktemp("data"))


def test_the_loss_is_the_sum_over_response_tokens_and_eos_and_no_prompt_token():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    rows = [("a b c", "d e"), ("f", "g h i j")]
    prompts = [prompt_ids(tokenizer, p) for p, _ in rows]
    responses = [response_ids(tokenizer, r) for _, r in rows]
    assert [r[-1] for r in responses] == [tokenizer.eos_token_id] * 2
    expected = -sum(sum(forward_logprobs(model, p, r)) for p, r in zip(prompts, responses, strict=True))
    sequences = Sequences.of(prompts, responses, torch.device("cpu"))
    loss = nll(Policy(model), MicroBatch.of(sequences, torch.tensor([0, 1])))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_generator_from_scratch_learns_and_is_a_plain_hugging_face_folder(tmp_path, data):
    ctx = context(tmp_path, Kind.SFT, params(sft={"steps": 60, "lr": 3e-3, "batch": 16}), {"data": data})
    metrics = run(ctx)
    assert set(metrics) == {"sft/loss", "sft/val_loss", "sft/trained_tokens"}
    rows = lines_of(ctx.out / "metrics.jsonl")
    assert rows[-1]["step"] == 60
    for row in rows:
        assert 0 < row["sft/lr"] <= 3e-3
        assert row["sft/grad_norm"] > 0
    clocks, tokens = ([row[name] for row in rows] for name in ("wall/seconds", "sft/trained_tokens"))
    assert clocks == sorted(clocks)
    assert tokens == sorted(tokens)
    assert tokens[-1] == metrics["sft/trained_tokens"]
    # A cosine falls to a tenth of the peak, but for the last step's.
    assert rows[-1]["sft/lr"] == pytest.approx(3e-4, rel=0.05)
    assert metrics["sft/val_loss"] < rows[0]["sft/val_loss"] - 0.3
    assert metrics["sft/val_loss"] < math.log(79)
    model = AutoModelForCausalLM.from_pretrained(ctx.out / "generator")
    tokenizer = AutoTokenizer.from_pretrained(ctx.out / "generator")
    assert model.config.vocab_size == len(tokenizer)


def test_only_accepted_rows_are_learnt_from(tmp_path, data):
    other = tmp_path / "data"
    other.mkdir()
    for path in data.iterdir():
        (other / path.name).symlink_to(path)
    rows = lines_of(data / "rows-train.jsonl")
    (other / "rows-train.jsonl").unlink()
    with (other / "rows-train.jsonl").open("w") as file:
        for row in rows:
            response = row["response"] if row["label"] else "this is never read"
            file.write(json.dumps(row | {"response": response}) + "\n")
    weights = []
    for i, folder in enumerate((data, other)):
        ctx = context(tmp_path / str(i), Kind.SFT, params(), {"data": folder})
        run(ctx)
        weights.append(load_file(ctx.out / "generator" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_zero_steps_hand_on_the_given_model_untouched(tmp_path, data):
    given = tiny_folder(tmp_path / "given")
    start = load_file(given / "generator" / "model.safetensors")
    chosen = params(generator={"model": str(given / "generator")}, sft={"steps": 0})
    ctx = context(tmp_path, Kind.SFT, chosen, {"data": data})
    metrics = run(ctx)
    assert metrics["sft/trained_tokens"] == 0
    assert "sft/loss" not in metrics
    after = load_file(ctx.out / "generator" / "model.safetensors")
    assert all(torch.equal(start[name], after[name]) for name in start)


def test_a_later_stage_trains_on_as_many_rows_as_ppo_would_see(tmp_path, data):
    first = context(tmp_path, Kind.SFT, params(), {"data": data}, name="first")
    run(first)
    # 2 iterations x 40 rollouts x 2 epochs / 16 rows
    assert Params.of(context(tmp_path, Kind.SFT, params(), {}).params).steps(1) == 10
    inputs = {"data": data, "generator": first.out}
    second = context(tmp_path, Kind.SFT, params(), inputs, stage=1, name="second")
    run(second)
    assert lines_of(second.out / "metrics.jsonl")[-1]["step"] == 10
    before = lines_of(first.out / "metrics.jsonl")[-1]["sft/val_loss"]
    assert lines_of(second.out / "metrics.jsonl")[0]["sft/val_loss"] < before + 0.2


@pytest.mark.parametrize(("stop_at", "count"), [(1, 1), (7, 1), (7, 2)])
def test_a_resumed_task_ends_bit_for_bit_where_an_uninterrupted_one_does(
    tmp_path, data, stop_at, count, threads
):
    threads(count)

    def train(name, at):
        ctx = context(tmp_path, Kind.SFT, params(), {"data": data}, name=name, stop_at=at)
        return ctx, run(ctx)

    whole, expected = train("whole", None)
    with pytest.raises(Resume.StopRequestedError):
        train("cut", stop_at)
    resumed, weights = train("cut", None)
    assert weights == expected
    assert (resumed.out / "generator" / "model.safetensors").read_bytes() == (
        whole.out / "generator" / "model.safetensors"
    ).read_bytes()


def test_a_step_does_not_depend_on_how_a_batch_is_cut_into_micro_batches(tmp_path, data):
    weights = []
    for tokens in (16_384, 100):
        ctx = context(
            tmp_path / str(tokens), Kind.SFT, params(ppo={"tokensPerMicroBatch": tokens}), {"data": data}
        )
        run(ctx)
        weights.append(load_file(ctx.out / "generator" / "model.safetensors"))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-4), name


def test_another_seed_starts_from_other_weights_and_reads_the_rows_in_another_order(tmp_path, data):
    losses = []
    for seed in (0, 1):
        ctx = context(tmp_path / str(seed), Kind.SFT, params(), {"data": data}, seed=seed)
        losses.append(run(ctx)["sft/loss"])
    assert losses[0] != losses[1]


def test_rows_that_do_not_fit_are_refused_with_the_field_that_bounds_them(tmp_path, data):
    short = params(generator={"fromScratch": SCRATCH | {"maxPositions": 16}})
    with pytest.raises(DataError, match=r"a row has \d+ tokens, the generator's longest sequence is 16"):
        run(context(tmp_path / "a", Kind.SFT, short, {"data": data}))
    short = params(data={"generate": {"grammar": "micro", "size": 60}, "maxPromptTokens": 5})
    with pytest.raises(DataError, match=r"data\.maxPromptTokens is 5"):
        run(context(tmp_path / "b", Kind.SFT, short, {"data": data}))


def test_adapters_are_refused_rather_than_ignored(tmp_path, data):
    with pytest.raises(SpecError, match="generator: Value error, lora is not supported yet"):
        run(
            context(
                tmp_path, Kind.SFT, params(generator={"fromScratch": SCRATCH, "lora": {}}), {"data": data}
            )
        )

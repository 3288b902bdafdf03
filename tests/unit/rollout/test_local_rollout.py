"""Sampling in process: what comes out is what the model says, whatever is decoded beside it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.unit.ppo.tiny_ppo import BOS, EOS, forward_logprobs, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, GPT2Config

from gapo.errors import DataError, InvariantError
from gapo_trainer.models.networks import initialise
from gapo_trainer.rng import generator
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.transformers_backend import TransformersBackend

PROMPTS = [[BOS, *range(4, 4 + n)] for n in (1, 5, 2, 7, 3, 3, 9, 1, 6)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer())


def sample(model, prompts=PROMPTS, *, batch=64, seed=0, limit=8, temperature=1.0, eos=(EOS,)):
    backend = TransformersBackend(model, eos_ids=eos, batch=batch)
    backend.publish("7")
    return backend.generate(
        prompts, max_new_tokens=limit, temperature=temperature, rng=generator(seed, 1, "rollouts", 0)
    )


@pytest.fixture(scope="module")
def absolute():
    """Learnt absolute positions: unlike rotary ones, they show a row that is shifted by its padding."""
    config = GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=2, n_positions=48, attn_pdrop=0.0)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config).eval()
    initialise(model, 0.2, generator(0, 0, "initialisation"))
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("positions", ["model", "absolute"])
def test_sampled_logprobs_are_those_of_a_plain_forward_pass_over_the_same_ids(
    positions, temperature, request
):
    model = request.getfixturevalue(positions)
    out = sample(model, temperature=temperature)
    for prompt, tokens, logprobs in zip(PROMPTS, out.token_ids, out.logprobs, strict=True):
        assert logprobs == pytest.approx(forward_logprobs(model, prompt, tokens, temperature), abs=2e-5)


def test_a_row_is_sampled_alike_alone_in_a_batch_and_in_batches_of_another_size(model):
    together = sample(model)
    assert sample(model, batch=2).token_ids == together.token_ids
    assert sample(model, batch=1).token_ids == together.token_ids
    for alone, beside in zip(sample(model, batch=1).logprobs, together.logprobs, strict=True):
        assert alone == pytest.approx(beside, abs=2e-5)


def test_the_same_stream_gives_the_same_samples_and_another_gives_others(model):
    state = torch.get_rng_state()
    first = sample(model)
    assert sample(model) == first
    assert sample(model, seed=1).token_ids != first.token_ids
    assert torch.equal(torch.get_rng_state(), state), "the global generator was drawn from"


def test_eos_ends_a_response_and_is_its_last_action(model):
    out = sample(model, PROMPTS * 20, limit=12)
    assert any(out.ended)
    assert not all(out.ended)
    for tokens, ended in zip(out.token_ids, out.ended, strict=True):
        assert EOS not in tokens[:-1]
        assert (tokens[-1] == EOS) == ended
        assert ended or len(tokens) == 12


def test_an_eos_as_the_first_action_is_a_response_of_one_action():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    everything = list(range(len(tokenizer)))
    out = sample(model, eos=everything)
    assert [len(tokens) for tokens in out.token_ids] == [1] * len(PROMPTS)
    assert all(out.ended)


def test_without_an_eos_every_response_runs_to_the_limit_and_counts_as_cut_off(model):
    out = sample(model, eos=[10_000], limit=5)
    assert [len(tokens) for tokens in out.token_ids] == [5] * len(PROMPTS)
    assert not any(out.ended)


def test_any_of_several_end_tokens_ends_a_response(model):
    out = sample(model, PROMPTS * 20, eos=(EOS, 9), limit=12)
    last = {tokens[-1] for tokens, ended in zip(out.token_ids, out.ended, strict=True) if ended}
    assert last == {EOS, 9}


def test_samples_follow_the_models_distribution(model):
    """Chi-square over the first token of 4,000 samples of one prompt; 19 degrees of freedom, p = 0.001 at 43.8."""
    n = 4000
    out = sample(model, [PROMPTS[1]] * n, limit=1, batch=n)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([PROMPTS[1]])).logits[0, -1], dim=-1) * n
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in out.token_ids]), minlength=len(expected))
    frequent = expected > 5
    chi = float(((counts - expected).square() / expected)[frequent].sum())
    assert chi < 43.8
    assert int(frequent.sum()) > 3


def test_the_samples_bear_the_version_that_was_published(model):
    assert set(sample(model).weight_versions) == {"7"}


def test_completions_that_an_earlier_release_saved_all_have_its_one_version():
    saved = {
        "token_ids": [[5, EOS], [6]],
        "logprobs": [[-0.5, -1.0], [-2.0]],
        "ended": [True, False],
        "weight_version": "3.2",
    }
    expected = Completions([[5, EOS], [6]], [[-0.5, -1.0], [-2.0]], [True, False], ["3.2", "3.2"])
    assert Completions.of(saved) == expected
    assert Completions.of(dataclasses.asdict(expected)) == expected
    assert saved["weight_version"] == "3.2"


def test_a_prompt_without_room_for_the_response_is_refused_by_name(model):
    with pytest.raises(DataError, match=r"45 tokens.*maxNewTokens 8.*48 positions"):
        sample(model, [[BOS] * 45])


def test_a_diverged_model_is_an_error_not_a_sample():
    model = tiny_model(tiny_tokenizer())
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    with pytest.raises(InvariantError, match="diverged"):
        sample(model)

"""Entropy and KL of whole distributions, against the definition row by row."""

from __future__ import annotations

import math

import pytest
import torch
from tests.unit.ppo.tiny_ppo import tiny_model, tiny_tokenizer

from gapo_trainer.stats.policy import token_means

PROMPTS = [[1, 5, 6], [1, 7], [1, 4, 4, 9, 8], [1, 11]]
RESPONSES = [[6, 2], [8, 9, 10, 11, 2], [12], [5, 5, 5, 2]]


def by_definition(policy, reference, temperature):
    """One row at a time, no padding, float64, sums written out."""
    entropy, kl, tokens = 0.0, 0.0, 0
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            p = torch.softmax(policy(ids).logits[0].double() / temperature, dim=-1)
            q = torch.softmax(reference(ids).logits[0].double() / temperature, dim=-1)
        for i in range(len(prompt) - 1, len(prompt) + len(response) - 1):
            entropy -= sum(float(x) * math.log(float(x)) for x in p[i])
            kl += sum(float(x) * math.log(float(x) / float(y)) for x, y in zip(p[i], q[i], strict=True))
            tokens += 1
    return entropy / tokens, kl / tokens, tokens


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 2048])
def test_entropy_and_kl_are_those_of_the_definition_however_the_batches_are_cut(
    tokens_per_batch: int,
) -> None:
    tokenizer = tiny_tokenizer()
    policy, reference = tiny_model(tokenizer, seed=1), tiny_model(tokenizer, seed=2)
    entropy, kl, tokens = by_definition(policy, reference, 0.7)
    means = token_means(
        policy, reference, PROMPTS, RESPONSES, temperature=0.7, tokens_per_batch=tokens_per_batch
    )
    assert means.entropy == pytest.approx(entropy, rel=1e-5)
    assert means.kl == pytest.approx(kl, rel=1e-4)
    assert kl > 0.1
    assert means.tokens == tokens == 12


def test_a_policy_that_knows_nothing_has_the_entropy_of_its_vocabulary() -> None:
    tokenizer = tiny_tokenizer()
    policy = tiny_model(tokenizer)
    with torch.no_grad():
        policy.get_output_embeddings().weight.zero_()
    assert token_means(policy, None, PROMPTS, RESPONSES, temperature=1.0).entropy == pytest.approx(
        math.log(len(tokenizer)), rel=1e-6
    )


def test_a_policy_is_at_no_distance_from_itself_and_none_is_claimed_without_a_reference() -> None:
    policy = tiny_model(tiny_tokenizer())
    assert token_means(policy, policy, PROMPTS, RESPONSES, temperature=1.0).kl == 0.0
    assert token_means(policy, None, PROMPTS, RESPONSES, temperature=1.0).kl is None

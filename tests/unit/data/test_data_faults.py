"""Faults of the user's data: all of them at once, before anything is trained, by the same rules that the run reads by."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.data.made_datasets import make_from_sources

from gapo.api.load import load_run
from gapo.api.training import Data, Source
from gapo.errors import DataError
from gapo.preflight import Finding, Level
from gapo_trainer.data.check import check_path
from gapo_trainer.data.load import ColumnNames, read_rows
from gapo_trainer.preflight.data import check_data

GOOD = {"prompt": "two words", "response": "a kettle", "label": 1}
TWO_WORDS = [{"family": "length.words", "params": {"relation": "exactly", "n": 2}}]
UNVERIFIED: dict[str, Any] = {
    "method": "PPO",
    "evaluation": {"scorer": "none"},
    "guards": {"hacking": {"action": "off"}},
    "convergence": {"enabled": False},
}


def write(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(n: int, **more: Any) -> list[dict[str, Any]]:
    """n prompts, each with an accepted and a rejected response that no other prompt has."""
    return [
        {"prompt": f"prompt {i}", "response": f"response {i} is {word}", "label": label, **more}
        for i in range(n)
        for word, label in (("good", 1), ("bad", 0))
    ]


def findings(folder: Path, sources: list[dict[str, Any]], **spec: Any) -> list[Finding]:
    """Of a manifest in `folder`, as `gapo validate` reads it."""
    for model in ("generator", "rm"):
        (folder / model).mkdir(exist_ok=True)
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "mine"},
        "spec": {
            "data": {"sources": sources},
            "generator": {"model": "generator"},
            "rewardModel": {"model": "rm"},
            **spec,
        },
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(document))
    return check_data(load_run(file).spec, open=None)


def test_every_bad_line_is_told_and_not_only_the_first(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, "{", {**GOOD, "label": 2}, GOOD, {"prompt": "p", "label": 1})
    with pytest.raises(DataError) as refused:
        list(read_rows(file))
    assert [line.split(": ")[1] for line in str(refused.value).split("\n")] == ["line 2", "line 3", "line 5"]


def test_of_many_bad_lines_the_first_fifty_are_told_and_the_others_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *["{"] * 1234)
    with pytest.raises(DataError) as refused:
        list(read_rows(file))
    lines = str(refused.value).split("\n")
    assert lines[49].startswith(f"{file}: line 50: is not JSON")
    assert lines[50:] == ["and 1,184 more"]


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "a kettle \\ud83d", "response": "r", "label": 1}',
        '{"prompt": "p", "response": "\\udE00 r", "label": 0}',
        '{"prompt": "p", "response": "r", "label": 1, "constraints": [{"family": "x", "params": {"w": "\\ud800"}}]}',
        '{"prompt": "p", "response": "r", "label": 1, "note\\ud83d": 1}',
        '{"prompt": "\\ud83d\\ud83d\\ude00", "response": "r", "label": 1}',
    ],
    ids=["prompt", "response", "constraints", "name of a column", "half before a whole one"],
)
def test_half_a_character_is_found_with_its_line_by_all_who_read_the_file(tmp_path: Path, row: str) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, row)
    message = r"a\.jsonl: line 2: column .* half of a character"
    with pytest.raises(DataError, match=message):
        check_path(file, columns=ColumnNames(), against=None, seed=0)
    with pytest.raises(DataError, match=message):
        make_from_sources(Data(sources=[Source(uri=str(file))]), seed=0, out=tmp_path)
    (fault,) = findings(tmp_path, [{"uri": "a.jsonl"}])
    assert (fault.level, fault.field) == (Level.FAULT, "data.sources.0")
    assert "line 2: column" in fault.message


def test_a_whole_character_of_two_escapes_is_taken(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"prompt": "p \\ud83d\\ude00", "response": "r\\u2028s", "label": 1}')
    assert [(row["prompt"], row["response"]) for row in read_rows(file)] == [("p 😀", "r\u2028s")]


def test_a_line_ends_at_a_line_feed_alone_whatever_the_file_has_been_through(tmp_path: Path) -> None:
    text = '{"prompt": "one\u2028two\x85", "response": "r\u2029", "label": 1}\r\n' * 3
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row["prompt"] for row in read_rows(tmp_path / "a.jsonl")] == ["one\u2028two\x85"] * 3
    reference = tmp_path / "reference.jsonl"
    reference.write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert check_path(tmp_path / "a.jsonl", columns=ColumnNames(), against=reference, seed=0).overlap == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "p"}\n'.encode("utf-16"), "UTF-16"),
        (b'{"prompt": "caf\xe9"}\n', "is not UTF-8"),
        (b"\x00\x01\x02\xff\n", "is not UTF-8"),
        (b"[" * 100_000 + b"\n", "is nested too deeply"),
    ],
    ids=["utf-16", "latin-1", "binary", "nested"],
)
def test_a_file_of_another_kind_is_told_by_line_and_never_by_a_traceback(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    (fault, *_) = findings(tmp_path, [{"uri": "a.jsonl"}])
    assert "a.jsonl: line 1: " in fault.message
    assert message in fault.message


def test_a_folder_with_a_fault_of_each_kind_has_them_all_in_one_answer(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *pairs(5), "{", '{"prompt": "\\ud83d", "response": "r", "label": 1}')
    write(tmp_path / "b.jsonl", {**GOOD, "constraints": TWO_WORDS, "label": 0}, "[]")
    write(tmp_path / "c.jsonl", "")
    faults = findings(tmp_path, [{"uri": f"{name}.jsonl"} for name in "abc"])
    assert [(one.field, one.message.split(": line ")[1].split(":")[0]) for one in faults[:4]] == [
        ("data.sources.0", "11"), ("data.sources.0", "12"), ("data.sources.1", "1"), ("data.sources.1", "2"),
    ]  # fmt: skip
    assert faults[4].field == "data.sources.2"
    assert "holds no rows" in faults[4].message
    assert len(faults) == 5


def test_constraints_are_asked_for_where_the_run_will_verify(tmp_path: Path) -> None:
    rows = pairs(300)
    write(tmp_path / "a.jsonl", *rows)
    faults = findings(tmp_path, [{"uri": "a.jsonl"}])
    assert len(faults) == 51
    assert faults[0].message == (
        f"{tmp_path / 'a.jsonl'}: line 1: prompt 'prompt 0' has no constraints to verify; add them, or set "
        "evaluation.scorer: none"
    )
    assert faults[50].message == "and 250 more"
    assert findings(tmp_path, [{"uri": "a.jsonl"}], **UNVERIFIED) == []


def test_training_prompts_need_no_constraints_where_no_stage_samples_them(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        verified = {"constraints": [{"family": "length.words", "params": {"relation": "at_most", "n": 50}}]}
        rows = [
            {"prompt": f"{split} {i}", "response": f"{split} response {i}", "label": 1, **(verified if split != "train" else {})}
            for i in range(3)
        ]  # fmt: skip
        write(tmp_path / f"{split}.jsonl", *rows)
    sources = [{"uri": f"{split}.jsonl", "split": split} for split in ("train", "val", "test")]
    assert findings(tmp_path, sources, method="SFT") == []
    gate = {"model": "rm", "warmup": {"gate": {"onFail": "warn"}}}
    faults = findings(tmp_path, sources, rewardModel=gate)
    assert sum("has no constraints" in one.message for one in faults) == 3


def test_labels_and_pairs_that_the_reward_model_needs_are_missed_before_it_is_trained(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *(row for row in pairs(100) if row["label"] == 1))
    messages = [one.message for one in findings(tmp_path, [{"uri": "a.jsonl"}], **UNVERIFIED)]
    assert "split train has no rejected row" in messages[0]
    assert "split val has no pair" in messages[1]
    assert "rewardModel.warmup.gate.onFail: warn" in messages[1]


def test_what_lies_in_object_storage_is_told_as_unseen(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *pairs(2))
    remote = {"uri": "s3://bucket/rows.jsonl", "sha256": "a" * 64}
    (unseen,) = findings(tmp_path, [{"uri": "a.jsonl"}, remote])
    assert (unseen.level, unseen.field) == (Level.UNSEEN, "data.sources.1.uri")
    assert "s3://bucket/rows.jsonl is not on this machine" in unseen.message


def test_contradictions_are_all_told_with_both_lines(tmp_path: Path) -> None:
    rows = pairs(50)
    write(tmp_path / "a.jsonl", *rows, {**rows[6], "label": 0}, {**rows[9], "label": 1})
    messages = [one.message for one in findings(tmp_path, [{"uri": "a.jsonl"}], **UNVERIFIED)]
    assert [message.split("label 1: ")[1] for message in messages] == [
        f"'prompt 3' ({tmp_path / 'a.jsonl'}: line 7; {tmp_path / 'a.jsonl'}: line 101)",
        f"'prompt 4' ({tmp_path / 'a.jsonl'}: line 10; {tmp_path / 'a.jsonl'}: line 102)",
    ]


# Splits


def divided(folder: Path, *sources: tuple[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split, as the run writes them."""
    files = [
        Source(uri=str(write(folder / f"{i}.jsonl", *rows)), split=split)  # type: ignore[arg-type]
        for i, (split, rows) in enumerate(sources)
    ]
    out = folder / "out"
    out.mkdir()
    make_from_sources(Data(sources=files), seed=0, out=out)
    return {
        split: [json.loads(line) for line in (out / f"rows-{split}.jsonl").read_text().split("\n") if line]
        for split in ("train", "val", "test")
    }


@pytest.mark.parametrize(
    "words",
    [("yes", "no"), ("A", "B", "C", "D"), ("not given", "given in part", "given"), ("是", "否")],
    ids=["yes and no", "letters", "words", "chinese"],
)
def test_answers_that_many_prompts_share_do_not_make_one_group_of_all(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    rows = [
        {"prompt": f"question {i}", "response": word, "label": int(n == i % len(words))}
        for i in range(120)
        for n, word in enumerate(words)
    ]
    split = divided(tmp_path, ("auto", rows))
    assert all(len(rows_there) >= len(words) for rows_there in split.values())
    place: dict[str, str] = {}
    for name, rows_there in split.items():
        for row in rows_there:
            assert place.setdefault(row["prompt"], name) == name
        for pair in {row["pairId"] for row in rows_there if row.get("pairId")}:
            members = [row for row in rows_there if row.get("pairId") == pair]
            assert sorted(row["label"] for row in members) == [0, 1]
            assert len({row["prompt"] for row in members}) == 1


def test_answers_may_stand_in_sources_of_different_splits(tmp_path: Path) -> None:
    def rows(split: str) -> list[dict[str, Any]]:
        return [
            {"prompt": f"{split} {i}", "response": "yes" if i % 2 else "no", "label": 1} for i in range(9)
        ]

    split = divided(tmp_path, *((name, rows(name)) for name in ("train", "val", "test")))
    assert {name: len(rows_there) for name, rows_there in split.items()} == {"train": 9, "val": 9, "test": 9}


def test_a_long_response_holds_its_rows_together_even_where_answers_do_not(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "response": "yes", "label": 1} for i in range(200)]
    rows += [
        {"prompt": f"question {i}", "response": f"a text of its own about the numbers {i // 2}", "label": 0}
        for i in range(200)
    ]
    place: dict[str, str] = {}
    for name, rows_there in divided(tmp_path, ("auto", rows)).items():
        for row in rows_there:
            if row["label"] == 0:
                assert place.setdefault(row["response"], name) == name
    assert len(place) == 100


def test_the_way_out_of_an_empty_split_is_one_that_is_not_refused(tmp_path: Path) -> None:
    chain = [
        {"prompt": f"prompt {i}", "response": f"a response that two prompts share, {j}", "label": 1}
        for i in range(30)
        for j in (i, i + 1)
    ]
    with pytest.raises(DataError) as refused:
        divided(tmp_path, ("auto", chain))
    assert "no rows for split val" in str(refused.value)
    assert "the 60 rows are 1 such groups, the largest of 60 rows" in str(refused.value)
    assert "give a source with split: val whose prompts are in no other" in str(refused.value)


def test_splits_of_data_that_could_be_split_before_are_as_they_were(tmp_path: Path) -> None:
    """The digest was made by the release before answers were told from texts."""
    rows = [
        {
            "prompt": f"prompt {i % 150}",
            "response": f"text number {i * 7 % 260} of all",
            "label": i * i % 3 % 2,
        }
        for i in range(300)
    ]
    rows += rows[:40]
    file = write(tmp_path / "a.jsonl", *rows)
    out = tmp_path / "out"
    out.mkdir()
    counts = make_from_sources(Data(sources=[Source(uri=str(file), weight=1.5)]), seed=3, out=out)
    content = b"".join(path.read_bytes() for path in sorted(out.iterdir()))
    assert (hashlib.sha256(content).hexdigest(), counts["train/rows"]) == (
        "31a032330ac488f268a0eb5ff80420b0afbbc0b1047d63c1bfe02758ed6c1966",
        355,
    )


OPENING = {"family": "style.slot", "params": {"slot": "opening", "choice": "category"}}
PRICE = {"family": "derived.filter", "params": {"rule": "price_below", "below": 50}}
COLOUR = {"family": "attr.must_mention", "params": {"keys": ["colour"]}}


@pytest.mark.parametrize(
    ("constraint", "context", "message"),
    [
        (OPENING, None, "category is missing"),
        (OPENING, {"category": 7}, "category is int; it must be text"),
        (COLOUR, None, "attributes is missing"),
        (COLOUR, {"attributes": ["oat"]}, "attributes is list; it must be an object"),
        (COLOUR, {"attributes": {"colour": 3}}, "colour is int; it must be text"),
        (COLOUR, {"attributes": {"size": "L"}}, "has no 'colour'"),
        (PRICE, {"attributes": {"price": "129"}}, "price is '129', which is no price with a known unit"),
        (PRICE, {"attributes": {"price": "3 kg"}}, "price is '3 kg', which is no price with a known unit"),
        (COLOUR, "oat", "column 'context' is str; it must be an object"),
    ],
)
def test_a_context_that_lacks_what_a_constraint_reads_is_told_with_its_line(
    tmp_path: Path, constraint: dict[str, Any], context: object, message: str
) -> None:
    row = {**GOOD, "label": 0, "constraints": [constraint], "context": context}
    write(tmp_path / "rows.jsonl", GOOD, row)
    with pytest.raises(DataError, match=rf"line 2.*{re.escape(message)}"):
        list(read_rows(tmp_path / "rows.jsonl"))

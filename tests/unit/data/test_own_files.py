"""The user's own files: columns, bad lines, splits, weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.made_datasets import make_from_sources

from gapo.api.training import Columns, Data, Source
from gapo.errors import DataError, StoreError
from gapo_trainer.data.load import ColumnNames, read_prompts, read_rows

GOOD = {"prompt": "two words", "response": "a kettle", "label": 1}
TWO_WORDS = [{"family": "length.words", "params": {"relation": "exactly", "n": 2}}]


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_columns_may_have_other_names_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"question": "q", "answer": "a", "ok": True, "who": "me"})
    (row,) = read_rows(file, ColumnNames(prompt="question", response="answer", label="ok"))
    assert row == {"prompt": "q", "response": "a", "label": 1, "who": "me"}


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n" + json.dumps(GOOD).encode())
    assert len(list(read_rows(file))) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is list; each line must be one JSON object"),
        ({"prompt": "q", "response": "a"}, r"column 'label' is missing \(the line has: prompt, response\)"),
        ({"response": "a", "label": 1}, "column 'prompt' is missing"),
        ({**GOOD, "prompt": 3}, "column 'prompt' is int; it must be text"),
        ({**GOOD, "response": "  "}, "column 'response' is empty"),
        ({**GOOD, "label": 2}, r"column 'label' is 2; it must be 0 \(rejected\) or 1 \(accepted\)"),
        ({**GOOD, "label": "1"}, "column 'label' is '1'"),
        ({**GOOD, "label": 0.5}, "column 'label' is 0.5"),
        ({**GOOD, "constraints": "none"}, "column 'constraints' must be a list of objects"),
        ({**GOOD, "constraints": [{"family": "length.words", "params": {"n": 2}}]}, r"length\.words: parameter relation"),
        ({**GOOD, "constraints": [{"family": "no.such", "params": {}}]}, r"unknown constraint family 'no\.such'"),
        ({**GOOD, "response": "kettle", "constraints": TWO_WORDS}, r"label is 1, but length\.words fails: has 1 words; must have exactly 2"),
        ({**GOOD, "label": 0, "constraints": TWO_WORDS}, "label is 0, but the response meets every constraint"),
        ({**GOOD, "context": [], "constraints": TWO_WORDS}, "column 'context' is list"),
    ],
)  # fmt: skip
def test_the_first_bad_line_is_named_with_file_number_and_reason(
    bad: Any, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", {**GOOD, "constraints": TWO_WORDS}, GOOD, bad, "{")
    with pytest.raises(DataError, match=rf"rows\.jsonl: line 3: .*{message}"):
        list(read_rows(file))


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2: is not UTF-8 \(byte 16\)"):
        list(read_rows(file))


def test_a_missing_file_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="holds no rows"):
        list(read_rows(write(tmp_path / "empty.jsonl", "")))


def test_a_prompt_whose_witness_fails_is_refused(tmp_path: Path) -> None:
    prompt = {
        "promptId": "p",
        "prompt": "two words",
        "constraints": TWO_WORDS,
        "context": {},
        "witness": "a kettle",
    }
    assert len(list(read_prompts(write(tmp_path / "a.jsonl", prompt)))) == 1
    file = write(tmp_path / "b.jsonl", prompt, {**prompt, "witness": "a red kettle"})
    with pytest.raises(DataError, match=r"line 2: the witness does not prove .* has 3 words"):
        list(read_prompts(file))


def rows(n: int) -> list[dict[str, Any]]:
    """Each prompt with an accepted and a rejected response."""
    return [
        {"prompt": f"prompt {i}", "response": f"{word} {i}", "label": label}
        for i in range(n)
        for word, label in (("good", 1), ("bad", 0))
    ]


def make(
    tmp_path: Path, *sources: Source, dedup: bool = True, columns: Columns | None = None
) -> dict[str, Any]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    data = Data(sources=list(sources), dedup=dedup, columns=columns or Columns())
    return dict(make_from_sources(data, seed=0, out=out))


def test_an_automatic_split_keeps_rows_that_share_a_text_together(tmp_path: Path) -> None:
    every = rows(200)
    every += [{"prompt": f"prompt {i} again", "response": f"good {i}", "label": 0} for i in range(200)]
    counts = make(tmp_path, Source(uri=str(write(tmp_path / "a.jsonl", *every))))
    assert counts["train/rows"] + counts["val/rows"] + counts["test/rows"] == 600
    assert 120 < counts["train/prompts"] < 190
    place: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for row in lines(tmp_path / "out" / f"rows-{split}.jsonl"):
            assert row["split"] == split
            for text in (row["prompt"], row["response"]):
                assert place.setdefault(text, split) == split


def test_rows_pair_up_by_response_first_and_then_by_prompt(tmp_path: Path) -> None:
    shared = [
        {"prompt": "short", "response": "one", "label": 1},
        {"prompt": "long", "response": "one", "label": 0},
        {"prompt": "short", "response": "one two", "label": 0},
        {"prompt": "short", "response": "two", "label": 1},
    ]
    sources = [Source(uri=str(write(tmp_path / "t.jsonl", *shared)), split="train")]
    for split in ("val", "test"):
        other = [
            {**row, "prompt": f"{row['prompt']} {split}", "response": f"{row['response']} {split}"}
            for row in shared
        ]
        sources.append(Source(uri=str(write(tmp_path / f"{split}.jsonl", *other)), split=split))
    make(tmp_path, *sources)
    by_pair: dict[str, list[tuple[str, str, str]]] = {}
    for row in lines(tmp_path / "out" / "rows-train.jsonl"):
        by_pair.setdefault(row["pairId"], []).append((row["mode"], row["prompt"], row["response"]))
    assert sorted(by_pair.values()) == [
        [("pp", "short", "one"), ("pp", "long", "one")],
        [("pr", "short", "one two"), ("pr", "short", "two")],
    ]


def test_a_weight_repeats_training_rows_and_leaves_the_other_splits_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *rows(400))
    plain = make(tmp_path, Source(uri=str(file)))
    heavy = make(tmp_path, Source(uri=str(file), weight=2.5))
    assert heavy["test/rows"] == plain["test/rows"]
    assert 2.3 < heavy["train/rows"] / plain["train/rows"] < 2.7
    written = lines(tmp_path / "out" / "rows-train.jsonl")
    sizes: dict[str, int] = {}
    for row in written:
        sizes[row["pairId"]] = sizes.get(row["pairId"], 0) + 1
    assert set(sizes.values()) == {2}


def test_exact_repeats_are_dropped_unless_dedup_is_off(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *rows(100), *rows(100))
    counts = make(tmp_path, Source(uri=str(file)))
    assert counts["train/rows"] + counts["val/rows"] + counts["test/rows"] == 200
    counts = make(tmp_path, Source(uri=str(file)), dedup=False)
    assert counts["train/rows"] + counts["val/rows"] + counts["test/rows"] == 400


def test_the_same_text_with_both_labels_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *rows(50), {"prompt": "prompt 3", "response": "good 3", "label": 0})
    with pytest.raises(DataError, match="same prompt and response has label 0 and label 1: 'prompt 3'"):
        make(tmp_path, Source(uri=str(file)))


def test_splits_that_share_a_prompt_are_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", *rows(20))
    test = write(tmp_path / "b.jsonl", {"prompt": "prompt 3", "response": "other", "label": 1})
    with pytest.raises(DataError, match="split test and split train share a prompt or response"):
        make(tmp_path, Source(uri=str(train), split="train"), Source(uri=str(test), split="test"))


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *rows(20))
    with pytest.raises(DataError, match="no rows for split val"):
        make(tmp_path, Source(uri=str(file), split="train"))


def test_a_source_is_fetched_by_uri_and_its_digest_checked(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *rows(100))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    counts = make(tmp_path, Source(uri=f"file://{file}", sha256=digest))
    assert counts["train/rows"] > 100
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{kind}-{split}.jsonl" for kind in ("rows", "prompts") for split in ("train", "val", "test")
    )
    for uri in (str(file), f"file://{file}"):
        with pytest.raises(DataError, match="has sha256"):
            make(tmp_path, Source(uri=uri, sha256="0" * 64))
    with pytest.raises((DataError, StoreError), match=r"none\.jsonl"):
        make(tmp_path, Source(uri=f"file://{tmp_path}/none.jsonl"))


def test_prompts_are_those_of_accepted_rows_with_their_witness(tmp_path: Path) -> None:
    make(tmp_path, Source(uri=str(write(tmp_path / "a.jsonl", *rows(100)))))
    prompts = list(read_prompts(tmp_path / "out" / "prompts-train.jsonl"))
    assert all(prompt["witness"] == prompt["prompt"].replace("prompt", "good") for prompt in prompts)
    assert len({prompt["promptId"] for prompt in prompts}) == len(prompts)

"""The probes find what is planted and clear what is clean."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gapo_trainer.constraints import FAMILIES
from gapo_trainer.constraints.text import words_of
from gapo_trainer.data.leakage_probe import Finding, probe, shared_ngrams
from gapo_trainer.data.make import make_dataset
from gapo_trainer.data.product import Product, grammar

IFEVAL = Path(__file__).parents[2] / "data" / "ifeval" / "input_data.jsonl"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    out = tmp_path_factory.mktemp("data")
    make_dataset(grammar="micro", size=2200, seed=1, out=out)
    files = ("train", "val", "test")
    return [
        json.loads(line) for name in files for line in (out / f"rows-{name}.jsonl").read_text().splitlines()
    ]


def finding_of(rows: Rows, text: str, mode: str = "all") -> Finding:
    return next(one for one in probe(rows, seed=0) if one.text == text and one.mode == mode)


@pytest.mark.slow
def test_clean_data_passes_on_5000_held_out_rows_in_every_mode(rows: Rows) -> None:
    findings = probe(rows, seed=0)
    assert not [one for one in findings if one.leaks]
    assert {one.mode for one in findings} == {"all", "pp_modify", "pp_insert", "pr_corrupt"}
    assert {one.text for one in findings} == {"prompt", "response"}
    assert findings[0].mode == "all"
    assert findings[0].n >= 5000
    for one in findings:
        assert 0.45 < one.accuracy < 0.55
        assert one.lower <= one.accuracy


def planted(rows: Rows, change: Any) -> Rows:
    rng = random.Random(0)
    return [change(dict(row), rng) for row in rows[:4000]]


def test_a_word_planted_in_some_rejected_prompts_is_caught_and_named(rows: Rows) -> None:
    def change(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        if row["label"] == 0 and rng.random() < 0.25:
            row["prompt"] += " indeed"
        return row

    findings = probe(planted(rows, change), seed=0)
    leak = next(one for one in findings if (one.text, one.mode) == ("prompt", "all"))
    assert leak.leaks
    # Only a quarter of the rejected half is marked, so the best rule is right 62.5 % of the time.
    assert 0.58 < leak.accuracy < 0.67
    assert leak.tells[0] == "indeed"
    assert not [one for one in findings if one.text == "response" and one.leaks]


def test_longer_accepted_responses_are_caught(rows: Rows) -> None:
    def change(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        if row["label"] == 1:
            row["response"] += " and" * rng.randint(0, 4)
        return row

    assert finding_of(planted(rows, change), "response").leaks


def test_a_pair_of_families_that_stands_only_in_rejected_prompts_is_caught(rows: Rows) -> None:
    extra = [
        {"family": "format.title", "params": {"present": True}},
        {"family": "case.whole", "params": {"case": "lower"}},
    ]

    def change(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        # Each family alone is as frequent with either label; only the two together tell.
        together = rng.random() < 0.5
        chosen = extra if together else [] if row["label"] == 0 else [rng.choice(extra)]
        chosen = (
            ([rng.choice(extra)] if row["label"] == 1 else chosen)
            if not together
            else (extra if row["label"] == 0 else [rng.choice(extra)])
        )
        row["constraints"] = [*row["constraints"], *chosen]
        return row

    leak = finding_of(planted(rows, change), "prompt")
    assert leak.leaks
    assert "pair:case.whole+format.title" in leak.tells


def test_a_leak_in_one_mode_is_found_in_that_mode(rows: Rows) -> None:
    def change(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        if row["mode"] == "pp_insert" and row["label"] == 0 and rng.random() < 0.5:
            row["prompt"] = "please " + row["prompt"]
        return row

    changed = planted(rows, change)
    leaking = {(one.text, one.mode) for one in probe(changed, seed=0) if one.leaks}
    assert ("prompt", "pp_insert") in leaking
    assert leaking <= {("prompt", "pp_insert"), ("prompt", "all")}


def test_insertions_that_contradict_are_exempt(rows: Rows) -> None:
    def change(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        if row["edit"] == "insert_violated":
            row["edit"] = "insert_conflict"
            row["prompt"] += " indeed" * (1 - row["label"])
        return row

    findings = probe(planted(rows, change), seed=0)
    assert not [one for one in findings if one.leaks]
    assert "pp_insert" not in {one.mode for one in findings}


def test_data_with_one_label_only_is_not_probed(rows: Rows) -> None:
    assert probe([row for row in rows if row["label"] == 1], seed=0) == []


def ifeval_prompts() -> list[str]:
    return [json.loads(line)["prompt"] for line in IFEVAL.read_text(encoding="utf-8").splitlines()]


def test_no_eight_words_of_an_ifeval_prompt_stand_in_any_rule_or_sentence_of_ours() -> None:
    prompts = ifeval_prompts()
    assert len(prompts) == 541
    whole, rng = grammar(), random.Random(0)
    texts = [*whole["tasks"], *whole["openers"], *whole["fillers"], *whole["closers"]]
    for one in FAMILIES.values():
        for _ in range(150):
            category = rng.choice(sorted(whole["categories"]))
            values = whole["categories"][category]
            record = {key: rng.choice(some) for key, some in values.items()}
            spec = one.sample(rng, {"category": category, "attributes": record, "lexicon": values})
            if spec is not None:
                texts.append(one.render(spec, rng).text)
    assert len(texts) > 2000
    assert shared_ngrams([{"prompt": text} for text in texts], prompts) == []


def test_product_prompts_and_responses_share_no_eight_words_with_ifeval() -> None:
    product, rng = Product("product-5"), random.Random(0)
    contrasts = [
        product.contrast(rng, "modify", family) for family in product.families("modify") for _ in range(12)
    ]
    sides = [side for one in contrasts if one is not None for side in (one.left, one.right)]
    assert len(sides) > 200
    rows = [{"prompt": side.prompt, "response": side.response} for side in sides]
    assert shared_ngrams(rows, ifeval_prompts()) == []


def test_a_copied_ifeval_prompt_is_found_in_prompt_and_response() -> None:
    copied = ifeval_prompts()[0]
    assert len(words_of(copied)) > 8
    rows = [
        {"id": "a", "prompt": "x", "response": f"Well: {copied.upper()}"},
        {"id": "b", "prompt": "x", "response": "y"},
    ]
    ((who, words),) = shared_ngrams(rows, [copied])
    assert who == "a"
    assert words == " ".join(words_of(copied)[:8])


def test_seven_words_in_common_are_no_overlap() -> None:
    reference = "one two three four five six seven eight"
    assert shared_ngrams([{"prompt": "one two three four five six seven nine"}], [reference]) == []
    assert (
        len(shared_ngrams([{"prompt": "zero one two three four five six seven eight nine"}], [reference]))
        == 1
    )

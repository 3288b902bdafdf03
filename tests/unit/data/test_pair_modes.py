"""The pair modes, on contrasts of both grammars."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapo.errors import InvariantError
from gapo_trainer.constraints import verify
from gapo_trainer.data.micro import Micro
from gapo_trainer.data.pairs import Contrast, Grammar, Row, pair_rows
from gapo_trainer.data.product import Product

GRAMMARS: dict[str, Grammar] = {
    "micro": Micro(),
    "product-2": Product("product-2"),
    "product-5": Product("product-5"),
}
some = settings(max_examples=40, deadline=None, derandomize=True)
a_seed = st.integers(0, 10**9)
a_grammar = st.sampled_from(sorted(GRAMMARS))


def contrast(grammar: Grammar, rng: random.Random, edit: str) -> Contrast:
    while True:
        candidate = grammar.contrast(rng, edit, rng.choice(grammar.families(edit)))
        if candidate is not None:
            return candidate


def rows_of(name: str, seed: int, mode: str, edit: str) -> tuple[Row, Row]:
    rng = random.Random(seed)
    grammar = GRAMMARS[name]
    pair = contrast(grammar, rng, edit)
    first, second = pair_rows(pair, mode, pair_id="p", split="train", grammar=grammar, rng=rng)
    return first, second


def verdicts(row: Row) -> list[bool]:
    return [v.ok for v in verify(row["constraints"], row["response"], row["context"])]


@some
@given(seed=a_seed, name=a_grammar, mode=st.sampled_from(["pp_modify", "pp_insert", "pr_corrupt"]))
def test_an_accepted_row_meets_every_constraint_and_a_rejected_one_breaks_exactly_the_edited(
    seed: int, name: str, mode: str
) -> None:
    edit = "insert_violated" if mode == "pp_insert" else "modify"
    good, bad = rows_of(name, seed, mode, edit)
    assert (good["label"], bad["label"]) == (1, 0)
    assert all(verdicts(good))
    broken = [c["family"] for c, ok in zip(bad["constraints"], verdicts(bad), strict=True) if not ok]
    assert broken == [bad["editedFamily"]] == [good["editedFamily"]]
    assert good["pairId"] == bad["pairId"]
    assert good["id"] != bad["id"]


@some
@given(seed=a_seed, name=a_grammar, edit=st.sampled_from(["modify", "insert_violated"]))
def test_a_preferential_prompt_pair_differs_inside_the_constraint_block_alone(
    seed: int, name: str, edit: str
) -> None:
    good, bad = rows_of(name, seed, "pp_modify" if edit == "modify" else "pp_insert", edit)
    assert good["response"] == bad["response"]
    assert good["prompt"] != bad["prompt"]
    assert len(good["constraints"]) == len(bad["constraints"])
    if name != "micro":
        assert good["prompt"].split("\nRules:\n")[0] == bad["prompt"].split("\nRules:\n")[0]
        differ = [a != b for a, b in zip(good["constraints"], bad["constraints"], strict=True)]
        assert sum(differ) == 1
    else:
        assert good["prompt"].split(" : ")[0] == bad["prompt"].split(" : ")[0]


@some
@given(seed=a_seed, name=a_grammar)
def test_a_preferential_response_pair_shares_its_prompt(seed: int, name: str) -> None:
    good, bad = rows_of(name, seed, "pr_corrupt", "modify")
    assert good["prompt"] == bad["prompt"]
    assert good["constraints"] == bad["constraints"]
    assert good["response"] != bad["response"]
    assert good["edit"] == "corrupt"


@some
@given(seed=a_seed, name=a_grammar)
def test_an_equivalent_pair_keeps_its_label_under_other_words(seed: int, name: str) -> None:
    first, second = rows_of(name, seed, "pp_equivalent", "modify")
    assert first["label"] == second["label"]
    assert all(verdicts(first)) == all(verdicts(second)) == (first["label"] == 1)
    key = lambda c: (c["family"], str(c["params"]))  # noqa: E731
    assert sorted(map(key, first["constraints"])) == sorted(map(key, second["constraints"]))


def test_either_side_of_a_contrast_is_accepted_equally_often() -> None:
    """Without the coin, whatever proposes the edit would mark the rejected prompts."""
    rng = random.Random(0)
    pair = contrast(GRAMMARS["micro"], rng, "modify")
    accepted = [
        pair_rows(pair, "pp_modify", pair_id="p", split="train", grammar=GRAMMARS["micro"], rng=rng)[0][
            "prompt"
        ]
        for _ in range(400)
    ]
    assert 150 < accepted.count(pair.left.prompt) < 250


def test_a_conflict_never_makes_its_unsatisfiable_prompt_the_accepted_one() -> None:
    rng = random.Random(0)
    for _ in range(50):
        pair = contrast(GRAMMARS["micro"], rng, "insert_conflict")
        good, bad = pair_rows(
            pair, "pp_insert", pair_id="p", split="train", grammar=GRAMMARS["micro"], rng=rng
        )
        assert good["prompt"] == pair.left.prompt
        assert bad["edit"] == "insert_conflict"
        assert all(verdicts(good))
        assert not all(verdicts(bad))


def test_a_contrast_that_breaks_its_contract_is_refused() -> None:
    rng = random.Random(0)
    good = contrast(GRAMMARS["micro"], rng, "modify")
    same = Contrast("modify", good.left, good.left)
    wrong = dataclasses.replace(good, left=dataclasses.replace(good.left, response="a kettle"))
    # Another prompt altogether: the response breaks its edited constraint and others besides.
    other = contrast(GRAMMARS["micro"], random.Random(99), "modify")
    far = Contrast("modify", good.left, other.right)
    for bad, message in (
        (same, "also meets"),
        (wrong, "does not meet its own"),
        (far, "breaks more than the edited"),
    ):
        with pytest.raises(InvariantError, match=message):
            pair_rows(bad, "pp_modify", pair_id="p", split="train", grammar=GRAMMARS["micro"], rng=rng)

"""The micro grammar's contrasts and surface."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapo_trainer.constraints import FAMILIES
from gapo_trainer.data.micro import FORBID, LEXICON, VALUE, WORDS, Micro, compose, draw, vocabulary
from gapo_trainer.data.pairs import Contrast

some = settings(max_examples=80, deadline=None, derandomize=True)


def contrast(seed: int, edit: str, family: str) -> Contrast:
    rng = random.Random(seed)
    while True:
        pair = Micro().contrast(rng, edit, family)
        if pair is not None:
            return pair


def failing(side, response: str) -> list[str]:
    return [c.family for c, ok in zip(side.constraints, side.accepts(response), strict=True) if not ok]


@some
@given(seed=st.integers(0, 10**9), family=st.sampled_from([VALUE, WORDS, FORBID]))
def test_a_modified_prompt_fails_in_the_edited_family_alone_both_ways(seed: int, family: str) -> None:
    pair = contrast(seed, "modify", family)
    assert failing(pair.left, pair.left.response) == []
    assert failing(pair.right, pair.right.response) == []
    assert failing(pair.right, pair.left.response) == [family]
    assert failing(pair.left, pair.right.response) == [family]
    assert len(pair.left.constraints) == len(pair.right.constraints) == 5


@some
@given(seed=st.integers(0, 10**9), family=st.sampled_from([VALUE, FORBID]))
def test_an_inserted_constraint_has_a_satisfied_twin_of_the_same_size(seed: int, family: str) -> None:
    pair = contrast(seed, "insert_violated", family)
    assert len(pair.left.constraints) == len(pair.right.constraints) == 6
    shared = set(pair.left.constraints) & set(pair.right.constraints)
    assert len(shared) == 5
    assert (
        failing(pair.right, pair.left.response)
        == [pair.right.constraints[pair.right.edited].family]
        == [family]
    )
    assert failing(pair.left, pair.left.response) == []


@some
@given(seed=st.integers(0, 10**9), family=st.sampled_from([VALUE, FORBID]))
def test_a_conflict_contradicts_a_constraint_that_stands_in_the_prompt(seed: int, family: str) -> None:
    pair = contrast(seed, "insert_conflict", family)
    new = pair.right.constraints[pair.right.edited]
    values = {c.spec.key: c.spec.value for c in pair.left.constraints if c.family == VALUE}
    if family == VALUE:
        assert values[new.spec.key] != new.spec.value
    else:
        assert new.spec.words[0] in values.values()
    assert failing(pair.right, pair.left.response) == [family]


@some
@given(seed=st.integers(0, 10**9))
def test_prompt_and_response_are_at_most_16_known_lower_case_tokens(seed: int) -> None:
    rng = random.Random(seed)
    words = set(vocabulary())
    for edit, family in (("modify", WORDS), ("insert_violated", VALUE), ("insert_violated", FORBID)):
        pair = contrast(rng.randrange(10**9), edit, family)
        for side in (pair.left, pair.right):
            for text in (side.prompt, side.response):
                tokens = text.split(" ")
                assert len(tokens) <= 16
                assert set(tokens) <= words
                assert text == text.lower()


def test_the_vocabulary_is_small_and_without_repeats() -> None:
    words = vocabulary()
    assert len(words) == len(set(words))
    assert 60 <= len(words) <= 120


def test_a_response_that_ignores_the_forbidden_word_breaks_it_often_enough_to_learn_from() -> None:
    rng = random.Random(0)
    broken = tried = 0
    while tried < 1000:
        demand = draw(rng)
        free = demand.__class__(demand.noun, demand.values, demand.length, ())
        text = compose(free, rng)
        if text is not None:
            tried += 1
            broken += demand.forbidden[0] in text.split()
    assert 0.2 < broken / tried < 0.5


def test_values_come_in_any_order_before_and_behind_the_noun() -> None:
    rng = random.Random(1)
    counts: Counter[tuple[str, ...]] = Counter()
    while sum(counts.values()) < 600:
        demand = draw(rng)
        text = compose(demand, rng)
        if text is not None:
            words = text.split()
            order = sorted(
                (key for key, _ in demand.values), key=lambda key: words.index(dict(demand.values)[key])
            )
            ranks = tuple([key for key, _ in demand.values].index(key) for key in order)
            counts[ranks] += 1
            assert sum(words.count(value) for value in LEXICON[demand.values[0][0]]) == 1
    assert len(counts) == 6
    assert min(counts.values()) > 50


@pytest.mark.parametrize("family", [VALUE, WORDS, FORBID])
def test_both_sides_of_a_modification_have_the_same_marginal(family: str) -> None:
    """Whatever the family edits is drawn alike on both sides, before the coin that names the accepted one."""
    left: Counter[object] = Counter()
    right: Counter[object] = Counter()
    for seed in range(1500):
        pair = contrast(seed, "modify", family)
        left[pair.left.constraints[pair.left.edited].text] += 1
        right[pair.right.constraints[pair.right.edited].text] += 1
    kinds = set(left) | set(right)
    distance = sum(abs(left[k] - right[k]) for k in kinds) / (2 * 1500)
    assert distance < 0.1


def test_the_reworded_prompt_states_the_same_constraints_in_another_order() -> None:
    pair = contrast(3, "modify", VALUE)
    new = Micro().reworded(random.Random(0), pair.left)
    assert new.prompt != pair.left.prompt
    assert sorted(new.prompt.split()) == sorted(pair.left.prompt.split())
    assert set(new.constraints) == set(pair.left.constraints)
    assert new.constraints[new.edited] == pair.left.constraints[pair.left.edited]
    assert set(FAMILIES) >= {c.family for c in new.constraints}

"""Bounds that exclude each other, by hand."""

from __future__ import annotations

import random

import pytest

from gapo_trainer.constraints.shared_params import around, holds, opposite, swap_one


@pytest.mark.parametrize(
    ("count", "relation", "n", "expected"),
    [
        (3, "exactly", 3, True),
        (4, "exactly", 3, False),
        (3, "at_least", 3, True),
        (2, "at_least", 3, False),
        (3, "at_most", 3, True),
        (4, "at_most", 3, False),
    ],
)
def test_a_count_stands_in_a_relation(count: int, relation: str, n: int, expected: bool) -> None:
    assert holds(count, relation, n) is expected  # type: ignore[arg-type]


def test_the_opposite_of_a_one_sided_bound_is_its_complement() -> None:
    rng = random.Random(0)
    assert opposite("at_least", 5, 7, rng, spread=2) == ("at_most", 4)
    assert opposite("at_most", 5, 3, rng, spread=2) == ("at_least", 6)


def test_a_bound_that_the_count_breaks_already_has_no_opposite_that_it_breaks_too() -> None:
    rng = random.Random(0)
    assert opposite("at_least", 5, 4, rng, spread=2) is None
    assert opposite("at_most", 5, 6, rng, spread=2) is None
    assert opposite("at_least", 1, 3, rng, spread=2, low=1) is None


def test_another_exact_number_lies_within_the_spread_and_is_not_the_count() -> None:
    bounds = {opposite("exactly", 5, 6, random.Random(seed), spread=2) for seed in range(100)}
    assert bounds == {("exactly", 3), ("exactly", 4), ("exactly", 7)}


def test_a_bound_around_a_count_is_met_by_it() -> None:
    for seed in range(100):
        relation, n = around(4, random.Random(seed), margin=2, low=1)
        assert holds(4, relation, n)
        assert abs(n - 4) <= 2
    assert around(0, random.Random(0), margin=1, low=2) == ("at_most", 2)


def test_one_member_is_swapped_for_a_new_one_or_none() -> None:
    rng = random.Random(0)
    for _ in range(20):
        swapped = swap_one(("a", "b"), ["b", "c"], rng)
        assert swapped in (("c", "b"), ("a", "c"))
    assert swap_one(("a", "b"), ["a", "b"], rng) is None

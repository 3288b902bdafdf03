from __future__ import annotations

import pytest

from gapo_operator.kube.objects import RunKey
from gapo_operator.reconcile.backoff import Refusals

ONE, TWO, ELSEWHERE = RunKey("red", "one"), RunKey("red", "two"), RunKey("blue", "one")
OTHER = RunKey("red", "other")


def test_what_is_refused_again_and_again_is_asked_for_ever_more_rarely() -> None:
    refusals = Refusals()
    waits = [refusals.refused(ONE) for _ in range(6)]
    # 5 s, three times as long from time to time, at most 150 s; each within a fifth.
    expected = [5, 15, 45, 135, 150, 150]
    assert all(0.8 * middle <= wait <= 1.2 * middle for wait, middle in zip(waits, expected, strict=True))
    # Less than one request in 50 seconds once it has waited two minutes.
    assert min(waits[3:]) > 50


def test_a_changed_manifest_is_asked_for_at_once() -> None:
    refusals = Refusals()
    for _ in range(5):
        refusals.refused(ONE)
    refusals.forget(ONE)
    assert refusals.refused(ONE) <= 6


def test_room_goes_to_whoever_has_not_asked_for_longest_in_that_namespace() -> None:
    refusals = Refusals()
    for key in (ELSEWHERE, ONE, TWO):
        refusals.refused(key)
    assert refusals.next_beside(OTHER) == ONE
    refusals.refused(ONE)
    assert refusals.next_beside(OTHER) == TWO
    refusals.forget(TWO)
    assert refusals.next_beside(OTHER) == ONE
    assert refusals.next_beside(RunKey("green", "other")) is None


def test_one_that_never_asks_although_it_is_told_to_holds_up_no_other() -> None:
    refusals = Refusals()
    for key in (ONE, TWO):
        refusals.refused(key)
    assert [refusals.next_beside(OTHER) for _ in range(4)] == [ONE, TWO, ONE, TWO]


def test_room_that_a_run_makes_goes_to_another_one() -> None:
    refusals = Refusals()
    for key in (ONE, TWO):
        refusals.refused(key)
    assert refusals.next_beside(ONE) == TWO
    refusals.forget(TWO)
    assert refusals.next_beside(ONE) is None


@pytest.mark.parametrize("times", [20, 2000])
def test_a_refusal_that_lasts_for_days_is_counted_without_end(times: int) -> None:
    refusals = Refusals()
    assert [refusals.refused(ONE) for _ in range(times)][-1] <= 180

"""Satisfaction and score by length."""

from __future__ import annotations

import pytest
from tests.unit.evaluate.tiny_evaluation import sample

from gapo_trainer.stats.lengths import by_length, score_length_correlation


def test_deciles_hold_equal_numbers_where_lengths_differ() -> None:
    samples = [sample("p", i < 10, length=i + 1, score=i / 20) for i in reversed(range(20))]
    deciles = by_length(samples)
    assert [(d["from"], d["to"], d["n"]) for d in deciles] == [(2 * i + 1, 2 * i + 2, 2) for i in range(10)]
    assert [d["satisfaction"] for d in deciles] == [1.0] * 5 + [0.0] * 5
    assert [d["score"] for d in deciles] == pytest.approx([(2 * i + 0.5) / 20 for i in range(10)])


def test_equal_lengths_stay_together() -> None:
    samples = [sample("p", length=5) for _ in range(30)] + [sample("p", length=9) for _ in range(10)]
    assert by_length(samples) == [{"from": 5, "to": 5, "n": 30}, {"from": 9, "to": 9, "n": 10}]


def test_no_samples_have_no_deciles() -> None:
    assert by_length([]) == []


def test_a_score_that_pays_for_length_shows_given_the_verdict() -> None:
    passing = [sample("p", True, length=n, score=n / 10) for n in (1, 2, 3, 4)]
    failing = [sample("p", False, length=n, score=s) for n, s in ((1, 0.2), (2, 0.1), (3, 0.2), (4, 0.1))]
    correlations = score_length_correlation(passing + failing)
    assert correlations["passed"] == pytest.approx(1.0)
    # Lengths -1.5, -0.5, 0.5, 1.5 against 1, -1, 1, -1: -2 / sqrt(5 * 4).
    assert correlations["failed"] == pytest.approx(-0.447214, abs=1e-6)


def test_a_side_without_spread_has_no_correlation() -> None:
    samples = [sample("p", True, length=n, score=0.5) for n in (1, 2, 3)]
    samples += [sample("p", False, length=n, score=n / 9) for n in (1, 2)]
    assert score_length_correlation(samples) == {}

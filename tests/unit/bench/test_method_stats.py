"""Student's t, intervals and verdicts, against tables and arithmetic by hand."""

from __future__ import annotations

import math

import pytest
from tests.bench.method.stats import Effect, effect, holm, t_quantile, verdict


@pytest.mark.parametrize(
    ("p", "df", "x"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 7, 2.3646),
        (0.975, 15, 2.1314),
        (0.8, 2, 1.0607),
        (0.8, 7, 0.8960),
        (0.95, 4, 2.1318),
    ],
)
def test_quantiles_are_those_of_the_published_tables(p, df, x):
    assert t_quantile(p, df) == pytest.approx(x, abs=6e-5)


def test_an_interval_equals_hand_values():
    found = effect([0.02, 0.04, 0.06])
    half = 4.3027 * 0.02 / math.sqrt(3)
    assert found.mean == pytest.approx(0.04)
    assert found.sd == pytest.approx(0.02)
    assert (found.lo, found.hi) == pytest.approx((0.04 - half, 0.04 + half), abs=1e-6)
    assert found.detectable == pytest.approx((4.3027 + 1.0607) * 0.02 / math.sqrt(3), abs=3e-6)


@pytest.mark.parametrize(
    ("t", "p"), [(2.3646, 0.05), (-2.3646, 0.05), (5.4079, 0.001), (0.8960, 0.4), (0.0, 1.0)]
)
def test_p_values_are_those_of_the_published_tables_for_7_degrees_of_freedom(t, p):
    assert Effect(t, math.nan, math.nan, 8, math.sqrt(8)).p == pytest.approx(p, abs=2e-5)


def test_the_p_value_and_the_interval_agree():
    assert effect([0.02, 0.04, 0.06]).p > 0.05 > effect([0.03, 0.04, 0.05]).p
    assert effect([0.02, 0.04, 0.06]).lo < 0 < effect([0.03, 0.04, 0.05]).lo


def test_p_values_are_adjusted_by_holm():
    # From the least: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which must not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_seed_has_a_mean_and_no_bound():
    found = effect([0.03])
    assert (found.mean, found.lo, found.hi) == (0.03, -math.inf, math.inf)
    assert found.detectable == math.inf
    assert verdict(found, enough=1) == "undecided"


def test_without_seeds_there_is_no_effect():
    with pytest.raises(ValueError, match="no seeds"):
        effect([])


EIGHT = [0.0, 0.01, -0.01, 0.005, -0.005, 0.002, -0.002, 0.0]
"""Spread around 0; the mean is 0."""


@pytest.mark.parametrize(
    ("shift", "word"),
    [
        (0.04, "reproduced"),
        (-0.04, "contradicted"),
        (0.0, "undecided"),
        (0.009, "undecided"),
        (-0.009, "undecided"),
    ],
)
def test_a_verdict_needs_an_interval_beside_0_and_a_point_of_effect(shift, word):
    found = effect([value + shift for value in EIGHT])
    assert verdict(found) == word
    if abs(shift) == 0.009:  # the interval excludes 0: the effect is too small to count
        assert not found.lo <= 0 <= found.hi


def test_a_large_effect_of_few_seeds_is_no_verdict():
    assert verdict(effect([0.1, 0.11, 0.09])) == "too few seeds"
    assert verdict(effect([0.1, 0.11, 0.09]), enough=3) == "reproduced"

"""Correlations of diagnostics with gains: by hand, over reported seeds alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.bench.method.predictors import correlate, predictions
from tests.unit.bench.method_results import result


def test_a_correlation_by_hand_with_fishers_interval():
    # Sxy = 8, Sxx = Syy = 10: r = 0.8. atanh 0.8 = ln(9) / 2 = 1.098612; half width 1.959964 / sqrt(2) = 1.385904.
    # tanh(-0.287292) = -0.279646 and tanh(2.484516) = 0.986202.
    found = correlate([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert found.r == pytest.approx(0.8)
    assert (found.lo, found.hi) == pytest.approx((-0.279646, 0.986202), abs=1e-5)
    assert found.n == 5


def test_a_far_seed_sways_pearsons_and_not_spearmans():
    found = correlate([1, 2, 3, 4, 100], [4, 3, 2, 1, 100])
    assert found.r > 0.99
    # By hand: ranks 1 to 5 and 4, 3, 2, 1, 5; squared differences 9, 1, 1, 9, 0: 1 - 6 * 20 / (5 * 24) = 0.
    assert found.rank == pytest.approx(0.0, abs=1e-12)


def test_equal_values_share_their_rank():
    # Ranks 1.5, 1.5, 3, 4, 5 against 1 to 5: Sxy = 9.5, Sxx = 9.5, Syy = 10.
    assert correlate([1, 1, 2, 3, 4], [1, 2, 3, 4, 5]).rank == pytest.approx(9.5 / (9.5 * 10) ** 0.5)


def test_too_few_seeds_or_no_spread_have_no_correlation_and_unequal_lengths_are_refused():
    assert correlate([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert correlate([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) is None
    with pytest.raises(ValueError, match="5 and 4 values are no pairs"):
        correlate([1, 2, 3, 4, 5], [1, 2, 3, 4])


def test_a_perfect_line_has_no_width():
    found = correlate([1, 2, 3, 4, 5], [10, 8, 6, 4, 2])
    assert (found.r, found.lo, found.hi) == pytest.approx((-1, -1, -1))


def test_a_gain_that_falls_as_the_frozen_reward_model_gets_better_correlates_below_0():
    held = []
    for i in range(6):
        held.append(result("ppo-frozen", 100 + i, 0.6, auc=0.70 + 0.03 * i))
        held.append(result("rm-trained-on", 100 + i, 0.60 + 0.01 * i))
        held.append(result("gapo-one", 100 + i, 0.70 - 0.01 * i))
    found = predictions(held)
    assert set(found) == {"AUC of the frozen RM, last stage"}  # nothing else was measured, or varies
    assert found["AUC of the frozen RM, last stage"]["gapo-one"].r == pytest.approx(-1)
    assert set(found["AUC of the frozen RM, last stage"]) == {"gapo-one"}


def test_diagnostics_read_the_start_and_the_last_stage_of_the_frozen_arm():
    held = []
    for i in range(5):
        judged = [
            {"judged": {"failed": {"n": 10, "high": 0.1 * i}}},
            {"judged": {"failed": {"n": 10, "high": 0.5 - 0.1 * i}}},
        ]
        frozen = result("ppo-frozen", 100 + i, 0.6)
        start = result("sft", 100 + i, 0.5)
        held.append(replace(frozen, stages=[{**s, **j} for s, j in zip(frozen.stages, judged, strict=True)]))
        held.append(replace(start, stages=[{**start.stages[0], **judged[0]}]))
        held.append(result("rm-trained-on", 100 + i, 0.6))
        held.append(result("gapo-zero", 100 + i, 0.6 + 0.01 * i))
    found = predictions(held)
    assert found["failing samples of the start that score 1/2 or more"]["gapo-zero"].r == pytest.approx(1)
    assert found["failing samples that score 1/2 or more, frozen RM, last stage"][
        "gapo-zero"
    ].r == pytest.approx(-1)


def test_a_tuning_seed_is_refused():
    with pytest.raises(ValueError, match=r"seeds \[0\] are for tuning"):
        predictions([result("gapo-zero", 0, 0.6)])

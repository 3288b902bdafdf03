"""Measures of a reward model against numbers computed by hand."""

from __future__ import annotations

import math
import random

import pytest

from gapo_trainer.stats import reward_model as metrics


def test_a_wilson_interval_of_8_of_10_is_the_published_one():
    low, high = metrics.wilson(8, 10)
    # (0.8 + 0.19207 ± 1.95996 * sqrt(0.016 + 0.0096037)) / 1.384146
    assert (low, high) == pytest.approx((0.49016, 0.94331), abs=1e-4)


def test_a_rate_of_one_still_has_a_lower_bound_below_one_and_no_data_says_nothing():
    low, high = metrics.wilson(5, 5)
    assert high == 1.0
    assert low == pytest.approx(5 / (5 + 1.959964**2), abs=1e-5)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_ties_between_pair_members_count_half():
    wins = metrics.pair_wins([0.9, 0.4, 0.2], [0.1, 0.4, 0.8])
    assert wins.tolist() == [1.0, 0.5, 0.0]
    rate = metrics.rate_metrics("rm/pair_accuracy", wins)
    assert rate["rm/pair_accuracy"] == 0.5
    assert rate["rm/pair_accuracy_n"] == 3.0
    assert rate["rm/pair_accuracy_lo"] < 0.5 < rate["rm/pair_accuracy_hi"]


def test_a_dead_family_shows_although_the_total_is_high():
    wins = metrics.pair_wins([1, 1, 1, 0], [0, 0, 0, 1])
    by = metrics.by_group(wins, ["length", "length", "length", "forbidden"])
    assert {name: part.mean() for name, part in by.items()} == {"length": 1.0, "forbidden": 0.0}
    assert list(by) == ["forbidden", "length"]


def test_auc_counts_ties_half_and_knows_no_answer_without_both_sides():
    # pairs: 0.8>0.3, 0.8>0.5, 0.5>0.3, 0.5=0.5 -> (3 + 0.5) / 4
    assert metrics.auc([0.8, 0.5], [0.3, 0.5]) == pytest.approx(0.875)
    assert math.isnan(metrics.auc([], [0.1]))


def test_auc_equals_the_count_over_all_pairs():
    rng = random.Random(0)
    positive = [round(rng.random(), 1) for _ in range(40)]
    negative = [round(rng.random(), 1) for _ in range(30)]
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert metrics.auc(positive, negative) == pytest.approx(wins / 1200)


def test_calibration_error_is_the_weighted_gap_between_confidence_and_outcome():
    # bin [0.2, 0.3): confidence 0.25, outcome 0.5, two rows; bin [0.9, 1]: confidence 0.95, outcome 1, two rows
    assert metrics.ece([0.2, 0.3 - 1e-12, 0.9, 1.0], [0, 1, 1, 1]) == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)
    assert math.isnan(metrics.ece([], []))


def test_accuracy_counts_an_undecided_row_half():
    assert metrics.accuracy([0.9, 0.2, 0.5, 0.7], [1, 0, 1, 0]) == pytest.approx((1 + 1 + 0.5 + 0) / 4)


def test_gaps_are_differences_of_means():
    assert metrics.memorisation_gap([0.9, 0.7], [0.6, 0.6]) == pytest.approx(0.2)
    assert metrics.prompt_swap_gap([0.9, 0.5], [0.1, 0.5]) == pytest.approx(0.4)
    assert metrics.label_noise(8, 2) == 0.25
    assert metrics.label_noise(0, 0) == 0.0


def test_a_histogram_has_twenty_bins_and_keeps_a_score_of_one():
    shown = metrics.histogram([0.0, 0.049, 0.05, 1.0])
    assert len(shown["edges"]) == 21
    assert shown["counts"][0] == 2
    assert shown["counts"][1] == 1
    assert shown["counts"][19] == 1
    assert sum(shown["counts"]) == 4


def test_shares_of_scores_are_cumulative_and_a_score_on_a_bound_counts_below_it():
    shares = metrics.score_shares("accepted", [0.1, 0.2, 0.5, 0.95, 0.96, 0.999, 1.0, 0.7])
    assert shares == {
        "scores/accepted/le_0.2": 2 / 8,
        "scores/accepted/le_0.4": 2 / 8,
        "scores/accepted/le_0.6": 3 / 8,
        "scores/accepted/le_0.8": 4 / 8,
        "scores/accepted/le_0.95": 5 / 8,
        "scores/accepted/le_1.0": 1.0,
    }
    assert metrics.score_shares("accepted", []) == {}


def texts(rng, words, n):
    return [" ".join(rng.choices(words, k=6)) for _ in range(n)]


def test_responses_with_a_word_of_their_own_are_told_apart_by_style_and_equal_ones_are_not():
    rng = random.Random(1)
    words = ["red", "blue", "green", "small", "tall", "wide"]
    plain, same = texts(rng, words, 200), texts(rng, words, 200)
    marked = [f"{text} indeed" for text in texts(rng, words, 200)]
    assert metrics.style_separability(plain, marked) > 0.97
    assert 0.4 < metrics.style_separability(plain, same) < 0.6


def test_the_style_probe_does_not_remember_texts_it_was_fitted_on():
    rng = random.Random(2)
    words = [f"w{i}" for i in range(300)]
    accepted, generated = texts(rng, words, 20), texts(rng, words, 20)
    # ten copies each: with copies on both sides of the split a bag of words would reach 1
    assert metrics.style_separability(accepted * 10, generated * 10) < 0.75


def test_what_could_not_be_measured_is_left_out_of_the_manifest():
    assert metrics.finite({"a": 1.0, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
    assert math.isnan(metrics.style_separability(["a"], ["b", "c", "d", "e"]))

"""Rates and their intervals, against hand-computed values, published tables and simulation."""

from __future__ import annotations

import random

import pytest

from gapo_trainer.stats.rates import clustered_auc, clustered_rate, paired_gain, t_quantile
from gapo_trainer.stats.reward_model import wilson


@pytest.mark.parametrize(
    ("df", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (29, 2.045), (120, 1.980)],
)
def test_t_quantiles_are_those_of_the_published_table(df: int, published: float) -> None:
    assert t_quantile(0.95, df) == pytest.approx(published, abs=5e-4)


def test_t_quantiles_fall_to_the_normal_one_as_prompts_grow() -> None:
    assert t_quantile(0.95, 100_000) == pytest.approx(1.959988, abs=1e-5)
    assert t_quantile(0.90, 3) == pytest.approx(2.3534, abs=5e-5)


def test_a_rate_over_equal_clusters_is_the_t_interval_of_the_prompts_means() -> None:
    # Means 1, 0.5, 0, 0.5: mean 0.5, variance (0.25 + 0 + 0.25 + 0) / 3 = 1/6, SE = sqrt(1/6/4) = 0.204124.
    estimate = clustered_rate([4, 2, 0, 2], [4, 4, 4, 4])
    assert estimate.value == 0.5
    assert estimate.n == 16
    # 3.182446 * 0.204124 = 0.649614: wider than the unit interval allows.
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_a_rate_over_unequal_clusters_weighs_trials_and_has_the_ratio_estimators_variance() -> None:
    # Rate 6/10. Residuals s - 0.6 m: 1 - 0.6 = 0.4; 1 - 1.2 = -0.2; 2 - 1.8 = 0.2; 2 - 2.4 = -0.4; squares 0.4.
    # SE = sqrt(4/3 * 0.4) / 10 = 0.0730297; t(3) = 3.182446; half = 0.232413.
    estimate = clustered_rate([1, 1, 2, 2], [1, 2, 3, 4])
    assert estimate.value == pytest.approx(0.6)
    assert estimate.low == pytest.approx(0.6 - 0.232413, abs=1e-6)
    assert estimate.high == pytest.approx(0.6 + 0.232413, abs=1e-6)


def test_drawing_each_prompts_samples_again_and_again_does_not_narrow_the_interval() -> None:
    once = clustered_rate([2, 1, 0, 2, 2, 1], [2] * 6)
    copied = clustered_rate([20, 10, 0, 20, 20, 10], [20] * 6)
    assert copied.n == 10 * once.n
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_prompts_without_trials_take_no_part() -> None:
    assert clustered_rate([2, 0, 1, 0], [2, 0, 2, 2]) == clustered_rate([2, 1, 0], [2, 2, 2])


def test_one_sample_a_prompt_is_independent_and_gets_wilsons_interval() -> None:
    # 7 of 10 (Wilson 1927; Newcombe 1998 method 3).
    estimate = clustered_rate([1] * 7 + [0] * 3, [1] * 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.3968, 0.8922), abs=1e-4)


def test_full_marks_are_not_a_certainty() -> None:
    estimate = clustered_rate([4] * 10, [4] * 10)
    assert estimate.value == 1.0
    # Wilson for 10 of 10: z^2 = 3.841459, low = 10 / 13.841459.
    assert estimate.low == pytest.approx(0.722467, abs=1e-6)
    assert estimate.high == 1.0
    assert clustered_rate([0] * 500, [4] * 500).low == 0.0


@pytest.mark.parametrize(("successes", "trials"), [([], []), ([0], [0]), ([3], [2]), ([-1], [2])])
def test_a_rate_refuses_what_cannot_be_counted(successes: list[int], trials: list[int]) -> None:
    with pytest.raises(ValueError, match=r"trials"):
        clustered_rate(successes, trials)


def _clusters(rng: random.Random, prompts: int, samples: int) -> list[int]:
    """Prompts of Beta(0.6, 0.6) difficulty, true rate 0.5: intraclass correlation 1 / 2.2."""
    counts = []
    for _ in range(prompts):
        rate = rng.betavariate(0.6, 0.6)
        counts.append(sum(rng.random() < rate for _ in range(samples)))
    return counts


def test_the_interval_covers_the_truth_as_often_as_it_says_and_one_that_ignores_prompts_does_not() -> None:
    rng = random.Random(7)
    runs, prompts, samples = 2000, 60, 4
    covered = naive = 0
    for _ in range(runs):
        counts = _clusters(rng, prompts, samples)
        estimate = clustered_rate(counts, [samples] * prompts)
        covered += estimate.low <= 0.5 <= estimate.high
        low, high = wilson(sum(counts), prompts * samples)
        naive += low <= 0.5 <= high
    assert 0.93 <= covered / runs <= 0.97
    assert naive / runs < 0.87


def test_a_paired_gain_is_the_t_interval_of_the_prompts_differences() -> None:
    after = {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.75}
    before = {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.75}
    # Differences 0.5, 0, 1, 0: mean 0.375, squares 0.015625 + 0.140625 + 0.390625 + 0.140625 = 0.6875,
    # SE = sqrt(0.6875 / 3 / 4) = 0.239357; t(3) = 3.182446; half = 0.761740.
    gain = paired_gain(after, before)
    assert gain.value == 0.375
    assert gain.low == pytest.approx(0.375 - 0.761740, abs=1e-6)
    assert gain.high == 1.0
    assert gain.n == 4


def test_pairing_by_prompt_finds_a_gain_that_the_prompts_spread_would_hide() -> None:
    rng = random.Random(3)
    before = {str(i): rng.random() * 0.9 for i in range(40)}
    after = {p: rate + 0.04 + 0.02 * rng.random() for p, rate in before.items()}
    gain = paired_gain(after, before)
    assert 0.04 < gain.low < gain.high < 0.06


def test_no_difference_at_all_leaves_room_for_what_was_not_seen() -> None:
    gain = paired_gain({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert gain.value == 0.0
    # Wilson for 0 of 2: z^2 / (2 + z^2) = 3.841459 / 5.841459.
    assert (gain.low, gain.high) == pytest.approx((-0.657619, 0.657619), abs=1e-6)


def test_a_paired_gain_refuses_other_prompts() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        paired_gain({"a": 1.0}, {"b": 1.0})


def test_a_paired_gains_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(11)
    runs, prompts, samples, covered = 1500, 50, 2, 0
    for _ in range(runs):
        before, after = {}, {}
        for i in range(prompts):
            rate = rng.uniform(0.1, 0.7)
            before[str(i)] = sum(rng.random() < rate for _ in range(samples)) / samples
            after[str(i)] = sum(rng.random() < rate + 0.2 for _ in range(samples)) / samples
        gain = paired_gain(after, before)
        covered += gain.low <= 0.2 <= gain.high
    assert 0.93 <= covered / runs <= 0.97


def test_an_auc_with_one_sample_a_prompt_has_delongs_interval() -> None:
    # Passing 0.9, 0.8, 0.4 against failing 0.5, 0.3: 5 of 6 pairs are won. Placements of the passing: 1, 1, 1/2, about
    # 5/6: 1/6, 1/6, -1/3; of the failing: 2/3, 1, so -1/6, 1/6. Squares of them over 3 and 2, one a prompt:
    # (1/36 + 1/36 + 1/9) / 9 + (1/36 + 1/36) / 4 = 7/216; times 5/4, and t(4) = 2.77645.
    estimate = clustered_auc([0.9, 0.8, 0.4, 0.5, 0.3], [True, True, True, False, False], list("abcde"))
    assert estimate is not None
    assert estimate.value == pytest.approx(5 / 6)
    squares = (1 / 36 + 1 / 36 + 1 / 9) / 9 + (1 / 36 + 1 / 36) / 4
    assert estimate.low == pytest.approx(5 / 6 - 2.776445 * (squares * 5 / 4) ** 0.5, abs=1e-5)
    assert (estimate.high, estimate.n) == (1.0, 5)


def test_samples_of_one_prompt_that_agree_narrow_no_auc() -> None:
    scores, passed, prompts = [0.9, 0.8, 0.4, 0.5, 0.3], [True, True, True, False, False], list("abcde")
    once = clustered_auc(scores, passed, prompts)
    four = clustered_auc(scores * 4, passed * 4, prompts * 4)
    assert once is not None
    assert four is not None
    assert (four.low, four.high) == pytest.approx((once.low, once.high))
    assert four.n == 20
    alone = clustered_auc(scores * 4, passed * 4, [str(i) for i in range(20)])
    assert alone is not None
    assert alone.low > once.low + 0.1


def test_an_auc_of_1_over_few_prompts_is_not_certain_and_of_one_side_there_is_none() -> None:
    estimate = clustered_auc([0.9, 0.8, 0.1], [True, True, False], ["a", "b", "c"])
    assert estimate is not None
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson(1, 1)[0])
    assert clustered_auc([0.9, 0.8], [True, True], ["a", "b"]) is None
    assert clustered_auc([], [], []) is None

"""gapo's statistics against the values of scipy 1.17.1, which is not in the environment (docs/decisions/0040-statistics-without-scipy.md)."""

from __future__ import annotations

import pytest
from tests.bench.method.predictors import correlate
from tests.bench.method.stats import effect

from gapo_trainer.stats.rates import paired_gain, t_central_mass, t_quantile
from gapo_trainer.stats.reward_model import auc, wilson


@pytest.mark.parametrize(
    ("confidence", "df", "expected"),
    [
        (0.5, 2, 0.8164965809277261),
        (0.95, 1, 12.706204736174694),
        (0.95, 3, 3.1824463052837078),
        (0.95, 40, 2.021075390306273),
        (0.95, 1999, 1.9611514201705613),
        (0.99, 7, 3.4994832973504924),
        (0.999, 12, 4.3177912836062475),
    ],
)
def test_students_quantiles_are_those_of_t_ppf(confidence: float, df: int, expected: float) -> None:
    assert t_quantile(confidence, df) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("t", "df", "both_tails"),
    [
        (0.0, 5, 1.0),
        (0.3, 1, 0.8144528418445154),
        (0.5, 19, 0.6228164912864416),
        (2.0, 4, 0.11611652351681556),
        (2.5, 1, 0.24223788318168682),
        (5.4079, 7, 0.000999981276499566),
        (12.0, 3, 0.0012450158007893362),
    ],
)
def test_the_mass_between_two_quantiles_is_what_t_sf_leaves(t: float, df: int, both_tails: float) -> None:
    assert 1 - t_central_mass(t, df) == pytest.approx(both_tails, abs=1e-14)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 1, 0.0, 0.7934506856227626),
        (1, 1, 0.20654931437723745, 1.0),
        (3, 17, 0.061911266376209945, 0.4102945856883412),
        (8, 10, 0.4901624715366418, 0.9433178485456248),
        (500, 1000, 0.4690696003681042, 0.5309303996318958),
        (1999, 2000, 0.9971731374967339, 0.9999117322692945),
    ],
)
def test_wilsons_interval_is_that_of_binomtest(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=1e-14)


def test_the_auc_with_ties_is_that_of_mannwhitneyu() -> None:
    assert auc([0.9, 0.9, 0.4, 0.4, 0.1], [0.4, 0.1, 0.9, 0.2]) == pytest.approx(0.625, abs=1e-14)


def test_the_interval_of_a_paired_gain_is_that_of_ttest_1samp() -> None:
    after = {"a": 0.5, "b": 0.5, "c": 1.0, "d": 0.0, "e": 0.25, "f": 0.25}
    before = {"a": 0.0, "b": 0.5, "c": 0.0, "d": 0.0, "e": 0.5, "f": 0.125}
    gain = paired_gain(after, before)
    assert (gain.low, gain.high) == pytest.approx((-0.24320081812869168, 0.701534151462025), abs=1e-13)


def test_p_value_and_interval_over_seeds_are_those_of_ttest_1samp() -> None:
    by_seed = effect([0.03, -0.01, 0.05, 0.02, 0.04, 0.0])
    expected = (0.07056563534883996, -0.002644629824725079, 0.04597796315805841)
    assert (by_seed.p, by_seed.lo, by_seed.hi) == pytest.approx(expected, abs=1e-13)


def test_correlations_are_those_of_pearsonr_and_spearmanr() -> None:
    pearson = correlate([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 7, 5])
    assert pearson is not None
    expected = (0.7917946548886295, -0.055305159673339724, 0.9761145801153426)
    assert (pearson.r, pearson.lo, pearson.hi) == pytest.approx(expected, abs=1e-13)
    tied = correlate([1, 1, 2, 3, 4, 4], [2, 1, 4, 3, 3, 5])
    assert tied is not None
    assert tied.rank == pytest.approx(0.7314247566825018, abs=1e-13)

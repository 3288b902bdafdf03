"""Convergence (docs/method/stages.md#convergence): the rule by hand, and its error rates by simulation."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from tests.bench.convergence_table import stop_stages

from gapo.decision_rules.convergence import (
    ConvergenceOutcome,
    ConvergenceSettings,
    StageSatisfaction,
    judge_convergence,
    look_at,
)

DEFAULTS = ConvergenceSettings()


def series(*rates: float, n: int = 2000) -> list[StageSatisfaction]:
    return [StageSatisfaction(k, rate, n) for k, rate in enumerate(rates, start=1)]


def test_a_look_compares_the_two_windows_by_hand() -> None:
    # Window 1: 0.50 0.52 0.50 0.52, window 2: 0.54 0.54 0.54 0.54. Means 0.51 and 0.54, delta 0.03.
    # Line about window 1: centred x = -1.5 -0.5 0.5 1.5, slope = (-0.75 - 0.26 + 0.25 + 0.78) / 5 = 0.004;
    # residuals -0.004 0.012 -0.012 0.004, squares 16 + 144 + 144 + 16 = 320e-6. Window 2: none.
    # s2 = 320e-6 / 4 = 80e-6, SE = sqrt(80e-6 * 2 / 4) = sqrt(40e-6) = 0.0063246.
    look = look_at(series(0.50, 0.52, 0.50, 0.52, 0.54, 0.54, 0.54, 0.54, n=10**9), DEFAULTS)
    assert look.delta == pytest.approx(0.03)
    assert look.se_residual == pytest.approx(math.sqrt(40e-6))
    assert look.upper == pytest.approx(0.03 + 2.35 * 0.0063245553)
    assert look.upper == pytest.approx(0.0448627, abs=1e-7)
    assert not look.settled


def test_the_binomial_error_counts_where_the_curve_is_smoother_than_its_samples_allow() -> None:
    # Eight stages at exactly one half, 2,000 completions each: SE = sqrt(8 * 0.25 / 2000) / 4 = 0.0079057.
    look = look_at(series(*[0.5] * 8), DEFAULTS)
    assert look.se_residual == 0
    assert look.se_binomial == pytest.approx(0.0079057, abs=1e-7)
    assert look.upper == pytest.approx(0.0185784, abs=1e-7)
    assert look.settled


def test_a_steady_gain_is_not_taken_for_noise() -> None:
    look = look_at(series(*[0.1 + 0.05 * k for k in range(8)], n=10**9), DEFAULTS)
    assert look.se_residual == pytest.approx(0, abs=1e-12)
    assert look.delta == pytest.approx(0.20)


@pytest.mark.parametrize(
    ("rates", "kind", "words"),
    [
        ([], "continue", "0 of the 9 evaluated stages"),
        ([0.5] * 8, "continue", "8 of the 9 evaluated stages"),
        ([0.5] * 9, "converged", "under 4.0 pp at 2 consecutive looks"),
        # +1 pp a stage: delta is 4 pp exactly, not below the threshold even without any error.
        ([0.50 + 0.01 * k for k in range(9)], "continue", "gained +4.0 pp"),
        ([0.60 - 0.02 * k for k in range(9)], "converged", "gained -8.0 pp"),
        # Look at 9: 0.60 → 0.60, settled. Look at 8: first window 0.30 0.60 0.60 0.60, delta +7.5 pp.
        ([0.30] + [0.60] * 8, "continue", "settled at this look, not at the one before"),
        ([0.30] + [0.60] * 9, "converged", "under 4.0 pp"),
    ],
)
def test_verdicts_by_hand(rates: list[float], kind: str, words: str) -> None:
    verdict = judge_convergence(series(*rates))
    assert verdict.kind == kind
    assert words in verdict.reason


def test_too_few_samples_are_undecided_and_name_the_number_that_is_enough() -> None:
    flat = [0.5] * 9
    verdict = judge_convergence(series(*flat, n=200))
    # 2.35 * sqrt(8 * 0.25 / n) / 4 < 0.04 needs n > 2 * (2.35 / 0.16)^2 = 431.4.
    assert verdict.kind is ConvergenceOutcome.UNDECIDED
    assert "at least 432 completions a stage" in verdict.reason
    assert judge_convergence(series(*flat, n=431)).kind is ConvergenceOutcome.UNDECIDED
    assert judge_convergence(series(*flat, n=432)).kind is ConvergenceOutcome.CONVERGED


def test_four_of_four_samples_are_no_certainty() -> None:
    assert judge_convergence(series(*[1.0] * 9, n=4)).kind is ConvergenceOutcome.UNDECIDED
    assert judge_convergence(series(*[1.0] * 9, n=2000)).kind is ConvergenceOutcome.CONVERGED


def test_a_scattering_curve_is_undecided_and_not_blamed_on_the_number_of_samples() -> None:
    verdict = judge_convergence(series(*[0.4, 0.5, 0.6, 0.4, 0.6, 0.4, 0.6, 0.5, 0.4]))
    assert verdict.kind is ConvergenceOutcome.UNDECIDED
    assert "scatters from stage to stage" in verdict.reason


def test_a_curve_that_clearly_rises_goes_on_however_noisy_it_is() -> None:
    assert judge_convergence(series(*[0.1 * k for k in range(9)], n=20)).kind is ConvergenceOutcome.CONTINUE


def test_evaluating_every_second_stage_expects_twice_the_gain_between_points() -> None:
    # +1.2 pp a point is +0.6 pp a stage when only every second stage is evaluated.
    rates = [0.5 + 0.012 * k for k in range(9)]
    assert judge_convergence(series(*rates, n=10**6)).kind is ConvergenceOutcome.CONTINUE
    every_second = [StageSatisfaction(2 * p.stage, p.rate, p.n) for p in series(*rates, n=10**6)]
    verdict = judge_convergence(every_second, replace(DEFAULTS, every=2))
    assert verdict.kind is ConvergenceOutcome.CONVERGED
    assert verdict.evidence["threshold"] == pytest.approx(0.08)


def test_switched_off_it_never_ends_a_run() -> None:
    assert (
        judge_convergence(series(*[0.5] * 20), replace(DEFAULTS, enabled=False)).kind
        is ConvergenceOutcome.CONTINUE
    )


def test_evidence_holds_the_figures_of_both_looks() -> None:
    evidence = judge_convergence(series(*[0.5] * 9)).evidence
    assert evidence["points"] == 9
    assert evidence["threshold"] == pytest.approx(0.04)
    assert evidence["settled_looks"] == 2
    assert evidence["upper"] == evidence["previous_upper"] == pytest.approx(0.0185784, abs=1e-7)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([StageSatisfaction(2, 0.5, 9), StageSatisfaction(2, 0.5, 9)], "stage 2 after stage 2"),
        ([StageSatisfaction(0, 0.5, 9)], "stage 0 takes no part"),
        ([StageSatisfaction(1, 50.0, 9)], "rate 50.0"),
        ([StageSatisfaction(1, 0.5, 0)], "of 0 samples"),
    ],
)
def test_a_series_that_cannot_be_is_refused(points: list[StageSatisfaction], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge_convergence(points)


RUNS = 2000


@pytest.mark.slow
def test_in_simulation_few_improving_runs_are_stopped_and_most_flat_ones_are_by_stage_11() -> None:
    """Stage sd 1 pp in all, 2,000 completions, runs of 24 stages: the bounds of docs/method/stages.md#convergence."""
    false_stops = [s for s in stop_stages(slope=0.01, sd=0.01, n=2000, stages=24, runs=RUNS, seed=1) if s]
    assert len(false_stops) / RUNS <= 0.05
    flat = stop_stages(slope=0.0, sd=0.01, n=2000, stages=11, runs=RUNS, seed=2)
    assert sum(s is not None for s in flat) / RUNS >= 0.90


@pytest.mark.slow
def test_the_bounds_hold_with_drawn_samples_on_top_of_a_stage_sd_of_1_pp() -> None:
    """As above, with the completions themselves drawn: the observed sd is then about 1.5 pp."""
    improving = stop_stages(slope=0.01, sd=0.01, n=2000, stages=16, runs=RUNS, seed=3, drawn=True, start=0.4)
    assert sum(s is not None for s in improving) / RUNS <= 0.05
    flat = stop_stages(slope=0.0, sd=0.01, n=2000, stages=11, runs=RUNS, seed=4, drawn=True)
    assert sum(s is not None for s in flat) / RUNS >= 0.90


def test_no_run_that_gains_two_points_a_stage_is_stopped() -> None:
    stops = stop_stages(slope=0.02, sd=0.01, n=2000, stages=24, runs=300, seed=5)
    assert [s for s in stops if s] == []


def test_one_look_stops_more_improving_runs_than_two() -> None:
    def stopped(looks: int) -> int:
        settings = replace(DEFAULTS, looks=looks)
        stops = stop_stages(slope=0.01, sd=0.02, n=2000, stages=16, runs=500, seed=6, settings=settings)
        return sum(s is not None for s in stops)

    assert stopped(1) > 1.5 * stopped(2)


def test_the_answer_depends_on_nothing_but_the_series() -> None:
    rng = random.Random(7)
    points = series(*[0.5 + rng.gauss(0, 0.02) for _ in range(15)])
    assert judge_convergence(points) == judge_convergence(list(points))
    # Only the last 2 * window + looks - 1 points matter.
    assert judge_convergence(points).evidence["upper"] == judge_convergence(points[-9:]).evidence["upper"]

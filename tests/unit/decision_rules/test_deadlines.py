"""Budgets: what a run has used, and when it is used up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gapo.decision_rules.budget import BudgetSettings, judge_budget, spent
from gapo.store.attempt_end import AttemptEnd, Cause

T0 = datetime(2025, 1, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def ended(start: float, end: float, gpus: int = 0, cause: Cause = Cause.COMMITTED) -> AttemptEnd:
    return AttemptEnd(
        attempt=0, cause=cause, charged=False, started_at=at(start), ended_at=at(end), gpus=gpus
    )


METRICS = [{"ppo/rollouts": 1024.0, "ppo/trained_tokens": 5e5}, {"rm/trained_tokens": 1e5}, {"other": 1.0}]


def test_rollouts_and_tokens_are_those_of_committed_tasks() -> None:
    used = spent(METRICS, [])
    assert (used.rollouts, used.tokens) == (1024, 600_000)


def test_failed_attempts_cost_their_gpu_hours_too() -> None:
    used = spent([], [ended(0, 60, gpus=8), ended(60, 90, gpus=2, cause=Cause.FAILED)])
    assert used.gpu_hours == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("spans", "minutes"),
    [
        ([], 0),
        ([(0, 10)], 10),
        ([(0, 10), (30, 45)], 25),  # suspended in between
        ([(0, 10), (5, 15)], 15),  # two pods at once
        ([(0, 60), (10, 20), (30, 70)], 70),
        ([(30, 40), (0, 10), (10, 30)], 40),
    ],
)
def test_wall_clock_is_the_time_in_which_anything_ran(
    spans: list[tuple[float, float]], minutes: float
) -> None:
    used = spent([], [ended(a, b) for a, b in spans])
    assert used.wall_clock == pytest.approx(60 * minutes)


@pytest.mark.parametrize(
    ("settings", "exceeded", "words"),
    [
        (BudgetSettings(), None, "within the budget"),
        (BudgetSettings(rollouts=1025), None, "within the budget"),
        (BudgetSettings(rollouts=1024), "rollouts", "budget.rollouts is used up: 1024 of 1024"),
        (BudgetSettings(tokens=599_999), "tokens", "budget.tokens is used up: 600000 of 599999"),
        (BudgetSettings(gpu_hours=8), "gpuHours", "budget.gpuHours is used up: 8 of 8"),
        (BudgetSettings(gpu_hours=8.01), None, "within the budget"),
        (BudgetSettings(wall_clock=1800), "wallClock", "budget.wallClock is used up: 3600 s of 1800 s"),
    ],
)
def test_a_limit_that_is_reached_stops_the_run_and_is_named(
    settings: BudgetSettings, exceeded: str | None, words: str
) -> None:
    verdict = judge_budget(METRICS, [ended(0, 60, gpus=8)], settings=settings)
    assert verdict.exceeded == exceeded
    assert verdict.reason == words

"""Best stage (docs/method/stages.md#best-stage) and rollback (docs/method/stages.md#rollback)."""

from __future__ import annotations

import pytest

from gapo.decision_rules.best_stage import best_stage
from gapo.decision_rules.convergence import StageSatisfaction
from gapo.decision_rules.rollback import (
    Changes,
    Rollback,
    RollbacksExhausted,
    in_effect,
    plan_rollback,
    trace_lineage,
)


def evaluated(**rates: float) -> list[StageSatisfaction]:
    return [StageSatisfaction(int(k[1:]), r, 2000) for k, r in rates.items()]


def test_the_stage_of_highest_satisfaction_is_best() -> None:
    best = best_stage(evaluated(s0=0.40, s1=0.55, s2=0.61, s3=0.58), lineage=(0, 1, 2, 3))
    assert best is not None
    assert (best.stage, best.rate, best.n) == (2, 0.61, 2000)


def test_equal_figures_go_to_the_earlier_stage_in_any_order() -> None:
    points = evaluated(s3=0.6, s1=0.6, s2=0.6)
    assert [best_stage(p, lineage=range(4)).stage for p in (points, points[::-1])] == [1, 1]  # type: ignore[union-attr]


def test_the_start_may_be_best() -> None:
    best = best_stage(evaluated(s0=0.7, s1=0.6), lineage=(0, 1))
    assert best is not None
    assert best.stage == 0


def test_abandoned_flagged_and_revoked_stages_are_not_eligible_and_say_why() -> None:
    best = best_stage(
        evaluated(s1=0.5, s2=0.6, s3=0.7, s4=0.8, s5=0.9),
        lineage=(0, 1, 2, 3, 6),
        flagged={3: "the kl guard was hit"},
        revoked=[4],
    )
    assert best is not None
    assert best.stage == 2
    assert best.excluded == {
        3: "the kl guard was hit",
        4: "its commit was revoked",
        5: "a rollback abandoned it",
    }


def test_without_an_eligible_stage_there_is_no_best() -> None:
    assert best_stage([], lineage=(0,)) is None
    assert best_stage(evaluated(s4=0.5), lineage=(0, 1)) is None


def test_lineage_follows_parents_back_to_the_start() -> None:
    assert trace_lineage(3, {}) == (0, 1, 2, 3)
    assert trace_lineage(7, {6: 3}) == (0, 1, 2, 3, 6, 7)
    assert trace_lineage(9, {6: 3, 8: 6}) == (0, 1, 2, 3, 6, 8, 9)
    assert trace_lineage(5, {6: 3}) == (0, 1, 2, 3, 4, 5)


def test_a_parent_that_is_not_older_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 6 cannot have parent 6"):
        trace_lineage(6, {6: 6})


def rolled(current: int, best: int | None, *done: Rollback) -> Rollback:
    plan = plan_rollback(current=current, best=best, done=done, why="kl at stage 5")
    assert isinstance(plan, Rollback)
    return plan


def test_a_rollback_is_a_new_stage_with_an_older_parent_and_a_recorded_change() -> None:
    plan = rolled(5, 3)
    assert (plan.stage, plan.parent, plan.abandoned, plan.number) == (6, 3, 5, 1)
    assert plan.changes == Changes(actor_lr_scale=0.5, kl_scale=2.0, seed_offset=1)
    assert plan.restores == (
        "generator",
        "critic",
        "rewardModel",
        "optimizers",
        "klController",
        "sampleStore",
    )
    assert plan.reason == (
        "kl at stage 5; stage 6 starts again from stage 3 with the actor's learning rate × 0.5, "
        "the KL coefficient × 2 and seed + 1"
    )


def test_the_second_rollback_differs_from_the_first_even_to_the_same_parent() -> None:
    first = rolled(5, 3)
    again = rolled(7, 3, first)
    assert again.changes == Changes(actor_lr_scale=0.25, kl_scale=4.0, seed_offset=2)


def test_changes_stay_in_effect_for_every_later_stage_of_the_lineage_and_no_other() -> None:
    first = rolled(5, 3)
    second = rolled(8, 7, first)
    done = [first, second]
    assert in_effect(5, done) == Changes()
    assert in_effect(6, done) == in_effect(8, done) == Changes(0.5, 2.0, 1)
    assert in_effect(9, done) == in_effect(12, done) == Changes(0.25, 4.0, 2)


def test_without_an_earlier_good_stage_it_goes_back_to_the_start() -> None:
    assert rolled(2, None).parent == 0
    assert rolled(2, 2).parent == 0


def test_the_third_rollback_is_refused_and_the_run_stops() -> None:
    first = rolled(5, 3)
    second = rolled(7, 3, first)
    plan = plan_rollback(current=9, best=3, done=[first, second], why="kl at stage 9")
    assert plan == RollbacksExhausted("kl at stage 9; 2 of 2 rollbacks are used up")


def test_no_rollback_is_made_where_none_is_allowed() -> None:
    assert isinstance(plan_rollback(current=2, best=1, done=[], why="x", max_rollbacks=0), RollbacksExhausted)

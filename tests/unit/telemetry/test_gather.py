from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.unit.planner.world import spec_of
from tests.unit.telemetry.story import START, Story, measured
from tests.unit.telemetry.test_rest import ROLLBACK, kl_too_far_at

from gapo.planning.observation import AttemptKey, Observation, ObservedAttempt
from gapo.planning.plan import State, Status
from gapo.planning.stage_decision import stage_metrics
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.tasks import Kind, TaskKey
from gapo.telemetry.from_observation import figures_of

RUNNING = Status(State.RUNNING, 1, "Running", "waiting for 1/ppo")
PPO = TaskKey(1, Kind.PPO)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(1000 + seconds, UTC)


def ended(number: int, cause: Cause, start: float, end: float, gpus: int = 0) -> ObservedAttempt:
    record = AttemptEnd(
        attempt=number, cause=cause, charged=False, started_at=at(start), ended_at=at(end), gpus=gpus
    )
    return ObservedAttempt(number, ended=record)


def test_attempts_are_counted_by_cause_and_gpus_by_role() -> None:
    seen = Observation(
        attempts={
            TaskKey(0, Kind.SFT): (ended(0, Cause.COMMITTED, 0, 30, gpus=2),),
            PPO: (ended(0, Cause.PREEMPTED, 40, 50, gpus=4), ended(1, Cause.PREEMPTED, 60, 61, gpus=4)),
            TaskKey(1, Kind.EVALUATE): (ObservedAttempt(0, running=True),),
            TaskKey(0, Kind.RM_WARMUP): (ended(0, Cause.FAILED, 0, 5),),
        }
    )
    figures = figures_of("red", "lamp", spec_of(), seen, RUNNING)
    assert figures.attempts_ended == {"committed": 1, "preempted": 2, "failed": 1}
    assert figures.gpu_seconds == {"generator": 2 * 30 + 4 * 11, "rewardModel": 0.0}


def test_a_stage_began_with_its_first_attempt_whether_that_has_ended_or_not() -> None:
    running = {AttemptKey(PPO, 1): at(60), AttemptKey(TaskKey(0, Kind.SFT), 0): at(1)}
    only_running = figures_of("red", "lamp", spec_of(), Observation(), RUNNING, started=running)
    assert only_running.stage_started == 1060
    seen = Observation(
        attempts={
            PPO: (ended(0, Cause.PREEMPTED, 40, 50),),
            TaskKey(0, Kind.SFT): (ended(0, Cause.COMMITTED, 2, 3),),
        }
    )
    assert figures_of("red", "lamp", spec_of(), seen, RUNNING, started=running).stage_started == 1040
    assert figures_of("red", "lamp", spec_of(), Observation(), RUNNING).stage_started is None


def test_a_run_that_only_waits_is_pending_unless_its_executor_has_a_better_word() -> None:
    waiting = Status(State.WAITING, 1, "BackOff", "ppo failed")
    assert figures_of("red", "lamp", spec_of(), Observation(), waiting).state == "Pending"
    assert figures_of("red", "lamp", spec_of(), Observation(), waiting, state="Queued").state == "Queued"


def test_a_stages_figures_never_change_and_its_clocks_add_up(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 2})
    status = story.run()
    seen = story.seen()
    both = stage_metrics(seen, 1)
    assert both["rm/score_generated"] == 0.51  # evaluate's, not that of rm, which came after it
    assert both["rm/pair_accuracy"] == 0.81
    assert both["wall/seconds"] == 21 + 5 + 8
    figures = figures_of("red", "lamp", story.spec, seen, status)
    assert set(figures.stages) == {0, 1, 2}
    assert "test/gain" not in figures.stages[2]
    assert figures.test["test/gain"] == 0.06
    tasks = 4 + 3 + 2 + 1  # stage 0, stage 1 with its reward model, stage 2 without, export
    assert figures.last_commit == (START + timedelta(seconds=10 * tasks)).timestamp()
    assert figures.attempts_ended == {"committed": tasks}


def test_guards_rollbacks_and_the_best_stage_are_those_of_the_decisions(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", kl_too_far_at(1, 2, 5), stages={"max": 5}, **ROLLBACK)
    status = story.run()
    figures = figures_of("red", "lamp", story.spec, story.seen(), status)
    assert figures.rollbacks == 1
    assert figures.guard_hits["kl"] == 1
    assert figures.guard_hits["memorisation"] == 0
    assert "hacking" not in figures.guard_hits, "its figures were not committed"
    assert figures.kl_limit == 0.5
    assert figures.best_stage == status.best_stage == 4, "5 is better and flagged"


def test_before_an_export_the_best_stage_is_the_one_that_would_be_exported_now(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", measured, stages={"max": 3})
    story.run()
    seen = story.seen()
    midway = Observation(
        committed={
            key: c for key, c in seen.committed.items() if key.stage < 2 or key == TaskKey(2, Kind.PPO)
        },
        decisions={1: seen.decisions[1]},
    )
    status = Status(State.RUNNING, 2, "Running", "waiting for 2/evaluate")
    figures = figures_of("red", "lamp", story.spec, midway, status)
    assert figures.best_stage == 1
    assert figures.stages_max == 3


def test_a_guard_that_is_off_has_no_limit() -> None:
    spec = spec_of(guards={"kl": {"action": "off"}})
    assert figures_of("red", "lamp", spec, Observation(), RUNNING).kl_limit is None

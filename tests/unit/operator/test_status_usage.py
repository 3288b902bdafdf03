"""A run's figures in its status, and back."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.unit.operator.played import loaded

from gapo.api.status import GapoRunStatus
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.planning.observation import AttemptKey
from gapo.tasks import Kind, TaskKey
from gapo_operator.run_metrics.status_usage import figures_of_status, summary_of, trainer_status

PPO, EVALUATE = (AttemptKey(TaskKey(3, kind), 0) for kind in (Kind.PPO, Kind.EVALUATE))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
TAKEN = RunFigures(
    "red",
    "run",
    "Succeeded",
    stages={1: {"eval/satisfaction": 0.5}},
    stage=2,
    stages_max=2,
    best_stage=1,
    progress=1.0,
    last_commit=NOON + 0.123456,
    stage_started=NOON,
    kl_limit=0.5,
    guard_hits={"kl": 2},
    rollbacks=1,
    attempts_ended={"committed": 9, "preempted": 2},
    gpu_seconds={"generator": 7200.5},
)


def test_what_a_run_took_is_read_from_its_status_as_it_was_written() -> None:
    written = summary_of(TAKEN)
    assert written["progressPercentage"] == 100
    assert written["usage"].last_commit_time == "2026-01-01T12:00:00.123456Z"
    status = GapoRunStatus.model_validate({"state": "Succeeded", "stage": 2, "bestStage": 1, **written})
    stored = GapoRunStatus.model_validate_json(status.model_dump_json(by_alias=True, exclude_none=True))
    read = figures_of_status("red", "run", stored, loaded().spec)
    for name in ("last_commit", "stage_started", "guard_hits", "rollbacks", "attempts_ended", "gpu_seconds"):
        assert getattr(read, name) == getattr(TAKEN, name), name
    assert (read.state, read.stage, read.stages_max, read.best_stage) == ("Succeeded", 2, 2, 1)
    assert read.stages == {}


def test_a_percentage_is_full_only_when_all_is_done() -> None:
    nearly = RunFigures("red", "run", "Running", progress=0.9999, remaining_seconds=61.4)
    assert summary_of(nearly)["progressPercentage"] == 99
    assert summary_of(nearly)["estimatedRemainingSeconds"] == 61


def task_figures(percentage: float = 45.7, kl: float = 0.123456789, at: float = NOON) -> TaskFigures:
    figures = {"ppo/kl": kl, "my/own": 1.0}
    return TaskFigures(percentage, 90.4, figures, last_updated=at)


def test_of_several_tasks_the_one_that_takes_longest_is_shown_in_whole_percents() -> None:
    shown = trainer_status({EVALUATE: task_figures(99), PPO: task_figures()}, None)
    assert shown == {
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 90,
        "metrics": [{"name": "ppo/kl", "value": "0.123457"}],
        "lastUpdatedTime": "2026-01-01T12:00:00Z",
    }
    assert trainer_status({}, shown) is None


def test_what_nobody_can_see_changes_nothing() -> None:
    shown = trainer_status({PPO: task_figures()}, None)
    assert trainer_status({PPO: task_figures(45.9, 0.1234568, NOON + 60)}, shown) is shown
    later = trainer_status({PPO: task_figures(46, at=NOON + 60)}, shown)
    assert later is not None
    assert (later["progressPercentage"], later["lastUpdatedTime"]) == (46, "2026-01-01T12:01:00Z")

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.operator.storage_room import DATA, Room, attempt_job, causes, started
from tests.unit.planner.world import START

from gapo.decision_rules.attempts import Exit
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.store.objects import Objects
from gapo.tasks import Kind, TaskKey
from gapo_operator.kube.job_states import JobState
from gapo_operator.reconcile.run_pass import (
    LINGER_SECONDS,
    NO_COMMIT_SECONDS,
    STOP_SECONDS,
    UNCLEAR_SECONDS,
)

SFT = AttemptKey(TaskKey(0, Kind.SFT), 0)


def test_a_job_that_was_never_created_is_created_by_the_next_operator_as_the_same_attempt(room: Room) -> None:
    first = room.advance()
    assert started(first) == [DATA]
    again = room.advance(storage=room.operator("uid-1"))
    assert started(again) == [DATA]
    assert [task.document for task in again.create] == [task.document for task in first.create]


def test_what_runs_is_not_started_again(room: Room) -> None:
    room.advance()
    assert started(room.advance(attempt_job(DATA, JobState.RUNNING))) == []


def test_a_commit_starts_what_waited_for_it_although_its_job_still_runs(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    after = room.advance(attempt_job(DATA, JobState.RUNNING))
    assert {a.task.kind for a in started(after)} == {Kind.SFT, Kind.RM_WARMUP}
    assert causes(after) == ["none"]
    assert causes(room.advance(attempt_job(DATA, JobState.SUCCEEDED))) == ["committed"]


def test_a_job_that_failed_after_its_commit_has_committed(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    assert causes(room.advance(attempt_job(DATA, JobState.FAILED, exit=Exit(1)))) == ["committed"]


@pytest.mark.parametrize(
    "exit_",
    [
        Exit(128, reason="ContainerNotStarted", never_ran=True),  # an image without the trainer
        Exit(reason="OutOfcpu", never_ran=True),  # a node that took another pod meanwhile
    ],
)
def test_a_job_whose_pod_never_ran_waits_for_somebody_to_act_and_is_not_charged(
    room: Room, exit_: Exit
) -> None:
    room.advance()
    after = room.advance(attempt_job(DATA, JobState.FAILED, exit=exit_))
    assert causes(after) == ["notStarted"]
    assert started(after) == []  # no hot loop: the next attempt has its time
    assert after.plan.status.state is State.WAITING
    assert after.plan.wake_at == START + timedelta(seconds=30)


def test_a_corrected_manifest_is_tried_at_once_and_the_same_one_not_again(room: Room) -> None:
    room.advance()
    never_ran = {"exit": Exit(128, never_ran=True)}
    assert started(room.advance(attempt_job(DATA, JobState.FAILED, **never_ran))) == []
    assert started(room.advance()) == []
    corrected = {"roles": {"data": {"image": "trainer:2"}}}
    again = AttemptKey(DATA.task, 1)
    assert started(room.advance(**corrected)) == [again]
    assert started(room.advance(attempt_job(again, JobState.FAILED, **never_ran), **corrected)) == []
    assert started(room.advance(**corrected)) == []


def test_another_operator_process_is_no_change_of_the_manifest(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.FAILED, exit=Exit(128, never_ran=True)))
    assert started(room.advance(storage=room.operator("uid-1"))) == []


def test_a_pod_that_waits_and_is_to_go_is_looked_for_no_oftener_than_its_deletion_takes(room: Room) -> None:
    limits = {"scheduling": {"activeDeadlineSeconds": 10, "pendingTimeout": "1h"}}
    room.advance(**limits)
    room.advance(attempt_job(DATA, JobState.RUNNING, started_at=START), **limits)
    room.seconds = 11.0
    waits = attempt_job(DATA, JobState.PENDING)  # its node is gone, and its deletion is refused
    for _ in range(3):
        outcome = room.advance(waits, {"job-data": 9999.0}, **limits)
        assert outcome.plan.status.state is State.FAILED
        assert outcome.again_after == STOP_SECONDS


def test_success_without_a_manifest_is_a_failure_once_it_had_time_to_show(room: Room) -> None:
    room.advance()
    done = attempt_job(DATA, JobState.SUCCEEDED)
    waiting = room.advance(done)
    assert (causes(waiting), started(waiting)) == (["none"], [])
    assert waiting.again_after is not None
    room.seconds = NO_COMMIT_SECONDS + 1
    assert causes(room.advance(done)) == ["noCommit"]


def test_a_failed_attempt_is_followed_by_the_next_after_its_back_off(room: Room) -> None:
    room.advance()
    failed = attempt_job(DATA, JobState.FAILED, exit=Exit(1), ended_at=START)
    waiting = room.advance(failed)
    assert (causes(waiting), waiting.plan.status.state) == (["failed"], State.WAITING)
    room.seconds = 3600
    assert started(room.advance()) == [AttemptKey(DATA.task, 1)]


def test_a_suspended_run_stops_its_jobs_and_records_their_end_once_they_are_gone(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.RUNNING, started_at=START))
    stopping = room.advance(attempt_job(DATA, JobState.RUNNING, started_at=START), suspend=True)
    assert (stopping.stop, causes(stopping)) == ([DATA], ["none"])
    assert causes(room.advance(attempt_job(DATA, JobState.STOPPING), suspend=True)) == ["none"]
    room.seconds = 90
    gone = room.advance(suspend=True)
    assert causes(gone) == ["stopped"]
    ((_, record),) = gone.ended
    assert (record.ended_at - record.started_at).total_seconds() == 90
    assert started(room.advance()) == [AttemptKey(DATA.task, 1)]


def test_a_job_that_nobody_has_told_of_yet_is_deleted_before_its_end_is_recorded(room: Room) -> None:
    room.advance()
    asked = room.advance(suspend=True)
    assert (asked.stop, causes(asked)) == ([DATA], ["none"])
    assert asked.again_after is not None
    late = room.advance(attempt_job(DATA, JobState.RUNNING), suspend=True)
    assert (late.stop, causes(late)) == ([DATA], ["none"])
    assert causes(room.advance(suspend=True)) == ["stopped"]


def test_a_job_that_shows_up_after_its_end_was_recorded_is_deleted(room: Room) -> None:
    room.advance()
    room.advance(suspend=True)
    assert causes(room.advance(suspend=True)) == ["stopped"]
    assert room.advance(attempt_job(DATA, JobState.RUNNING), suspend=True).stop == [DATA]


def test_a_job_that_somebody_deleted_took_its_pod_away(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.RUNNING, started_at=START, begun=True))
    assert causes(room.advance())[0] == "preempted"


def test_a_failure_is_recorded_once_its_pod_has_told_what_it_was(room: Room) -> None:
    room.advance()
    unclear = room.advance(attempt_job(DATA, JobState.FAILED))
    assert causes(unclear) == ["none"]
    assert unclear.again_after is not None
    assert causes(room.advance(attempt_job(DATA, JobState.FAILED, exit=Exit(65)))) == ["permanent"]


def test_a_failure_whose_pod_never_tells_counts_as_taken_away(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.FAILED))
    room.seconds = UNCLEAR_SECONDS + 1
    assert causes(room.advance(attempt_job(DATA, JobState.FAILED)))[0] == "preempted"


def test_a_process_that_does_not_end_after_its_commit_is_stopped_in_the_end(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    hanging = attempt_job(DATA, JobState.RUNNING)
    first = room.advance(hanging)
    assert (first.stop, first.again_after is not None) == ([], True)
    room.seconds = LINGER_SECONDS + 1
    assert room.advance(hanging).stop == [DATA]
    assert causes(room.advance()) == ["committed"]


def test_a_suspended_run_waits_for_no_process_that_has_committed(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    assert room.advance(attempt_job(DATA, JobState.RUNNING), suspend=True).stop == [DATA]


def test_a_job_that_somebody_deleted_before_its_pod_ran_costs_nothing(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.PENDING))
    gone = room.advance()
    assert [(end.cause, end.charged) for _, end in gone.ended] == [("notStarted", False)]


def test_denied_access_is_no_failure_of_the_task(room: Room) -> None:
    room.advance()
    for attempt in range(6):
        denied = attempt_job(
            AttemptKey(DATA.task, attempt),
            JobState.FAILED,
            exit=Exit(75, "StorageNotAllowed"),
            termination_message={
                "reason": "StorageNotAllowed",
                "message": "cannot read run.json: AccessDenied",
            },
            ended_at=START + timedelta(seconds=room.seconds),
        )
        waiting = room.advance(denied)
        assert waiting.plan.status.state is State.WAITING
        room.seconds += 601
        assert started(room.advance()) == [AttemptKey(DATA.task, attempt + 1)]
    assert causes(room.advance()) == ["noAccess"] * 6 + ["none"]


def test_what_is_known_of_a_run_is_used_with_the_newest_client(room: Room) -> None:
    room.advance()
    old, room.objects = room.objects, Objects(room.objects.store)
    requests: list[str] = []
    old.listener = lambda op, _result, _seconds: requests.append(op)
    room.advance(attempt_job(DATA, JobState.RUNNING))
    assert requests == []

"""Limits of time and room, changed manifests and takeovers: what a storage pass does beyond starting and ending attempts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.unit.operator.storage_room import DATA, Room, attempt_job, causes, started
from tests.unit.planner.world import START

from gapo.errors import FencedError, RunMovedError, SpecError
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.store.claims import take_claim
from gapo.store.objects import Objects
from gapo.tasks import Kind
from gapo_operator.kube.job_states import JobState, Problem
from gapo_operator.reconcile.events import events_of


def test_pods_without_room_are_given_back_and_tried_again_after_a_rest(room: Room) -> None:
    room.advance()
    pending = attempt_job(DATA, JobState.PENDING)
    patient = room.advance(pending, {"job-data": 899.0})
    assert patient.stop == []
    given = room.advance(pending, {"job-data": 901.0})
    assert (given.stop, given.plan.status.reason) == ([DATA], "CapacityTimeout")
    resting = room.advance()
    assert (started(resting), causes(resting)) == ([], ["stopped"])
    assert resting.plan.status.reason == "CapacityTimeout"
    assert resting.again_after is not None
    room.seconds += resting.again_after + 1
    assert started(room.advance()) == [AttemptKey(DATA.task, 1)]


def test_a_run_out_of_time_stays_stopped_and_goes_on_once_it_is_given_more(room: Room) -> None:
    limit = {"scheduling": {"activeDeadlineSeconds": 100}}
    room.advance(**limit)
    running = attempt_job(DATA, JobState.RUNNING, started_at=START)
    room.seconds = 99
    assert room.advance(running, **limit).plan.status.state is State.RUNNING
    room.seconds = 101
    for shown in (running, attempt_job(DATA, JobState.STOPPING), None, None):
        over = room.advance(shown, **limit)
        assert (over.plan.status.state, over.plan.status.reason) == (State.FAILED, "DeadlineExceeded")
        assert started(over) == []
    assert causes(over) == ["stopped"]
    assert started(room.advance(scheduling={"activeDeadlineSeconds": 1000})) == [AttemptKey(DATA.task, 1)]


def test_an_operator_goes_on_under_the_claim_of_the_one_before(room: Room) -> None:
    assert room.advance().claim == 0
    assert room.advance(storage=room.operator("uid-1")).claim == 0


def test_the_same_run_under_a_new_object_is_adopted_and_told_once(room: Room) -> None:
    assert not room.advance().adopted
    successor = room.operator("uid-2")
    outcome = room.advance(storage=successor)
    assert (outcome.adopted, outcome.claim) == (True, 1)
    assert not room.advance(storage=successor).adopted
    with pytest.raises(FencedError, match="gaporun-uid-2"):
        room.advance(suspend=True, storage=room.operator("uid-1"))


def test_a_run_that_a_laptop_took_over_is_left_to_it(room: Room) -> None:
    (data,) = room.advance().create
    take_claim(room.objects, "gapo-run-1", "laptop", datetime.now(UTC))
    room.commit(data)
    with pytest.raises(FencedError, match="laptop"):
        room.advance(attempt_job(DATA, JobState.SUCCEEDED))


def test_another_spec_under_the_same_run_id_is_refused(room: Room) -> None:
    room.advance(runID="mine")
    with pytest.raises(SpecError, match="seed"):
        room.advance(storage=room.operator("uid-1"), runID="mine", seed=7)


def test_an_upgrade_of_the_operator_changes_no_image_of_a_run_that_has_begun(room: Room) -> None:
    room.advance()
    later = room.operator("uid-1").advance(room.objects, room.loaded(), {}, "image:2", {})
    assert later.record.default_image == "image:1"


def test_an_attempt_that_had_not_begun_gives_way_to_one_with_what_is_asked_now_free_of_charge(
    room: Room,
) -> None:
    room.advance(roles={"data": {"threads": 1}})
    waiting = attempt_job(DATA, JobState.PENDING, superseded=True)
    changed = {"roles": {"data": {"threads": 2}}}
    replacing = room.advance(waiting, **changed)
    assert (replacing.stop, started(replacing), causes(replacing)) == ([DATA], [], ["none"])
    assert causes(room.advance(attempt_job(DATA, JobState.STOPPING), **changed)) == ["none"]
    gone = room.advance(**changed)
    ((_, record),) = gone.ended
    assert (record.cause, record.charged, record.reason) == ("stopped", False, "TaskReplaced")
    assert gone.again_after == 0.0
    (event,) = [e for e in events_of(gone, room.loaded(), None) if e.reason == "TaskReplaced"]
    following = room.advance(**changed)
    assert started(following) == [AttemptKey(DATA.task, 1)]
    assert [task.threads for task in following.create] == [2]
    assert "attempt 0 of 0/data (free of charge)" in event.message


def test_an_attempt_that_begins_while_it_is_replaced_is_neither_lost_nor_doubled(room: Room) -> None:
    (data,) = room.advance().create
    room.advance(attempt_job(DATA, JobState.PENDING, superseded=True))
    begun = room.advance(attempt_job(DATA, JobState.RUNNING, started_at=START))
    assert (begun.stop, started(begun)) == ([DATA], [])
    room.commit(data)
    after = room.advance(attempt_job(DATA, JobState.STOPPING))
    assert DATA.task not in {attempt.task for attempt in started(after)}
    gone = room.advance()
    assert causes(gone) == ["committed"]
    assert {a.task.kind for a in started(gone)} == {Kind.SFT, Kind.RM_WARMUP}


def test_an_operator_that_starts_in_the_middle_of_a_replacement_carries_it_through(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.PENDING, superseded=True))
    successor = room.operator("uid-1")
    going = room.advance(attempt_job(DATA, JobState.STOPPING, superseded=True), storage=successor)
    assert started(going) == []
    assert causes(room.advance(storage=successor)) == ["stopped"]
    assert started(room.advance(storage=successor)) == [AttemptKey(DATA.task, 1)]


@pytest.mark.parametrize(
    ("more", "reason", "words"),
    [
        (
            {"problem": Problem("ContainerConfigInvalid", 'secret "keys" not found')},
            "ContainerConfigInvalid",
            '"keys"',
        ),
        ({"problem": Problem("ImagePullFailed", "no such image")}, "ImagePullFailed", "no such image"),
        ({"problem": Problem("PodRejected", "denied by policy")}, "PodRejected", "denied by policy"),
        ({"started_at": START}, "ContainerNotStarted", "kubectl describe pods -l"),
        ({"problem": Problem("Unschedulable", "0/1 nodes")}, "CapacityTimeout", "Unschedulable: 0/1 nodes"),
        ({"problem": Problem("QuotaExceeded", "gpus")}, "CapacityTimeout", "QuotaExceeded: gpus"),
        ({}, "CapacityTimeout", "no room"),
    ],
)
def test_what_a_pod_waited_for_is_told_once_it_is_given_back_and_only_room_is_called_room(
    room: Room, more: dict[str, Any], reason: str, words: str
) -> None:
    room.advance()
    given = room.advance(attempt_job(DATA, JobState.PENDING, **more), {"job-data": 901.0})
    assert (given.stop, given.plan.status.state, given.plan.status.reason) == ([DATA], State.WAITING, reason)
    assert words in given.plan.status.message
    resting = room.advance()
    assert (resting.plan.status.reason, causes(resting)) == (reason, ["stopped"])


def test_what_a_person_has_to_put_right_is_tried_again_each_minute_however_often_it_failed(
    room: Room,
) -> None:
    room.advance()
    problem = Problem("ContainerConfigInvalid", 'secret "keys" not found')
    for attempt in range(6):
        waiting = AttemptKey(DATA.task, attempt)
        room.advance(attempt_job(waiting, JobState.PENDING, problem=problem), {"job-data": 901.0})
        resting = room.advance()
        assert resting.again_after is not None
        assert resting.again_after <= 1.2 * 60
        room.seconds += resting.again_after + 1
        assert started(room.advance()) == [AttemptKey(DATA.task, attempt + 1)]


def test_a_changed_manifest_ends_the_rest_of_a_run_that_found_no_room(room: Room) -> None:
    room.advance()
    room.advance(attempt_job(DATA, JobState.PENDING), {"job-data": 901.0})
    assert started(room.advance()) == []
    assert started(room.advance(roles={"data": {"threads": 2}})) == [AttemptKey(DATA.task, 1)]


def test_a_run_that_has_begun_is_never_begun_anew_where_it_is_not(room: Room) -> None:
    room.advance()
    elsewhere = Objects(MemoryStore())
    for _ in range(2):
        with pytest.raises(RunMovedError, match=r"there is no run\.json of it"):
            room.operator("uid-1").advance(elsewhere, room.loaded(), {}, "image:1", {}, has_begun=True)
    assert elsewhere.get("run.json") is None
    back = room.operator("uid-1").advance(room.objects, room.loaded(), {}, "image:1", {}, has_begun=True)
    assert started(back) == [DATA]

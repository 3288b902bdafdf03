from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.unit.planner.world import START

from gapo.api.load import LoadedRun, load_document
from gapo.errors import FencedError, RunMovedError, SpecError
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.policies.attempts import Exit
from gapo.store.claims import take_claim
from gapo.store.commit import commit_manifest
from gapo.store.objects import Objects
from gapo.store.records import Manifest, ManifestRef
from gapo.tasks import Kind, Task, TaskKey
from gapo_operator.kube.attempts import Child, ChildState, Problem
from gapo_operator.reconcile.events import story_of
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.storage import (
    LINGER_SECONDS,
    NO_COMMIT_SECONDS,
    STOP_SECONDS,
    UNCLEAR_SECONDS,
    RunStorage,
)

DATA = AttemptKey(TaskKey(0, Kind.DATA), 0)
SFT = AttemptKey(TaskKey(0, Kind.SFT), 0)


class Room:
    """One run's storage, an operator's passes over it, and a clock that the test moves."""

    def __init__(self) -> None:
        self.objects = Objects(MemoryStore())
        self.seconds = 0.0
        self.storage = self.operator("uid-1")

    def operator(self, uid: str) -> RunStorage:
        return RunStorage(uid, lambda: START + timedelta(seconds=self.seconds), lambda: self.seconds)

    def loaded(self, **spec: Any) -> LoadedRun:
        document = {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": "run", "namespace": "red"},
            "spec": {
                "data": {"generate": {"grammar": "micro", "size": 100}},
                "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
                "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
                "stages": {"max": 2},
                **spec,
            },
        }
        return load_document(document, where="test", base=Path())

    def advance(
        self,
        children: Mapping[AttemptKey, Child] | None = None,
        waited: Mapping[str, float] | None = None,
        storage: RunStorage | None = None,
        **spec: Any,
    ) -> Outcome:
        return (storage or self.storage).advance(
            self.objects, self.loaded(**spec), children or {}, "image:1", waited or {}
        )

    def commit(self, task: Task) -> None:
        commit_manifest(
            self.objects,
            Manifest(
                run_id=task.run_id,
                stage=task.stage,
                kind=task.kind.value,
                generation=task.generation,
                attempt=task.attempt,
                writer="w",
                task_digest=task.digest,
                inputs={n: ManifestRef(key=r.key, sha256=r.sha256) for n, r in task.inputs.items()},
                started_at=START,
                finished_at=START,
            ),
        )


@pytest.fixture
def room() -> Room:
    return Room()


def child(attempt: AttemptKey, state: ChildState, **more: Any) -> dict[AttemptKey, Child]:
    return {attempt: Child(attempt, f"job-{attempt.task.kind.value}", state, "job-uid", **more)}


def started(outcome: Outcome) -> list[AttemptKey]:
    return [AttemptKey(task.key, task.attempt) for task in outcome.create]


def causes(outcome: Outcome, key: TaskKey = DATA.task) -> list[str]:
    return [a.ended.cause.value if a.ended else "none" for a in outcome.seen.attempts.get(key, ())]


def test_a_job_that_was_never_created_is_created_by_the_next_operator_as_the_same_attempt(room: Room) -> None:
    first = room.advance()
    assert started(first) == [DATA]
    again = room.advance(storage=room.operator("uid-1"))
    assert started(again) == [DATA]
    assert [task.document for task in again.create] == [task.document for task in first.create]


def test_what_runs_is_not_started_again(room: Room) -> None:
    room.advance()
    assert started(room.advance(child(DATA, ChildState.RUNNING))) == []


def test_a_commit_starts_what_waited_for_it_although_its_job_still_runs(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    after = room.advance(child(DATA, ChildState.RUNNING))
    assert {a.task.kind for a in started(after)} == {Kind.SFT, Kind.RM_WARMUP}
    assert causes(after) == ["none"]
    assert causes(room.advance(child(DATA, ChildState.SUCCEEDED))) == ["committed"]


def test_a_job_that_failed_after_its_commit_has_committed(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    assert causes(room.advance(child(DATA, ChildState.FAILED, exit=Exit(1)))) == ["committed"]


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
    after = room.advance(child(DATA, ChildState.FAILED, exit=exit_))
    assert causes(after) == ["notStarted"]
    assert started(after) == []  # no hot loop: the next attempt has its time
    assert after.plan.status.state is State.WAITING
    assert after.plan.wake_at == START + timedelta(seconds=30)


def test_a_corrected_manifest_is_tried_at_once_and_the_same_one_not_again(room: Room) -> None:
    room.advance()
    never_ran = {"exit": Exit(128, never_ran=True)}
    assert started(room.advance(child(DATA, ChildState.FAILED, **never_ran))) == []
    assert started(room.advance()) == []
    corrected = {"roles": {"data": {"image": "trainer:2"}}}
    again = AttemptKey(DATA.task, 1)
    assert started(room.advance(**corrected)) == [again]
    assert started(room.advance(child(again, ChildState.FAILED, **never_ran), **corrected)) == []
    assert started(room.advance(**corrected)) == []


def test_another_operator_process_is_no_change_of_the_manifest(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.FAILED, exit=Exit(128, never_ran=True)))
    assert started(room.advance(storage=room.operator("uid-1"))) == []


def test_a_pod_that_waits_and_is_to_go_is_looked_for_no_oftener_than_its_deletion_takes(room: Room) -> None:
    limits = {"scheduling": {"activeDeadlineSeconds": 10, "pendingTimeout": "1h"}}
    room.advance(**limits)
    room.advance(child(DATA, ChildState.RUNNING, started_at=START), **limits)
    room.seconds = 11.0
    waits = child(DATA, ChildState.PENDING)  # its node is gone, and its deletion is refused
    for _ in range(3):
        outcome = room.advance(waits, {"job-data": 9999.0}, **limits)
        assert outcome.plan.status.state is State.FAILED
        assert outcome.again_after == STOP_SECONDS


def test_success_without_a_manifest_is_a_failure_once_it_had_time_to_show(room: Room) -> None:
    room.advance()
    done = child(DATA, ChildState.SUCCEEDED)
    waiting = room.advance(done)
    assert (causes(waiting), started(waiting)) == (["none"], [])
    assert waiting.again_after is not None
    room.seconds = NO_COMMIT_SECONDS + 1
    assert causes(room.advance(done)) == ["noCommit"]


def test_a_failed_attempt_is_followed_by_the_next_after_its_back_off(room: Room) -> None:
    room.advance()
    failed = child(DATA, ChildState.FAILED, exit=Exit(1), ended_at=START)
    waiting = room.advance(failed)
    assert (causes(waiting), waiting.plan.status.state) == (["failed"], State.WAITING)
    room.seconds = 3600
    assert started(room.advance()) == [AttemptKey(DATA.task, 1)]


def test_a_suspended_run_stops_its_jobs_and_records_their_end_once_they_are_gone(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.RUNNING, started_at=START))
    stopping = room.advance(child(DATA, ChildState.RUNNING, started_at=START), suspend=True)
    assert (stopping.stop, causes(stopping)) == ([DATA], ["none"])
    assert causes(room.advance(child(DATA, ChildState.STOPPING), suspend=True)) == ["none"]
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
    late = room.advance(child(DATA, ChildState.RUNNING), suspend=True)
    assert (late.stop, causes(late)) == ([DATA], ["none"])
    assert causes(room.advance(suspend=True)) == ["stopped"]


def test_a_job_that_shows_up_after_its_end_was_recorded_is_deleted(room: Room) -> None:
    room.advance()
    room.advance(suspend=True)
    assert causes(room.advance(suspend=True)) == ["stopped"]
    assert room.advance(child(DATA, ChildState.RUNNING), suspend=True).stop == [DATA]


def test_a_job_that_somebody_deleted_took_its_pod_away(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.RUNNING, started_at=START, begun=True))
    assert causes(room.advance())[0] == "preempted"


def test_a_failure_is_recorded_once_its_pod_has_told_what_it_was(room: Room) -> None:
    room.advance()
    unclear = room.advance(child(DATA, ChildState.FAILED))
    assert causes(unclear) == ["none"]
    assert unclear.again_after is not None
    assert causes(room.advance(child(DATA, ChildState.FAILED, exit=Exit(65)))) == ["permanent"]


def test_a_failure_whose_pod_never_tells_counts_as_taken_away(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.FAILED))
    room.seconds = UNCLEAR_SECONDS + 1
    assert causes(room.advance(child(DATA, ChildState.FAILED)))[0] == "preempted"


def test_a_process_that_does_not_end_after_its_commit_is_stopped_in_the_end(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    hanging = child(DATA, ChildState.RUNNING)
    first = room.advance(hanging)
    assert (first.stop, first.again_after is not None) == ([], True)
    room.seconds = LINGER_SECONDS + 1
    assert room.advance(hanging).stop == [DATA]
    assert causes(room.advance()) == ["committed"]


def test_a_suspended_run_waits_for_no_process_that_has_committed(room: Room) -> None:
    (data,) = room.advance().create
    room.commit(data)
    assert room.advance(child(DATA, ChildState.RUNNING), suspend=True).stop == [DATA]


def test_pods_without_room_are_given_back_and_tried_again_after_a_rest(room: Room) -> None:
    room.advance()
    pending = child(DATA, ChildState.PENDING)
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
    running = child(DATA, ChildState.RUNNING, started_at=START)
    room.seconds = 99
    assert room.advance(running, **limit).plan.status.state is State.RUNNING
    room.seconds = 101
    for shown in (running, child(DATA, ChildState.STOPPING), None, None):
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
        room.advance(child(DATA, ChildState.SUCCEEDED))


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
    waiting = child(DATA, ChildState.PENDING, superseded=True)
    changed = {"roles": {"data": {"threads": 2}}}
    replacing = room.advance(waiting, **changed)
    assert (replacing.stop, started(replacing), causes(replacing)) == ([DATA], [], ["none"])
    assert causes(room.advance(child(DATA, ChildState.STOPPING), **changed)) == ["none"]
    gone = room.advance(**changed)
    ((_, record),) = gone.ended
    assert (record.cause, record.charged, record.reason) == ("stopped", False, "TaskReplaced")
    assert gone.again_after == 0.0
    (event,) = [e for e in story_of(gone, room.loaded(), None) if e.reason == "TaskReplaced"]
    following = room.advance(**changed)
    assert started(following) == [AttemptKey(DATA.task, 1)]
    assert [task.threads for task in following.create] == [2]
    assert "attempt 0 of 0/data (free of charge)" in event.message


def test_an_attempt_that_begins_while_it_is_replaced_is_neither_lost_nor_doubled(room: Room) -> None:
    (data,) = room.advance().create
    room.advance(child(DATA, ChildState.PENDING, superseded=True))
    begun = room.advance(child(DATA, ChildState.RUNNING, started_at=START))
    assert (begun.stop, started(begun)) == ([DATA], [])
    room.commit(data)
    after = room.advance(child(DATA, ChildState.STOPPING))
    assert DATA.task not in {attempt.task for attempt in started(after)}
    gone = room.advance()
    assert causes(gone) == ["committed"]
    assert {a.task.kind for a in started(gone)} == {Kind.SFT, Kind.RM_WARMUP}


def test_an_operator_that_starts_in_the_middle_of_a_replacement_carries_it_through(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.PENDING, superseded=True))
    successor = room.operator("uid-1")
    going = room.advance(child(DATA, ChildState.STOPPING, superseded=True), storage=successor)
    assert started(going) == []
    assert causes(room.advance(storage=successor)) == ["stopped"]
    assert started(room.advance(storage=successor)) == [AttemptKey(DATA.task, 1)]


def test_a_job_that_somebody_deleted_before_its_pod_ran_costs_nothing(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.PENDING))
    gone = room.advance()
    assert [(end.cause, end.charged) for _, end in gone.ended] == [("notStarted", False)]


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
    given = room.advance(child(DATA, ChildState.PENDING, **more), {"job-data": 901.0})
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
        room.advance(child(waiting, ChildState.PENDING, problem=problem), {"job-data": 901.0})
        resting = room.advance()
        assert resting.again_after is not None
        assert resting.again_after <= 1.2 * 60
        room.seconds += resting.again_after + 1
        assert started(room.advance()) == [AttemptKey(DATA.task, attempt + 1)]


def test_a_changed_manifest_ends_the_rest_of_a_run_that_found_no_room(room: Room) -> None:
    room.advance()
    room.advance(child(DATA, ChildState.PENDING), {"job-data": 901.0})
    assert started(room.advance()) == []
    assert started(room.advance(roles={"data": {"threads": 2}})) == [AttemptKey(DATA.task, 1)]


def test_denied_access_is_no_failure_of_the_task(room: Room) -> None:
    room.advance()
    for attempt in range(6):
        denied = child(
            AttemptKey(DATA.task, attempt),
            ChildState.FAILED,
            exit=Exit(75, "StorageNotAllowed"),
            said={"reason": "StorageNotAllowed", "message": "cannot read run.json: AccessDenied"},
            ended_at=START + timedelta(seconds=room.seconds),
        )
        waiting = room.advance(denied)
        assert waiting.plan.status.state is State.WAITING
        room.seconds += 601
        assert started(room.advance()) == [AttemptKey(DATA.task, attempt + 1)]
    assert causes(room.advance()) == ["noAccess"] * 6 + ["none"]


def test_a_run_that_has_begun_is_never_begun_anew_where_it_is_not(room: Room) -> None:
    room.advance()
    elsewhere = Objects(MemoryStore())
    for _ in range(2):
        with pytest.raises(RunMovedError, match=r"there is no run\.json of it"):
            room.operator("uid-1").advance(elsewhere, room.loaded(), {}, "image:1", {}, has_begun=True)
    assert elsewhere.get("run.json") is None
    back = room.operator("uid-1").advance(room.objects, room.loaded(), {}, "image:1", {}, has_begun=True)
    assert started(back) == [DATA]


def test_what_is_known_of_a_run_is_used_with_the_newest_client(room: Room) -> None:
    room.advance()
    old, room.objects = room.objects, Objects(room.objects.store)
    requests: list[str] = []
    old.listener = lambda op, _result, _seconds: requests.append(op)
    room.advance(child(DATA, ChildState.RUNNING))
    assert requests == []

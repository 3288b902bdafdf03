from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.planner.world import spec_of

from gapo.planning.observation import AttemptKey, Committed, Observation, ObservedAttempt
from gapo.planning.plan import State, Status
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.records import ManifestRef
from gapo.tasks import Kind, TaskKey
from gapo_operator.config import StorageLocation
from gapo_operator.kube.job_states import AttemptJob, JobState, Problem
from gapo_operator.kube.run_location import access_of
from gapo_operator.reconcile.status import Findings, status_of

NOON, LATER = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=UTC)
PPO = AttemptKey(TaskKey(1, Kind.PPO), 0)


def findings(state: State = State.RUNNING, **more: Any) -> Findings:
    status = Status(state, 1, more.pop("reason", "Running"), "waiting for 1/ppo")
    spec = spec_of(**more.pop("spec", {}))
    return Findings(generation=2, run_id="abc", location="s3://b/x", spec=spec, status=status, **more)


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in status["conditions"]}


def live(state: JobState, problem: Problem | None = None) -> dict[AttemptKey, AttemptJob]:
    return {PPO: AttemptJob(PPO, "job", state, problem=problem)}


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = status_of(findings(), None, NOON)
    second = status_of(findings(reason="Other"), first, LATER)
    assert conditions(second)["Succeeded"]["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert conditions(second)["Succeeded"]["reason"] == "Other"
    done = status_of(findings(State.SUCCEEDED), second, LATER)
    assert conditions(done)["Succeeded"]["status"] == "True"
    assert conditions(done)["Succeeded"]["lastTransitionTime"] == "2026-01-01T13:00:00Z"


def test_a_pass_that_finds_nothing_new_writes_nothing() -> None:
    first = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    assert status_of(findings(attempt_jobs=live(JobState.RUNNING)), first, LATER) == first


@pytest.mark.parametrize(
    ("state", "attempt_jobs", "word"),
    [
        (State.RUNNING, live(JobState.RUNNING), "Running"),
        (State.RUNNING, live(JobState.QUEUED), "Queued"),
        (State.RUNNING, live(JobState.PENDING), "Pending"),
        (State.RUNNING, {}, "Pending"),
        (State.SUSPENDED, {}, "Suspended"),
        (State.SUCCEEDED, {}, "Succeeded"),
        (State.FAILED, {}, "Failed"),
        (State.STALLED, {}, "Stalled"),
    ],
)
def test_one_word_says_where_a_run_stands(
    state: State, attempt_jobs: dict[AttemptKey, AttemptJob], word: str
) -> None:
    assert status_of(findings(state, attempt_jobs=attempt_jobs), None, NOON)["state"] == word


def test_between_two_tasks_a_running_run_stays_running() -> None:
    before = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    assert status_of(findings(), before, LATER)["state"] == "Running"


@pytest.mark.parametrize(
    ("state", "reconciling", "stalled"),
    [
        (State.RUNNING, "True", "False"),
        (State.WAITING, "True", "False"),
        (State.SUSPENDED, "False", "False"),
        (State.SUCCEEDED, "False", "False"),
        (State.FAILED, "False", "True"),
        (State.STALLED, "False", "True"),
    ],
)
def test_tools_that_know_kstatus_can_wait_for_it(state: State, reconciling: str, stalled: str) -> None:
    by_type = conditions(status_of(findings(state), None, NOON))
    assert (by_type["Reconciling"]["status"], by_type["Stalled"]["status"]) == (reconciling, stalled)
    assert all(c["observedGeneration"] == 2 and c["reason"] for c in by_type.values())


def test_what_keeps_a_pod_from_starting_is_told_in_the_clusters_words() -> None:
    problem = Problem("Unschedulable", "0/3 nodes are available")
    by_type = conditions(status_of(findings(attempt_jobs=live(JobState.PENDING, problem)), None, NOON))
    assert by_type["TasksHealthy"] | {"lastTransitionTime": ""} == {
        "type": "TasksHealthy",
        "status": "False",
        "reason": "Unschedulable",
        "message": "job: 0/3 nodes are available",
        "lastTransitionTime": "",
        "observedGeneration": 2,
    }


def end_of(cause: Cause, *, charged: bool, message: str, reason: str | None = None) -> AttemptEnd:
    return AttemptEnd(
        attempt=0,
        cause=cause,
        charged=charged,
        started_at=NOON,
        ended_at=LATER,
        message=message,
        reason=reason,
    )


def test_a_charged_failure_is_told_until_its_task_is_committed() -> None:
    ended = end_of(Cause.OUT_OF_MEMORY, charged=True, message="OOMKilled")
    attempts = {PPO.task: (ObservedAttempt(0, ended=ended), ObservedAttempt(1, running=True))}
    by_type = conditions(status_of(findings(observation=Observation(attempts=attempts)), None, NOON))
    assert by_type["TasksHealthy"]["reason"] == "OutOfMemory"
    assert "attempt 0 of 1/ppo ended: OOMKilled" in by_type["TasksHealthy"]["message"]


def test_storage_that_fails_leaves_what_was_known_and_says_why() -> None:
    before = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    failing = Findings(
        generation=2, run_id="abc", location="s3://b/x", storage=Problem("StoreUnavailable", "no answer")
    )
    after = status_of(failing, before, LATER)
    assert after["state"] == "Running"
    assert after["stage"] == 1
    assert conditions(after)["StorageReady"]["status"] == "False"
    assert conditions(after)["Reconciling"]["reason"] == "StoreUnavailable"


def test_while_pods_still_end_a_run_is_not_yet_suspended() -> None:
    spec = {"suspend": True}
    stopping = findings(State.SUSPENDED, spec=spec, attempt_jobs=live(JobState.STOPPING))
    assert conditions(status_of(stopping, None, NOON))["Suspended"]["reason"] == "Stopping"
    assert (
        conditions(status_of(findings(State.SUSPENDED, spec=spec), None, NOON))["Suspended"]["status"]
        == "True"
    )


def test_a_definition_that_drops_fields_is_told_until_it_does_not() -> None:
    first = status_of(findings(unkept=("status.progress",)), None, NOON)
    condition = conditions(first)["CRDOutdated"]
    assert (condition["status"], condition["reason"]) == ("True", "FieldsDropped")
    assert "does not keep status.progress" in condition["message"]
    restarted = status_of(findings(unkept=None), first, LATER)
    assert conditions(restarted)["CRDOutdated"] == condition
    assert "CRDOutdated" not in conditions(status_of(findings(unkept=()), restarted, LATER))
    assert "CRDOutdated" not in conditions(status_of(findings(unkept=None), None, NOON))


def test_words_that_a_later_release_wrote_into_the_status_are_left_out() -> None:
    before = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    before["state"] = "Hibernating"
    before["tasks"][0]["state"] = "Throttled"
    failing = Findings(
        generation=2, run_id="abc", location="s3://b/x", storage=Problem("StoreUnavailable", "no answer")
    )
    after = status_of(failing, before, LATER)
    assert (after["state"], after["tasks"], after["stage"]) == ("Pending", [], 1)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_a_run_that_has_ended_lists_no_task_although_its_last_pod_is_still_on_its_way_out(
    state: State,
) -> None:
    running = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    assert [task["state"] for task in running["tasks"]] == ["Running"]
    assert status_of(findings(state, attempt_jobs=live(JobState.RUNNING)), running, LATER)["tasks"] == []


def test_a_process_that_has_committed_is_no_task_that_runs() -> None:
    committed = {
        PPO.task: Committed(
            ManifestRef(key="stages/1/ppo/manifest-0.json", sha256="a" * 64), 0, "b" * 64, {}, {}
        )
    }
    observation = Observation(committed=committed)
    assert (
        status_of(findings(attempt_jobs=live(JobState.RUNNING), observation=observation), None, NOON)["tasks"]
        == []
    )


def attempt_that_ended(cause: Cause, reason: str | None) -> Observation:
    ended = end_of(cause, charged=False, message="AccessDenied: no", reason=reason)
    return Observation(attempts={PPO.task: (ObservedAttempt(0, ended=ended),)})


def test_denied_access_is_told_with_the_secret_that_the_keys_come_from() -> None:
    location = StorageLocation(
        name="team", uri="s3://b", credentials="mountedSecret", secret_name="team-keys"
    )
    observation = attempt_that_ended(Cause.NO_ACCESS, "StorageNotAllowed")
    status = status_of(
        findings(State.WAITING, observation=observation, access=access_of(location)), None, NOON
    )
    condition = conditions(status)["TasksHealthy"]
    assert (condition["status"], condition["reason"]) == ("False", "StorageNotAllowed")
    for words in ("AccessDenied: no", "Secret team-keys of this namespace", "storage location team"):
        assert words in condition["message"]
    assert conditions(status)["Reconciling"]["reason"] == "StorageNotAllowed"
    assert (status["state"], conditions(status)["Stalled"]["status"]) == ("Pending", "False")


def test_a_source_of_the_users_own_that_is_denied_is_told_without_the_locations_keys() -> None:
    location = StorageLocation(
        name="team", uri="s3://b", credentials="mountedSecret", secret_name="team-keys"
    )
    observation = attempt_that_ended(Cause.NO_ACCESS, "SourceNotAllowed")
    status = status_of(
        findings(State.WAITING, observation=observation, access=access_of(location)), None, NOON
    )
    condition = conditions(status)["TasksHealthy"]
    assert (condition["status"], condition["reason"]) == ("False", "SourceNotAllowed")
    assert condition["message"].endswith("ended: AccessDenied: no")


def test_what_kept_a_task_from_running_is_told_no_more_once_it_runs() -> None:
    ended = attempt_that_ended(Cause.NO_ACCESS, "StorageNotAllowed").attempts[PPO.task]
    observation = Observation(attempts={PPO.task: (*ended, ObservedAttempt(1, running=True))})
    again = AttemptKey(PPO.task, 1)
    for state, healthy in ((JobState.PENDING, "False"), (JobState.RUNNING, "True")):
        attempt_jobs = {again: AttemptJob(again, "job", state)}
        status = status_of(findings(observation=observation, attempt_jobs=attempt_jobs), None, NOON)
        assert conditions(status)["TasksHealthy"]["status"] == healthy


def test_an_end_is_told_by_the_word_that_its_pod_left_and_else_by_its_cause() -> None:
    for reason, word in (("Evicted", "Evicted"), (None, "NotStarted")):
        ended = findings(observation=attempt_that_ended(Cause.NOT_STARTED, reason))
        assert conditions(status_of(ended, None, NOON))["TasksHealthy"]["reason"] == word


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.RUNNING, "Progressing"),
        (State.WAITING, "Progressing"),
        (State.SUSPENDED, "Suspended"),
        (State.SUCCEEDED, "Succeeded"),
    ],
)
def test_where_nobody_need_act_the_reasons_say_what_is_so(state: State, reason: str) -> None:
    by_type = conditions(status_of(findings(state), None, NOON))
    assert (by_type["Stalled"]["status"], by_type["Stalled"]["reason"]) == ("False", reason)
    assert (by_type["TasksHealthy"]["status"], by_type["TasksHealthy"]["reason"]) == ("True", "AsExpected")
    assert (by_type["StorageReady"]["status"], by_type["StorageReady"]["reason"]) == ("True", "Available")


def test_a_status_of_an_earlier_release_is_read_and_its_words_replaced() -> None:
    before = status_of(findings(attempt_jobs=live(JobState.RUNNING)), None, NOON)
    for condition, word in (
        ("Stalled", "GettingOn"),
        ("TasksHealthy", "NoTrouble"),
        ("StorageReady", "Reached"),
    ):
        conditions(before)[condition]["reason"] = word
    after = conditions(status_of(findings(State.SUCCEEDED), before, LATER))
    assert [after[c]["reason"] for c in ("Stalled", "TasksHealthy", "StorageReady")] == [
        "Succeeded",
        "AsExpected",
        "Available",
    ]
    assert after["TasksHealthy"]["lastTransitionTime"] == "2026-01-01T12:00:00Z"

from __future__ import annotations

from typing import Any

import pytest

from gapo.decision_rules.attempts import Exit
from gapo.planning.observation import AttemptKey
from gapo.tasks import Kind, TaskKey
from gapo_operator.kube.job_states import AttemptJob, JobState, attempt_jobs_of, is_unfinished_job_of

UID, RUN = "run-uid", "abc123abc123"
PPO = AttemptKey(TaskKey(1, Kind.PPO), 0)
LABELS = {
    "gapo.dev/run": "run",
    "gapo.dev/run-id": RUN,
    "gapo.dev/stage": "1",
    "gapo.dev/kind": "ppo",
    "gapo.dev/attempt": "0",
}


def owned(by: str, kind: str) -> list[dict[str, Any]]:
    return [{"uid": by, "kind": kind, "controller": True}]


def job(
    status: dict[str, Any] | None = None, *, by: str = UID, suspend: bool = False, **metadata: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "job",
            "uid": "job-uid",
            "labels": LABELS,
            "ownerReferences": owned(by, "GapoRun"),
            **metadata,
        },
        "spec": {"suspend": suspend},
        "status": {"startTime": "2026-01-01T00:00:00Z", **(status or {})},
    }


def pod(status: dict[str, Any] | None = None, *, by: str = "job-uid", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "pod", "labels": LABELS, "ownerReferences": owned(by, "Job"), **metadata},
        "status": {"phase": "Running", **(status or {})},
    }


def ended(kind: str) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z", "message": "m"}
        ]
    }


def terminated(**state: Any) -> dict[str, Any]:
    return {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": {"terminated": state}}]}


def only(jobs: list[Any], pods: list[Any], **more: Any) -> AttemptJob:
    attempt_jobs = attempt_jobs_of(UID, RUN, jobs, pods, more.pop("warnings", {}), **more)
    assert list(attempt_jobs) == [PPO]
    return attempt_jobs[PPO]


GROUPED = {"annotations": {"scheduling.k8s.io/group-name": "job"}}
PLACED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "queue is full"}


@pytest.mark.parametrize(
    ("jobs", "pods", "state"),
    [
        ([job(suspend=True)], [], JobState.QUEUED),
        ([job()], [pod({"phase": "Pending"}, **GROUPED)], JobState.QUEUED),
        ([job()], [pod({"phase": "Pending", "conditions": [UNPLACED]}, **GROUPED)], JobState.QUEUED),
        ([job()], [pod({"phase": "Pending", "conditions": [PLACED]}, **GROUPED)], JobState.PENDING),
        ([job()], [], JobState.PENDING),
        ([job()], [pod({"phase": "Pending"})], JobState.PENDING),
        ([job()], [pod()], JobState.RUNNING),
        ([job()], [pod({"phase": "Failed"})], JobState.RUNNING),
        ([job(ended("Complete"))], [pod({"phase": "Succeeded"})], JobState.SUCCEEDED),
        ([job(ended("Failed"))], [], JobState.FAILED),
        ([job(deletionTimestamp="2026-01-01T00:00:30Z")], [pod()], JobState.STOPPING),
        ([], [pod()], JobState.STOPPING),
        ([job(by="an earlier GapoRun of that name")], [], JobState.STOPPING),
    ],
)
def test_an_attempts_state_is_read_from_its_job_and_pods(
    jobs: list[Any], pods: list[Any], state: JobState
) -> None:
    assert only(jobs, pods).state is state


def test_what_belongs_to_another_run_or_to_nobody_is_none_of_its_attempts() -> None:
    other = {**LABELS, "gapo.dev/run-id": "another"}
    strange = {**LABELS, "gapo.dev/kind": "of-a-later-release"}
    jobs = [job(labels=other), job(labels=strange), job(labels={}), {"metadata": {"name": "bare"}}]
    pods = [
        pod(labels=other, by="x"),
        pod(labels=strange, by="x"),
        pod({"phase": "Succeeded"}, by="gone"),
        {},
    ]
    assert attempt_jobs_of(UID, RUN, jobs, pods, {}) == {}


@pytest.mark.parametrize(
    ("state", "exit_"),
    [
        (
            {"exitCode": 65, "message": '{"reason": "InvalidData", "message": "line 3"}'},
            Exit(65, "InvalidData"),
        ),
        ({"exitCode": 137, "reason": "OOMKilled"}, Exit(137, oom_killed=True)),
        ({"exitCode": 1, "message": "no JSON"}, Exit(1)),
        ({"exitCode": 1, "message": '["a", "list"]'}, Exit(1)),
        ({}, Exit(143)),
        (
            {"exitCode": 66, "message": '{"reason": "InputCorrupt", "badInput": "../../x"}'},
            Exit(66, "InputCorrupt"),
        ),
        ({"exitCode": 1, "message": '{"reason": ""}'}, Exit(1)),
        ({"exitCode": 1, "message": '{"reason": "%s"}' % ("x" * 200)}, Exit(1)),
    ],
)
def test_how_it_failed_is_read_from_the_container(state: dict[str, Any], exit_: Exit) -> None:
    assert only([job(ended("Failed"))], [pod(terminated(**state))]).exit == exit_


def test_a_pod_that_was_taken_away_is_preempted_whatever_its_exit_code() -> None:
    status = terminated(exitCode=137)
    status["conditions"] = [
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "drained",
        }
    ]
    attempt_job = only([job(ended("Failed"))], [pod(status)])
    assert attempt_job.exit == Exit(143)
    assert "EvictionByEvictionAPI: drained" in str(attempt_job.message)


def test_the_newest_of_several_pods_counts() -> None:
    old = pod(terminated(exitCode=143), name="a", creationTimestamp="2026-01-01T00:00:00Z")
    new = pod(terminated(exitCode=65), name="b", creationTimestamp="2026-01-01T00:00:10Z")
    assert only([job(ended("Failed"))], [new, old]).exit == Exit(65)


def test_a_pod_on_a_node_that_does_not_answer_counts_as_taken_away() -> None:
    leaving = pod(name="lost", deletionTimestamp="2026-01-01T00:00:00Z")
    assert only([job()], [leaving]).state is JobState.RUNNING
    attempt_job = only([job()], [leaving], lost={"lost"})
    assert (attempt_job.state, attempt_job.exit) == (JobState.FAILED, Exit(143))
    assert "NodeLost" in str(attempt_job.message)
    assert attempt_jobs_of(UID, RUN, [], [leaving], {}, {"lost"}) == {}


def test_time_in_which_a_pod_waits_for_room_is_not_time_in_which_it_runs() -> None:
    scheduled = {
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}
        ]
    }
    started = only([job()], [pod(scheduled)]).started_at
    assert started is not None
    assert started.isoformat() == "2026-01-01T00:05:00+00:00"


def test_a_refusal_to_create_the_pod_is_the_attempts_problem() -> None:
    problem = only([job()], [], warnings={"job": "pods is forbidden: exceeded quota: gpus"}).problem
    assert problem is not None
    assert (problem.reason, "gpus" in problem.message) == ("QuotaExceeded", True)


def test_what_a_pod_says_of_itself_is_taken_where_it_can_be_stored() -> None:
    good = (
        '{"reason": "InputCorrupt", "message": "m", "badInput": "stages/0/data/manifest-0.json", "more": 1}'
    )
    assert only([job(ended("Failed"))], [pod(terminated(exitCode=66, message=good))]).termination_message == {
        "reason": "InputCorrupt",
        "message": "m",
        "badInput": "stages/0/data/manifest-0.json",
    }
    bad = '{"reason": "not a word", "message": "m", "badInput": "../../x"}'
    assert only([job(ended("Failed"))], [pod(terminated(exitCode=66, message=bad))]).termination_message == {
        "message": "m"
    }


@pytest.mark.parametrize(
    "pods", [[], [pod()]], ids=["no pod yet", "a pod that still runs, as far as is known"]
)
def test_a_failure_is_not_clear_before_its_pod_has_told(pods: list[Any]) -> None:
    attempt_job = only([job(ended("Failed"))], pods)
    assert (attempt_job.state, attempt_job.exit) == (JobState.FAILED, None)


def test_an_orphan_of_our_name_is_told_and_not_touched() -> None:
    orphan = job(by="nobody")
    orphan["metadata"]["ownerReferences"] = []
    attempt_job = only([orphan], [])
    assert (attempt_job.state, attempt_job.uid) == (JobState.STOPPING, None)
    assert attempt_job.problem is not None
    assert (attempt_job.problem.reason, "kubectl delete job job" in attempt_job.problem.message) == (
        "JobConflict",
        True,
    )


def test_a_pod_that_no_job_made_holds_up_nothing() -> None:
    forged = pod()
    forged["metadata"]["ownerReferences"] = []
    assert attempt_jobs_of(UID, RUN, [], [forged], {}) == {}


@pytest.mark.parametrize(
    ("body", "unfinished"),
    [
        (job(), True),
        (job(suspend=True), True),
        (job(ended("Complete")), False),
        (job(ended("Failed")), False),
        (job(deletionTimestamp="2026-01-01T00:00:30Z"), False),
        (job(by="another"), False),
    ],
)
def test_which_jobs_a_suspended_run_has_to_delete(body: dict[str, Any], unfinished: bool) -> None:
    assert is_unfinished_job_of(UID, body) is unfinished

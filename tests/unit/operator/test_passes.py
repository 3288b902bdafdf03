"""What a pass over a run makes of what happens in the cluster while it is under way."""

from __future__ import annotations

import pytest
from tests.unit.operator.passes import KEY, Desk
from tests.unit.operator.played import loaded

from gapo_operator.kube.client import KubeError


def test_a_manifest_that_changes_while_the_status_is_written_is_looked_at_again() -> None:
    desk = Desk()
    desk.server.before_status = lambda: desk.server.change(suspend=True)
    desk.look()
    assert desk.hear() == []  # the watch's event brings what the write's answer has brought already
    assert KEY in desk.woken


def test_a_run_that_is_deleted_while_its_status_is_written_is_looked_at_again() -> None:
    desk = Desk()
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    desk.server.before_status = lambda: desk.server.run["metadata"].update(deleted)
    desk.look()
    assert KEY in desk.woken


@pytest.mark.parametrize("passes", [1, 3])
def test_a_status_that_is_written_and_nothing_else_wakes_nobody(passes: int) -> None:
    desk = Desk()
    for _ in range(passes):
        desk.look()
    assert desk.server.status_writes > 0
    assert desk.woken == []


WITHOUT_EFFECT = {"rollout": {"engine": "vllm", "replicas": 4}}
"""Taken by an earlier release, to which it made no difference."""


def test_a_run_that_an_earlier_release_began_with_fields_without_effect_goes_on() -> None:
    desk = Desk()
    desk.server.run["spec"] |= WITHOUT_EFFECT
    desk.server.run["status"] = {"runID": loaded().run_id, "state": "Running", "observedGeneration": 1}
    desk.restart()
    desk.look()
    assert [name.split("-")[-2] for name in desk.server.jobs] == ["data"]
    assert desk.condition("Stalled")["status"] == "False"


def test_a_run_that_has_not_begun_is_refused_fields_without_effect() -> None:
    desk = Desk()
    desk.server.run["spec"] |= WITHOUT_EFFECT
    desk.restart()
    desk.look()
    assert desk.server.jobs == {}
    assert "engine vllm runs on one machine alone" in desk.condition("Stalled")["message"]


def test_a_job_that_a_stranger_has_made_is_told_of_and_no_task_is_said_to_have_started() -> None:
    desk = Desk()
    desk.look()
    ((name, ours),) = desk.server.jobs.items()
    stranger = {"metadata": {"name": name, "namespace": "red", "uid": "another", "resourceVersion": "1"}}
    desk.server.jobs[name] = stranger
    desk.server.events.clear()
    desk.restart()
    assert desk.look() == 2
    assert desk.condition("TasksHealthy")["status"] == "True"  # it may be on its way out
    desk.seconds = 61.0
    assert (desk.look() or 0) >= 4  # and rarer from time to time
    condition = desk.condition("TasksHealthy")
    assert (condition["reason"], f"kubectl delete job {name}" in condition["message"]) == (
        "JobConflict",
        True,
    )
    assert "TaskStarted" not in desk.server.events
    del desk.server.jobs[name]
    desk.look()
    assert desk.server.jobs[name]["metadata"]["uid"] == ours["metadata"]["uid"]
    assert desk.condition("TasksHealthy")["status"] == "True"
    assert "TaskStarted" in desk.server.events


def test_a_quota_that_two_count_at_once_is_no_job_that_is_there() -> None:
    desk = Desk()
    text = "Operation cannot be fulfilled on resourcequotas: the object has been modified"
    desk.server.refusals["POST jobs"] = KubeError(409, text, "Conflict")
    assert desk.look() == 5
    assert desk.condition("TasksHealthy")["reason"] == "ApiUnavailable"
    assert "TaskStarted" not in desk.server.events

"""Tasks that fail, pods that do not start, storage that does not answer: what is told, recorded and charged."""

from __future__ import annotations

import json

import pytest
from tests.cluster.operator.room import Room

pytestmark = pytest.mark.cluster


def test_a_failed_task_is_tried_again_and_its_failure_charged(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "exit:1"}
    room.apply(stages={"max": 0})
    room.wait(lambda: room.condition("TasksHealthy").get("status") == "False", "the failure is told")
    assert room.condition("TasksHealthy")["reason"] == "Failed"
    room.wait_for_state("Succeeded")
    ended = json.loads(room.objects().get("stages/0/data/0/ended.json") or b"{}")
    assert (ended["cause"], ended["charged"], ended["exitCode"]) == ("failed", True, 1)


def test_a_permanent_failure_ends_the_run_with_the_tasks_own_words(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "exit:65"}
    room.apply()
    room.wait_for_state("Failed")
    assert "rows.jsonl line 3: label is missing" in room.condition("Succeeded")["message"]
    assert room.condition("Stalled")["status"] == "True"
    assert room.pods.started == ["0/data/0"]


@pytest.mark.parametrize(
    ("how", "cause", "charged"), [("oom", "outOfMemory", True), ("disrupted", "preempted", True)]
)
def test_the_cause_of_an_end_is_read_from_the_pod(room: Room, how: str, cause: str, charged: bool) -> None:
    room.pods.misbehave = {"0/data/0": how}
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    ended = json.loads(room.objects().get("stages/0/data/0/ended.json") or b"{}")
    assert (ended["cause"], ended["charged"]) == (cause, charged)


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ("pending:ImagePullBackOff", "ImagePullFailed", "Back-off pulling image"),
        ("unschedulable", "Unschedulable", "Insufficient nvidia.com/gpu"),
        ("refused:pods is forbidden: exceeded quota: gpus", "QuotaExceeded", "exceeded quota: gpus"),
    ],
)
def test_what_keeps_a_pod_from_starting_is_in_the_conditions(
    room: Room, how: str, reason: str, words: str
) -> None:
    room.pods.misbehave = {"0/data/0": how}
    room.apply()
    room.wait(lambda: room.condition("TasksHealthy").get("reason") == reason, f"the condition says {reason}")
    assert words in room.condition("TasksHealthy")["message"]
    assert room.condition("Reconciling")["reason"] == reason
    assert room.status()["state"] == "Pending"


def test_a_commit_counts_before_its_job_has_ended(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "commit-then-hang"}
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    assert room.pods.started.count("0/sft/0") == 1


REFUSED = b"<Error><Code>AccessDenied</Code><Message>no right to this bucket</Message></Error>"


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        ((503, b""), "StoreUnavailable", ""),
        ((403, REFUSED), "StorageNotAllowed", "permission denied"),
    ],
)
def test_storage_that_fails_is_told_and_the_run_goes_on_once_it_does_not(
    room: Room, answer: tuple[int, bytes], reason: str, words: str
) -> None:
    room.pods.misbehave = {"0/data/0": "hang"}  # of a run whose pods wait for room, storage is asked nothing
    room.apply(stages={"max": 0})
    room.wait(lambda: room.status().get("state") == "Running", "it runs")
    room.proxy.instead = lambda method, path: answer
    room.kubectl("annotate", "gaporun", "run", "look=again")
    room.wait(lambda: room.condition("StorageReady").get("status") == "False", "it is told")
    assert room.condition("StorageReady")["reason"] == reason
    assert words in room.condition("StorageReady")["message"]
    assert room.status()["state"] == "Running"
    room.proxy.instead = lambda method, path: None
    (job,) = room.jobs()
    room.pods.finish(room.namespace, job.partition("/")[2])
    room.wait_for_state("Succeeded")
    assert room.condition("StorageReady")["status"] == "True"

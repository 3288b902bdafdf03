"""A run's way from `kubectl apply` to its end: the operator's real process on a real API server and a real S3 protocol,
its pods played in milliseconds."""

from __future__ import annotations

import json
import shlex
import time

import pytest
from tests.cluster.conftest import ROOT
from tests.cluster.operator.room import Room
from tests.unit.docs.pages import blocks

pytestmark = pytest.mark.cluster


STAGE_0 = ["0/data/0", "0/sft/0", "0/rm-warmup/0", "0/evaluate/0"]


def test_a_run_goes_from_kubectl_apply_to_its_export(room: Room) -> None:
    room.apply()
    room.wait_for_state("Succeeded")
    assert sorted(room.pods.started) == sorted(
        [*STAGE_0, "1/ppo/0", "1/evaluate/0", "1/rm/0", "2/ppo/0", "2/evaluate/0", "2/export/0"]
    )
    status = room.status()
    assert room.condition("Succeeded")["status"] == "True"
    assert status["satisfaction"] == 0.46
    assert status["pairAccuracy"] == 0.9
    assert [stage["stage"] for stage in status["stages"]] == [0, 1, 2]
    assert "all 2 stages are done" in room.condition("Succeeded")["message"]
    room.kubectl("wait", "--for=condition=Succeeded", "gaporun/run", "--timeout=1s")


def test_events_tell_the_story_once(room: Room) -> None:
    room.apply(stages={"max": 1})
    room.wait_for_state("Succeeded")
    room.wait(lambda: any(reason == "Succeeded" for reason, _ in room.events()), "the last event is there")
    events = room.events()
    assert len(events) == len(set(events))
    assert [reason for reason, _ in events].count("TaskStarted") == len(STAGE_0) + 3
    assert ("StageDecided" in {reason for reason, _ in events}) is True


def test_a_suspended_run_has_no_job_and_goes_on_where_it_was(room: Room) -> None:
    room.pods.misbehave["1/ppo/0"] = "hang"
    room.apply()
    room.wait(lambda: "1/ppo/0" in room.pods.started, "stage 1 has begun")
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    room.wait_for_state("Suspended")
    room.wait(lambda: room.condition("Suspended").get("status") == "True", "nothing runs")
    assert not [job for job in room.jobs() if "-1-ppo-" in job]
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    room.wait_for_state("Succeeded")
    assert room.pods.started.count("1/ppo/0") == 1
    assert room.pods.started.count("1/ppo/1") == 1
    ended = json.loads(room.objects().get("stages/1/ppo/0/ended.json") or b"{}")
    assert (ended["cause"], ended["charged"]) == ("stopped", False)


def test_an_invalid_combination_is_refused_in_the_conditions(room: Room) -> None:
    room.apply(storage={"location": "elsewhere"})
    room.wait_for_state("Stalled")
    assert "elsewhere" in room.condition("Stalled")["message"]
    assert not room.jobs()


def test_what_a_cluster_does_not_allow_stalls_the_run_until_it_is_taken_out(room: Room) -> None:
    room.apply(stages={"max": 0}, roles={"data": {"pod": {"serviceAccountName": "powerful"}}})
    room.wait_for_state("Stalled")
    assert "powerful" in room.condition("Stalled")["message"]
    assert not room.jobs()
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")


def test_no_object_has_a_finalizer_or_an_annotation_of_the_framework(room: Room) -> None:
    room.apply()
    room.wait_for_state("Succeeded")
    items = json.loads(room.kubectl("get", "gaporuns,jobs,pods", "-o", "json"))["items"]
    assert items
    for item in items:
        assert not item["metadata"].get("finalizers"), item["metadata"]["name"]
        assert not [a for a in item["metadata"].get("annotations", {}) if "kopf" in a]


def test_a_run_is_gone_at_once_while_no_operator_is_there(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "hang"}
    room.apply()
    room.wait(lambda: bool(room.jobs()), "it has begun")
    assert room.operator.stop() == 0
    began = time.monotonic()
    room.kubectl("delete", "gaporun", "run", "--wait=true", "--timeout=30s")
    assert time.monotonic() - began < 30


def test_a_finished_run_is_deleted_when_its_time_is_over_and_its_checkpoints_stay(room: Room) -> None:
    room.apply(stages={"max": 0}, scheduling={"ttlSecondsAfterFinished": 2})
    room.wait(lambda: "0/export/0" in room.pods.committed, "it is done")
    room.wait(
        lambda: "NotFound" in room.cluster.run("get", "gaporun", "run", "-n", room.namespace).stderr,
        "it is gone",
    )
    assert list(room.s3.folder.glob(f"{room.namespace}/run/*/stages/0/export/manifest-0.json"))


def test_a_run_that_another_controller_manages_is_left_alone(room: Room) -> None:
    room.apply("theirs", scheduling={"managedBy": "kueue.x-k8s.io/multikueue"})
    room.apply("ours", scheduling={"managedBy": "gapo.dev/operator"}, stages={"max": 0})
    room.wait_for_state("Succeeded", "ours")
    assert room.status("theirs") == {}


def test_queued_jobs_are_told_and_nobody_but_the_queue_lets_them_go(room: Room) -> None:
    room.apply(stages={"max": 0}, scheduling={"queueName": "gpus"})
    room.wait_for_state("Queued")
    (job,) = room.jobs()
    body = json.loads(room.kubectl("get", job, "-o", "json"))
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert body["spec"]["suspend"] is True
    assert room.pods.started == []
    while room.status()["state"] != "Succeeded":
        for name in room.jobs():
            room.kubectl("patch", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')


def test_a_finished_run_costs_no_request_once_its_figures_are_read(room: Room) -> None:
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    room.wait(lambda: room.objects().exists("stages/0/export/0/ended.json"), "its last end is recorded")
    room.operator.kill()
    room.operator.start()
    room.operator.wait_until_ready()
    room.apply("next", stages={"max": 0})
    room.wait_for_state("Succeeded", "next")
    unread = "\ngapo_runs_unread 0.0\n"
    room.wait(
        lambda: unread in room.operator.get("/metrics", port=room.operator.metrics_port)[1],
        "all runs are read",
    )
    before = len([path for _, path in room.proxy.seen if "/run/" in path])
    room.kubectl("annotate", "gaporun", "run", "look=again")
    room.kubectl("annotate", "gaporun", "next", "look=again")
    room.apply("last", stages={"max": 0})
    room.wait_for_state("Succeeded", "last")
    assert len([path for _, path in room.proxy.seen if "/run/" in path]) == before


def test_the_commands_of_the_page_on_runs(room: Room) -> None:
    """As they stand there, in the room's namespace."""
    page = ROOT / "docs" / "cluster-runs.md"
    lines = [line for block in blocks("sh") if block.page == page for line in block.text.splitlines()]
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "kubectl"
        room.kubectl(*arguments)
    assert room.status("quickstart")["state"] == "Succeeded"

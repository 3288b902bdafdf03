"""The operator's real process on a real API server and a real S3 protocol, its pods played in milliseconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import InstantPods, instant_pods
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.s3 import REGION, S3Server

from gapo.store.objects import Objects

pytestmark = pytest.mark.cluster


@dataclass
class Room:
    """A namespace of its own, with what a test of the operator needs in it."""

    cluster: ControlPlane
    namespace: str
    s3: S3Server
    pods: InstantPods
    operator: OperatorProcess

    def apply(self, name: str = "run", **spec: Any) -> None:
        self.cluster.said("apply", "-f", "-", stdin=json.dumps(self.manifest(name, **spec)))

    def manifest(self, name: str = "run", **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "data": {"generate": {"grammar": "micro", "size": 100}},
                "generator": {"fromScratch": {}},
                "rewardModel": {"fromScratch": {"arch": "encoder"}},
                "stages": {"max": 2},
                "storage": {"location": "local"},
                **spec,
            },
        }

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.said("-n", self.namespace, *arguments)

    def get(self, name: str = "run") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "gaporun", name, "-o", "json"))
        return found

    def status(self, name: str = "run") -> dict[str, Any]:
        found: dict[str, Any] = self.get(name).get("status", {})
        return found

    def condition(self, kind: str, name: str = "run") -> dict[str, Any]:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def jobs(self) -> list[str]:
        return self.kubectl("get", "jobs", "-o", "name").split()

    def events(self) -> list[tuple[str, str]]:
        found = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        return [(e["reason"], e["message"]) for e in found if e["involvedObject"].get("kind") == "GapoRun"]

    def objects(self, name: str = "run") -> Objects:
        status = self.status(name)
        return self.s3.objects(self.s3.operator, status["location"].removeprefix(f"{self.s3.uri}/"))

    def wait(self, holds: Any, what: str) -> None:
        self.operator.wait_until(holds, what)

    def wait_for_state(self, state: str, name: str = "run") -> None:
        self.wait(lambda: self.status(name).get("state") == state, f"{name} is {state}")


@pytest.fixture
def room(
    cluster: ControlPlane,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Room]:
    for name, value in s3.operator.environment().items():
        monkeypatch.setenv(name, value)
    namespace = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    cluster.said("create", "namespace", namespace)
    config = tmp_path / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))
    with (
        instant_pods(cluster.kubeconfig, namespace) as pods,
        operator(tmp_path, cluster.kubeconfig, config, "--namespace", namespace) as process,
    ):
        process.wait_until_ready()
        yield Room(cluster, namespace, s3, pods, process)
    cluster.run("delete", "namespace", namespace, "--wait=false")


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
    told = room.events()
    assert len(told) == len(set(told))
    assert [reason for reason, _ in told].count("TaskStarted") == len(STAGE_0) + 3
    assert ("StageDecided" in {reason for reason, _ in told}) is True


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


def test_a_killed_operator_goes_on_and_starts_nothing_twice(room: Room) -> None:
    room.apply(stages={"max": 3})
    for count in (2, 5, 8):
        room.wait(lambda: len(room.pods.started) >= count, f"{count} tasks have started")  # noqa: B023
        room.operator.kill()
        room.operator.start()
    room.wait_for_state("Succeeded")
    assert len(room.pods.started) == len(set(room.pods.started))
    assert all(name.endswith("/0") for name in room.pods.started)
    assert not room.pods.fenced


def test_the_same_manifest_after_a_lost_cluster_goes_on_and_trains_nothing_twice(room: Room) -> None:
    room.pods.misbehave["1/evaluate/0"] = "hang"
    room.apply()
    room.wait(lambda: "1/evaluate/0" in room.pods.started, "stage 1 is half done")
    first = room.status()["runID"]
    room.operator.kill()
    room.kubectl("delete", "gaporun", "run")
    for job in room.jobs():
        room.kubectl("delete", job)
    room.operator.start()
    room.pods.misbehave.clear()
    done = list(room.pods.committed)
    room.apply()
    room.wait_for_state("Succeeded")
    assert room.status()["runID"] == first
    assert not set(done) & set(room.pods.committed[len(done) :])
    assert "AdoptedExistingRun" in {reason for reason, _ in room.events()}


def test_an_invalid_combination_is_refused_in_the_conditions(room: Room) -> None:
    room.apply(storage={"location": "elsewhere"})
    room.wait_for_state("Stalled")
    assert "elsewhere" in room.condition("Stalled")["message"]
    assert not room.jobs()


def test_no_object_has_a_finalizer_or_an_annotation_of_the_framework(room: Room) -> None:
    room.apply()
    room.wait_for_state("Succeeded")
    found = json.loads(room.kubectl("get", "gaporuns,jobs,pods", "-o", "json"))["items"]
    assert found
    for item in found:
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

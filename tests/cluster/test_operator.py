"""The operator's real process on a real API server and a real S3 protocol, its pods played in milliseconds."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.conftest import _install_crd as install_crd
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.instant_pods import InstantPods, instant_pods
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.s3 import REGION, S3Server
from tests.unit.docs.pages import ROOT, blocks
from tests.unit.store.s3_servers import FaultProxy, fault_proxy

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
    config: Path
    proxy: FaultProxy

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
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def room(
    cluster: ControlPlane,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
) -> Iterator[Room]:
    for name, value in s3.operator.environment().items():
        monkeypatch.setenv(name, value)
    namespace = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    cluster.said("create", "namespace", namespace)
    config = tmp_path / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": proxy.url, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))
    with (
        instant_pods(cluster.kubeconfig, namespace) as pods,
        operator(tmp_path, cluster.kubeconfig, config, "--namespace", namespace) as process,
    ):
        process.wait_until_ready()
        yield Room(cluster, namespace, s3, pods, process, config, proxy)
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


def test_an_operator_that_is_killed_ten_times_leaves_what_an_undisturbed_one_does(room: Room) -> None:
    room.apply("left-alone", stages={"max": 3})
    room.wait_for_state("Succeeded", "left-alone")
    undisturbed = list(room.pods.started)
    room.pods.started.clear()
    room.apply("killed", stages={"max": 3})
    tasks = len(undisturbed)
    for kill in range(10):
        wanted = 1 + kill * (tasks - 1) // 10
        room.wait(lambda: len(room.pods.started) >= wanted, f"{wanted} tasks have started")  # noqa: B023
        room.operator.kill()
        room.operator.start()
    room.wait_for_state("Succeeded", "killed")
    assert sorted(room.pods.started) == sorted(undisturbed)
    assert not room.pods.fenced
    assert outcome_of(room, "killed") == outcome_of(room, "left-alone")


def outcome_of(room: Room, name: str) -> dict[str, Any]:
    """Status and story of a run's storage, without what tells one run from another by design."""
    root = room.s3.folder / room.status(name)["location"].removeprefix(f"{room.s3.uri}/")
    manifests = {
        str(path.relative_to(root)): {
            k: v for k, v in json.loads(path.read_text()).items() if k in ("metrics", "attempt")
        }
        for path in sorted(root.glob("stages/*/*/manifest-*.json"))
    }
    decisions = {path.name: json.loads(path.read_text()) for path in sorted(root.glob("decisions/*.json"))}
    ends = {
        str(path.relative_to(root)): json.loads(path.read_text())["cause"]
        for path in sorted(root.glob("stages/*/*/*/ended.json"))
    }
    status = room.status(name)
    kept = {k: status[k] for k in ("state", "stage", "bestStage", "satisfaction", "progress")}
    return {"manifests": manifests, "decisions": decisions, "ends": ends, "status": kept}


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


def test_when_etcd_has_lost_everything_the_same_manifest_goes_on_while_old_pods_still_run(
    room: Room, tmp_path: Path, s3: S3Server
) -> None:
    """Another cluster with an empty etcd stands for the one that lost its data; the pods of the first go on."""
    room.pods.misbehave["1/evaluate/0"] = "hang"
    room.apply()
    room.wait(lambda: "1/evaluate/0" in room.pods.started, "stage 1 is half done")
    room.operator.kill()
    (hanging,) = [job.removeprefix("job.batch/") for job in room.jobs() if job.endswith("-1-evaluate-0")]
    done = list(room.pods.committed)
    with control_plane(tmp_path) as restored:
        install_crd(restored)
        restored.said("create", "namespace", room.namespace)
        arguments = ("--namespace", room.namespace)
        with (
            instant_pods(restored.kubeconfig, room.namespace) as pods,
            operator(tmp_path, restored.kubeconfig, room.config, *arguments) as process,
        ):
            process.wait_until_ready()
            pods.misbehave["1/evaluate/0"] = "hang"
            after = Room(restored, room.namespace, s3, pods, process, room.config, room.proxy)
            after.apply()
            after.wait(lambda: "1/evaluate/0" in pods.started, "it goes on where the first one was")
            room.pods.finish(room.namespace, hanging)
            pods.finish(room.namespace, hanging)
            after.wait_for_state("Succeeded")
            assert room.pods.fenced == ["1/evaluate/0"]
            assert not set(done) & set(pods.started)
            assert "AdoptedExistingRun" in {reason for reason, _ in after.events()}


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


def test_what_a_cluster_does_not_allow_stalls_the_run_until_it_is_taken_out(room: Room) -> None:
    room.apply(stages={"max": 0}, roles={"data": {"pod": {"serviceAccountName": "powerful"}}})
    room.wait_for_state("Stalled")
    assert "powerful" in room.condition("Stalled")["message"]
    assert not room.jobs()
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")


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
    room.pods.paused.set()
    room.apply(stages={"max": 0})
    room.wait(lambda: bool(room.jobs()), "it has begun")
    room.proxy.instead = lambda method, path: answer
    room.kubectl("annotate", "gaporun", "run", "look=again")
    room.wait(lambda: room.condition("StorageReady").get("status") == "False", "it is told")
    assert room.condition("StorageReady")["reason"] == reason
    assert words in room.condition("StorageReady")["message"]
    assert room.status()["state"] == "Pending"
    room.proxy.instead = lambda method, path: None
    room.pods.paused.clear()
    room.wait_for_state("Succeeded")
    assert room.condition("StorageReady")["status"] == "True"


def test_a_finished_run_costs_no_request(room: Room) -> None:
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    room.wait(lambda: room.objects().exists("stages/0/export/0/ended.json"), "its last end is recorded")
    room.operator.kill()
    room.operator.start()
    room.operator.wait_until_ready()
    room.apply("next", stages={"max": 0})
    room.wait_for_state("Succeeded", "next")
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


@pytest.fixture
def two(room: Room, tmp_path: Path) -> Iterator[tuple[OperatorProcess, OperatorProcess]]:
    """Two operators of the room's namespace, one of which leads; the room's own is not there."""
    room.operator.kill()
    flags = ("--namespace", room.namespace, "--lease-namespace", room.namespace)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    kubeconfig, config = room.cluster.kubeconfig, room.config
    with operator(tmp_path / "first", kubeconfig, config, *flags, environment={"POD_NAME": "first"}) as first:
        first.wait_until(lambda: leads(room) == "first", "the first leads")
        with operator(
            tmp_path / "second", kubeconfig, config, *flags, environment={"POD_NAME": "second"}
        ) as second:
            second.wait_until_ready()
            yield first, second


def leads(room: Room) -> str:
    holder = ["get", "lease", "gapo-operator", "-n", room.namespace, "-o", "jsonpath={.spec.holderIdentity}"]
    return room.cluster.run(*holder).stdout


def test_one_that_is_stopped_gives_the_lease_back_and_the_other_goes_on_at_once(
    room: Room, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, room.operator = two
    assert first.stop() == 0
    assert leads(room) in ("", "second")
    room.wait(lambda: leads(room) == "second", "the second leads")
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")


def test_a_leader_that_was_frozen_past_its_lease_ends_and_nothing_is_done_twice(
    room: Room, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, room.operator = two
    room.pods.misbehave["0/sft/0"] = "hang"
    room.apply(stages={"max": 1})
    room.wait(lambda: "0/sft/0" in room.pods.started, "it has begun")
    assert first.popen is not None
    first.popen.send_signal(signal.SIGSTOP)
    room.wait(lambda: leads(room) == "second", "the second leads")
    (hanging,) = [job.removeprefix("job.batch/") for job in room.jobs() if "-0-sft-" in job]
    room.pods.finish(room.namespace, hanging)
    room.wait_for_state("Succeeded")
    first.popen.send_signal(signal.SIGCONT)
    assert first.popen.wait(30) == 1
    assert room.status()["state"] == "Succeeded"
    assert len(room.pods.started) == len(set(room.pods.started))
    assert not room.pods.fenced

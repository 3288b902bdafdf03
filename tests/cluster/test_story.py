"""The whole product once, as a user sees it: Helm installs the operator, kubectl applies the quickstart, real trainer
pods take it through its stages with their checkpoints in a real S3 server, while it is suspended, resumed and the
operator upgraded; then the same manifest by `gapo run` in the same image, number for number; then nothing is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import images
from tests.cluster.chart import CHART, changed, helm, values_on_a_node, well
from tests.cluster.node import Node
from tests.cluster.s3 import S3Server, s3_server

from gapo.api.load import load_document
from gapo.planning.observation import Observation
from gapo.planning.stage_decision import stage_metrics
from gapo.run.reader import Observer
from gapo.tasks import Kind, TaskKey

pytestmark = pytest.mark.node

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
SYSTEM, TENANT, RELEASE = "story-system", "tenant-b", "story"
STAGES = 2
GRACE_SECONDS = 60
"""The chart's default between the signal to stop and the end."""


@dataclass
class Story:
    """What happened, noted while it did."""

    node: Node
    s3: S3Server
    manifest: dict[str, Any]
    location: str = ""
    observation: Observation = field(default_factory=Observation)
    status: dict[str, Any] = field(default_factory=dict)
    pods_gone_seconds: float = 0.0
    operators: list[str] = field(default_factory=list)
    """UIDs of the operator's pods, before and after the upgrade."""
    table: str = ""
    laptop: dict[str, Any] = field(default_factory=dict)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.node.stdout_of("-n", TENANT, *arguments, stdin=stdin)

    def run(self) -> dict[str, Any]:
        gaporun: dict[str, Any] = json.loads(self.kubectl("get", "gaporun", "quickstart", "-o", "json"))
        return gaporun.get("status", {})

    def task_runs(self, stage: int, kind: str) -> bool:
        pods = self.kubectl("get", "pods", "-l", f"gapo.dev/stage={stage},gapo.dev/kind={kind}", "-o", "json")
        phases = [pod["status"].get("phase") for pod in json.loads(pods)["items"]]
        return "Running" in phases

    def live_pods(self) -> list[str]:
        pods = json.loads(
            self.kubectl("get", "pods", "-l", "app.kubernetes.io/managed-by=gapo-operator", "-o", "json")
        )
        return [
            p["metadata"]["name"] for p in pods["items"] if p["status"].get("phase") in ("Pending", "Running")
        ]

    def operator_pod(self) -> str:
        pods = self.node.stdout_of(
            "-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "json"
        )
        running = [p for p in json.loads(pods)["items"] if "deletionTimestamp" not in p["metadata"]]
        return str(running[0]["metadata"]["uid"]) if running else ""

    def wait(self, holds: Callable[[], bool], what: str, minutes: float = 10) -> None:
        """Shows the run and the operator's log where it does not come about."""
        deadline = time.monotonic() + 60 * minutes
        while not holds():
            assert time.monotonic() < deadline, f"not within {minutes} minutes: {what}\n{self.description()}"
            time.sleep(0.5)

    def description(self) -> str:
        operator = ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=40"]
        parts = [
            json.dumps(self.run(), indent=1),
            self.node.run("-n", TENANT, "get", "pods,jobs,events").stdout,
            self.node.run(*operator).stdout,
        ]
        return "\n".join(parts)


def release(node: Node, command: str, values: dict[str, Any]) -> None:
    flags = ["--namespace", SYSTEM, "--values", "-", "--wait", "--timeout", "240s"]
    well(helm(command, RELEASE, str(CHART), *flags, stdin=json.dumps(values), server=node))


def secret(node: Node, namespace: str, name: str, keys: dict[str, str]) -> None:
    literals = [f"--from-literal={k}={v}" for k, v in keys.items()]
    node.stdout_of("create", "secret", "generic", name, "-n", namespace, *literals)


@pytest.fixture(scope="module")
def node_s3(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that this process and the node's pods reach at the same endpoint."""
    with s3_server(tmp_path_factory.mktemp("story-s3"), node.host) as running:
        yield running


@pytest.fixture(scope="module")
def story(node: Node, node_s3: S3Server) -> Story:
    for namespace in (SYSTEM, TENANT):
        node.stdout_of("create", "namespace", namespace)
        node.stdout_of("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    secret(node, SYSTEM, "operator-storage", node_s3.operator.environment())
    secret(node, TENANT, "gapo-storage", node_s3.tenants[TENANT].environment())
    values = values_on_a_node(node_s3, TENANT, graceSeconds=GRACE_SECONDS)
    release(node, "install", values)
    manifest = yaml.safe_load(QUICKSTART.read_text())
    manifest["spec"]["stages"]["max"] = STAGES
    story = Story(node, node_s3, manifest)
    story.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    suspend_in_mid_stage(story)
    upgrade_in_mid_run(story, values)
    story.wait(
        lambda: story.run().get("state") in ("Succeeded", "Failed", "Stalled"), "the run is over", minutes=25
    )
    story.status, story.table = story.run(), story.kubectl("get", "gaporuns")
    story.location = story.status["location"]
    loaded = load_document(manifest, where="quickstart", base=QUICKSTART.parent)
    observer = Observer(
        node_s3.objects(node_s3.operator, story.location.removeprefix(f"{node_s3.uri}/")), loaded.run_id
    )
    observer.scan()
    story.observation = observer.observation()
    story.laptop = on_one_machine(story)
    return story


def suspend_in_mid_stage(story: Story) -> None:
    story.wait(lambda: story.task_runs(1, "ppo"), "stage 1 trains", minutes=15)
    story.kubectl("patch", "gaporun", "quickstart", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    began = time.monotonic()
    story.wait(lambda: not story.live_pods(), "no pod is left")
    story.pods_gone_seconds = time.monotonic() - began
    story.wait(lambda: story.run().get("state") == "Suspended", "it says so")
    story.kubectl("patch", "gaporun", "quickstart", "--type=merge", "-p", '{"spec":{"suspend":false}}')


def upgrade_in_mid_run(story: Story, values: dict[str, Any]) -> None:
    story.wait(lambda: story.task_runs(1, "evaluate") or story.task_runs(1, "rm"), "stage 1 goes on")
    story.operators.append(story.operator_pod())
    release(story.node, "upgrade", changed({"podLabels": {"upgraded": "yes"}}, of=values))
    story.operators.append(story.operator_pod())


def on_one_machine(story: Story) -> dict[str, Any]:
    """`gapo run` of the same manifest in the same image, on a folder; what `gapo status` says of it."""
    story.kubectl(
        "create", "configmap", "manifest", f"--from-literal=run.yaml={yaml.safe_dump(story.manifest)}"
    )
    where = "--location local=/scratch/runs"
    script = f"gapo run /manifest/run.yaml {where} --no-report && echo ==== && gapo status /manifest/run.yaml {where} -o json"
    container = {
        "name": "gapo",
        "image": images.TRAINER,
        "command": ["sh", "-c", script],
        "env": [{"name": "HOME", "value": "/scratch"}],
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("scratch", "tmp", "manifest")],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "laptop"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "manifest", "configMap": {"name": "manifest"}},
            ],
        },
    }
    story.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    def phase() -> str:
        return story.kubectl("get", "pod", "laptop", "-o", "jsonpath={.status.phase}")

    story.wait(lambda: phase() in ("Succeeded", "Failed"), "gapo run has ended", minutes=20)
    log = story.kubectl("logs", "laptop", "--tail=-1")
    assert phase() == "Succeeded", log[-3000:]
    run: dict[str, Any] = json.loads(log.partition("====")[2])
    return run


def test_it_succeeds_with_its_stages_behind_it(story: Story) -> None:
    conditions = {c["type"]: c for c in story.status["conditions"]}
    assert conditions["Succeeded"]["status"] == "True", story.status
    assert [stage["stage"] for stage in story.status["stages"]] == [*range(STAGES + 1)]
    assert story.status["runID"] in story.status["location"]


def test_suspended_it_had_no_pod_within_the_grace_period(story: Story) -> None:
    assert story.pods_gone_seconds < GRACE_SECONDS + 10


def test_no_task_was_committed_twice_and_only_the_suspended_one_tried_again(story: Story) -> None:
    again = {key: len(attempts) for key, attempts in story.observation.attempts.items() if len(attempts) > 1}
    assert set(again) <= {TaskKey(1, Kind.PPO)}
    causes = [
        a.ended.cause.value if a.ended else None for a in story.observation.attempts[TaskKey(1, Kind.PPO)]
    ]
    assert causes in (["stopped", "committed"], ["committed"])
    assert not story.observation.revoked


def test_an_upgraded_operator_goes_on_with_what_runs(story: Story) -> None:
    before, after = story.operators
    assert before
    assert after
    assert before != after


def test_a_cluster_and_one_machine_give_the_same_numbers(story: Story) -> None:
    cluster = {stage: stage_metrics(story.observation, stage) for stage in range(STAGES + 1)}
    laptop = {entry["stage"]: entry["metrics"] for entry in story.laptop["stages"]}
    assert cluster.keys() == laptop.keys()
    for stage in cluster:
        mine, other = timeless(cluster[stage]), timeless(laptop[stage])
        assert len(mine) > 10
        assert mine == other, f"stage {stage}"


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("wall/")}


def test_kubectl_shows_where_it_stands(story: Story) -> None:
    header, line = story.table.strip().splitlines()
    assert header.split() == ["NAME", "STAGE", "STATE", "PROGRESS", "RM-PAIR", "SATISFACTION", "AGE"]
    assert line.split()[1:4] == [str(STAGES), "Succeeded", f"A{STAGES}/{STAGES}"]


def test_nothing_is_left_but_the_checkpoints(story: Story) -> None:
    story.kubectl("delete", "gaporun", "quickstart", "--timeout=30s")
    ours = ["get", "jobs,pods", "-l", "app.kubernetes.io/managed-by=gapo-operator", "-o", "name"]
    story.wait(lambda: not story.kubectl(*ours).strip(), "Jobs and pods of the run are gone")
    well(helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", server=story.node))
    everything = ["get", "all,roles,rolebindings,networkpolicies,pdb", "-n", SYSTEM, "-o", "name"]
    story.wait(lambda: not story.node.stdout_of(*everything).strip(), "nothing of the release is left")
    assert list(story.s3.folder.glob(f"{TENANT}/quickstart/*/stages/{STAGES}/export/manifest-0.json"))

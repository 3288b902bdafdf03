"""What happens to real pods: killed, out of memory, without an image, refused by a quota, left alone by their operator.

Each time the GapoRun says so in its conditions within 30 seconds, and goes on or waits for whoever must act.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import yaml
from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.s3 import REGION, S3Server, s3_server
from tests.slow.gapo_command import SMOKE, merged

pytestmark = pytest.mark.node

NAMESPACE = "faults"
TOLD_SECONDS = 30.0


@dataclass
class Faults:
    """A namespace with its operator, and one run at a time in it."""

    node: Node
    operator: OperatorProcess

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.node.stdout_of("-n", NAMESPACE, *arguments, stdin=stdin)

    def apply(self, name: str, **spec: Any) -> None:
        document = yaml.safe_load(SMOKE.read_text())
        document["metadata"]["name"] = name
        document["spec"] = merged(document["spec"], {"seed": len(name), **spec})
        self.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def condition(self, name: str, kind: str = "TasksHealthy") -> dict[str, Any]:
        status = json.loads(self.kubectl("get", "gaporun", name, "-o", "json")).get("status", {})
        conditions = [c for c in status.get("conditions", []) if c["type"] == kind]
        return conditions[0] if conditions else {}

    def pods(self, name: str) -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = json.loads(
            self.kubectl("get", "pods", "-l", f"gapo.dev/run={name}", "-o", "json")
        )["items"]
        return pods

    def running(self, name: str, attempt: int, kind: str = "data") -> list[str]:
        return [
            pod["metadata"]["name"]
            for pod in self.pods(name)
            if pod["metadata"]["labels"]["gapo.dev/attempt"] == str(attempt)
            and pod["metadata"]["labels"]["gapo.dev/kind"] == kind
            and pod["status"].get("phase") == "Running"
            and not pod["metadata"].get("deletionTimestamp")
        ]

    def wait(self, holds: Callable[[], bool], what: str, seconds: float = 240.0) -> float:
        """Seconds until it came about. Shows pods and the operator's log where it does not."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                shown = self.node.run("-n", NAMESPACE, "get", "gaporuns,jobs,pods,events").stdout
                raise AssertionError(
                    f"not within {seconds:.0f} s: {what}\n{shown}\n{self.operator.log_text()[-3000:]}"
                )
            time.sleep(0.25)
        return time.monotonic() - began

    def delete(self, name: str) -> None:
        self.kubectl("delete", "gaporun", name, "--timeout=30s")
        self.wait(lambda: not self.pods(name), f"the pods of {name} are gone")


@pytest.fixture(scope="module")
def faults(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    folder = tmp_path_factory.mktemp("faults")
    with s3_server(folder, node.host, tenants=(NAMESPACE,)) as s3:
        node.stdout_of("create", "namespace", NAMESPACE)
        keys = [f"--from-literal={k}={v}" for k, v in s3.tenants[NAMESPACE].environment().items()]
        node.stdout_of("create", "secret", "generic", "gapo-storage", "-n", NAMESPACE, *keys)
        config = folder / "operator.yaml"
        config.write_text(yaml.safe_dump(configuration(s3)))
        arguments = ("--namespace", NAMESPACE)
        with operator(
            folder, node.kubeconfig, config, *arguments, environment=s3.operator.environment()
        ) as process:
            process.wait_until_ready()
            yield Faults(node, process)


def configuration(s3: S3Server) -> dict[str, Any]:
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    location |= {"credentials": "mountedSecret", "secretName": "gapo-storage"}
    return {"storageLocations": [location], "trainer": {"image": images.TRAINER, "graceSeconds": 10}}


def test_a_killed_pod_is_told_and_its_task_tried_again(faults: Faults) -> None:
    faults.apply("killed")
    faults.wait(lambda: bool(faults.running("killed", 0)), "the first task runs")
    (uid,) = [pod["metadata"]["uid"] for pod in faults.pods("killed")]
    for process in psutil.process_iter(["cmdline"]):
        if uid in (process.info["cmdline"] or []):  # --writer says which pod it is
            process.kill()
    seconds = faults.wait(lambda: faults.condition("killed").get("status") == "False", "it is told")
    assert seconds < TOLD_SECONDS
    assert "attempt 0 of 0/data" in faults.condition("killed")["message"]
    faults.wait(lambda: bool(faults.running("killed", 1)), "the second attempt runs")
    faults.delete("killed")


def test_a_deleted_pod_is_a_preemption_and_its_task_tried_again(faults: Faults) -> None:
    """Of a task that looks often whether it is to stop, and is long enough to be met."""
    faults.apply("deleted", sft={"steps": 20000})
    faults.wait(lambda: bool(faults.running("deleted", 0, "sft")), "supervised training runs")
    faults.kubectl("delete", "pod", *faults.running("deleted", 0, "sft"), "--wait=false")
    faults.wait(lambda: bool(faults.running("deleted", 1, "sft")), "the second attempt runs")
    faults.delete("deleted")


def test_a_task_without_enough_memory_fails_by_name(faults: Faults) -> None:
    faults.apply("starved", roles={"data": {"resources": {"limits": {"memory": "96Mi"}}}})
    faults.wait(lambda: any_terminated(faults.pods("starved"), "OOMKilled"), "the kernel ends the pod")
    seconds = faults.wait(lambda: faults.condition("starved").get("reason") == "OutOfMemory", "it is told")
    assert seconds < TOLD_SECONDS
    assert "OOMKilled" in faults.condition("starved")["message"]
    faults.delete("starved")


def test_an_image_that_cannot_be_pulled_is_named(faults: Faults) -> None:
    faults.apply("imageless", roles={"data": {"image": "localhost/absent:1"}})
    faults.wait(lambda: bool(faults.pods("imageless")), "there is a pod")
    seconds = faults.wait(
        lambda: faults.condition("imageless").get("reason") == "ImagePullFailed", "it is told"
    )
    assert seconds < TOLD_SECONDS
    assert "localhost/absent:1" in faults.condition("imageless")["message"]
    faults.delete("imageless")


def test_a_quota_is_quoted_and_the_run_starts_once_there_is_room(faults: Faults) -> None:
    faults.kubectl("create", "quota", "nothing", "--hard=pods=0")
    try:
        faults.wait(
            lambda: "pods" in faults.kubectl("get", "quota", "nothing", "-o", "jsonpath={.status.hard}"),
            "it holds",
        )
        faults.apply("poor")
        seconds = faults.wait(lambda: faults.condition("poor").get("reason") == "QuotaExceeded", "it is told")
        assert seconds < TOLD_SECONDS
        assert "exceeded quota: nothing" in faults.condition("poor")["message"]
    finally:
        faults.kubectl("delete", "quota", "nothing")
    faults.wait(lambda: bool(faults.running("poor", 0)), "it starts")
    faults.wait(lambda: faults.condition("poor").get("status") == "True", "the condition is gone")
    faults.delete("poor")


def test_with_no_operator_a_run_and_its_namespace_can_be_deleted(faults: Faults) -> None:
    """Last, for it ends the operator."""
    faults.apply("orphan")
    faults.wait(lambda: bool(faults.pods("orphan")), "it has begun")
    assert faults.operator.stop() == 0
    began = time.monotonic()
    faults.kubectl("delete", "gaporun", "orphan", "--timeout=30s")
    faults.apply("second")
    faults.node.stdout_of("delete", "namespace", NAMESPACE, "--timeout=30s")
    assert time.monotonic() - began < 60


def any_terminated(pods: list[dict[str, Any]], reason: str) -> bool:
    states = [
        container.get("state", {}).get("terminated", {}).get("reason")
        for pod in pods
        for container in pod["status"].get("containerStatuses", [])
    ]
    return reason in states

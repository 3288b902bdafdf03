"""`gapo logs` of real containers; what an operator would write into the run's status is written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.processes import wait_until

pytestmark = pytest.mark.node
NAMESPACE = "logs"
GAPO = str(Path(sys.executable).with_name("gapo"))
RUN = {
    "apiVersion": "gapo.dev/v1alpha1",
    "kind": "GapoRun",
    "metadata": {"name": "smoke", "namespace": NAMESPACE},
    "spec": {
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {}},
        "rewardModel": {"fromScratch": {"arch": "encoder"}},
    },
}


@pytest.fixture(scope="module", autouse=True)
def namespace(node: Node) -> None:
    node.stdout_of("create", "namespace", NAMESPACE)
    wait_until(lambda: node.run("get", "sa", "default", "-n", NAMESPACE).returncode == 0, "it has an account")


def phase(node: Node, name: str) -> str:
    return node.stdout_of("get", "pod", name, "-n", NAMESPACE, "-o", "jsonpath={.status.phase}")


def pod(kind: str, stage: int, script: str) -> str:
    """A pod with the labels and the container's name of a task's."""
    labels = {"run": "smoke", "stage": str(stage), "kind": kind, "attempt": "0"}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"smoke-{kind}",
                "namespace": NAMESPACE,
                "labels": {f"gapo.dev/{name}": value for name, value in labels.items()},
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": "trainer", "image": images.OPERATOR, "command": ["sh", "-c", script]}
                ],
            },
        }
    )


def tell(node: Node, state: str, stage: int) -> None:
    """The part of the operator."""
    run = json.loads(node.stdout_of("get", "gaporun", "smoke", "-n", NAMESPACE, "-o", "json"))
    status = {"observedGeneration": run["metadata"]["generation"], "state": state, "stage": stage}
    patch = json.dumps({"status": status})
    node.stdout_of(
        "patch", "gaporun", "smoke", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", patch
    )


def test_logs_go_on_from_task_to_task(node: Node, tmp_path: Path) -> None:
    node.stdout_of("create", "-f", "-", stdin=json.dumps(RUN))
    tell(node, "Running", 0)
    environment = {**os.environ, "KUBECONFIG": str(node.kubeconfig)}

    def gapo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [GAPO, "logs", "smoke", "-n", NAMESPACE, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert (gapo().returncode, gapo("--stage", "4").returncode) == (69, 69)
    node.stdout_of("create", "-f", "-", stdin=pod("data", 0, "echo data 1; echo data 2"))
    wait_until(lambda: phase(node, "smoke-data") == "Succeeded", "the first task is done", every=0.5)
    done = gapo()
    assert (done.returncode, done.stdout, done.stderr) == (0, "data 1\ndata 2\n", "")
    assert gapo("--tail", "1").stdout == "data 2\n"

    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as to, err.open("wb") as errors:
        command = [GAPO, "logs", "smoke", "-n", NAMESPACE, "-f"]
        following = subprocess.Popen(command, env=environment, stdout=to, stderr=errors)
    try:
        wait_until(lambda: "data 2" in out.read_text(), "what was said is shown")
        script = "echo ppo 1; until [ -e /tmp/end ]; do sleep 0.2; done; echo ppo 2"
        node.stdout_of("create", "-f", "-", stdin=pod("ppo", 1, script))
        tell(node, "Running", 1)
        wait_until(lambda: "ppo 1" in out.read_text(), "the next task is followed while it runs")
        assert "ppo 2" not in out.read_text()
        assert following.poll() is None
        node.stdout_of("exec", "smoke-ppo", "-n", NAMESPACE, "--", "touch", "/tmp/end")  # noqa: S108
        wait_until(lambda: phase(node, "smoke-ppo") == "Succeeded", "the second task is done", every=0.5)
        tell(node, "Succeeded", 1)
        assert following.wait(60) == 0
    finally:
        following.kill()
        following.wait()
    assert out.read_text() == "data 1\ndata 2\nppo 1\nppo 2\n"
    assert err.read_text().splitlines() == ["==> 0 data (smoke-data) <==", "==> A1 ppo (smoke-ppo) <=="]
    assert gapo().stdout == "ppo 1\nppo 2\n"
    assert gapo("--stage", "0", "--kind", "data", "--attempt", "0").stdout == "data 1\ndata 2\n"
    node.stdout_of("delete", "pod", "smoke-data", "smoke-ppo", "-n", NAMESPACE)
    gone = gapo()
    assert gone.returncode == 69
    assert "no pod of this run is there: GapoRun logs/smoke is Succeeded" in gone.stderr


def test_inside_a_pod_it_comes_as_the_pods_account_to_the_pods_namespace(node: Node) -> None:
    run = {**RUN, "metadata": {**RUN["metadata"], "name": "within"}}  # type: ignore[dict-item]
    node.stdout_of("create", "-f", "-", stdin=json.dumps(run))
    rules = ["--verb=get", "--resource=gaporuns.gapo.dev"]
    node.stdout_of("create", "role", "reader", "-n", NAMESPACE, *rules)
    node.stdout_of(
        "create",
        "rolebinding",
        "reader",
        "-n",
        NAMESPACE,
        "--role=reader",
        f"--serviceaccount={NAMESPACE}:default",
    )
    script = "python -m gapo status within --cluster; python -m gapo suspend within; echo code $?"
    body = json.loads(pod("within", 0, script))
    body["spec"]["automountServiceAccountToken"] = True
    node.stdout_of("create", "-f", "-", stdin=json.dumps(body))
    wait_until(lambda: phase(node, "smoke-within") == "Succeeded", "it has asked", every=0.5)
    lines = node.stdout_of("logs", "smoke-within", "-n", NAMESPACE).splitlines()
    assert lines[0] == "logs/within: Pending", lines
    assert 'cannot patch resource "gaporuns"' in lines[-2]
    assert lines[-1] == "code 69"

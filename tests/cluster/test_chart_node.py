"""The chart where pods run: the operator starts as it is installed, its checks ask it, and it uses every right that the
chart gives it and no other.

It watches one namespace of its own, so that other tests may have their operators beside it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.cluster import images
from tests.cluster.audit import Right, audited, refused, used
from tests.cluster.chart import CHART, FULLNAME, NAMESPACE, RELEASE, Values, changed, helm, objects, well
from tests.cluster.node import Node
from tests.cluster.processes import wait_until
from tests.cluster.s3 import REGION, S3Server
from tests.slow.gapo_command import SMOKE

pytestmark = pytest.mark.node
RUNS = "chart-runs"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{FULLNAME}"


def values_for(s3: S3Server) -> Values:
    image, tag = images.OPERATOR.split(":")
    return {
        "image": {"repository": image, "tag": tag, "pullPolicy": "Never"},
        # Its pods are there and never run: what they would do is no matter here.
        "trainer": {"image": images.PAUSE},
        "storageLocations": [
            {
                "name": "local",
                "uri": s3.uri,
                "endpoint": s3.endpoint,
                "region": REGION,
                "operatorSecret": "operator-storage",
            }
        ],
        "watchNamespaces": [RUNS],
        "crds": {"enabled": False},
        "selfCheck": {"seconds": 120},
    }


def release(node: Node, command: str, values: Values) -> Any:
    return helm(
        command, RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-", "--wait", "--timeout", "240s",
        stdin=json.dumps(values), server=node,
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(node: Node, node_s3: S3Server) -> Values:
    for namespace in (NAMESPACE, RUNS):
        node.stdout_of("create", "namespace", namespace)
        node.stdout_of("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    keys = [f"--from-literal={name}={value}" for name, value in node_s3.operator.environment().items()]
    node.stdout_of("create", "secret", "generic", "operator-storage", "-n", NAMESPACE, *keys)
    values = values_for(node_s3)
    well(release(node, "install", values))
    return values


def pod(node: Node) -> dict[str, Any]:
    pods = node.stdout_of(
        "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "-o", "json"
    )
    (pod,) = [one for one in json.loads(pods)["items"] if "deletionTimestamp" not in one["metadata"]]
    assert isinstance(pod, dict)
    return pod


def test_the_operator_runs_as_it_is_installed_and_holds_the_lease(node: Node, installed: Values) -> None:
    running = pod(node)
    (container,) = running["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
    holder = ["get", "lease", "gapo-operator", "-n", NAMESPACE, "-o", "jsonpath={.spec.holderIdentity}"]
    wait_until(
        lambda: node.run(*holder).stdout.startswith(running["metadata"]["name"]), "the operator has the Lease"
    )


def test_the_self_check_has_asked_it(node: Node, installed: Values) -> None:
    status = json.loads(well(helm("status", RELEASE, "-n", NAMESPACE, "-o", "json", server=node)))
    hooks = {hook["name"]: hook["last_run"]["phase"] for hook in status["hooks"]}
    assert hooks[f"{FULLNAME}-check"] == "Succeeded"


def test_helm_test_asks_it(node: Node, installed: Values) -> None:
    assert "Phase:          Succeeded" in well(helm("test", RELEASE, "-n", NAMESPACE, server=node))


def runs(node: Node) -> list[str]:
    return node.stdout_of("get", "gaporuns", "-n", RUNS, "-o", "name").split()


def jobs(node: Node) -> list[str]:
    return node.stdout_of("get", "jobs", "-n", RUNS, "-o", "name").split()


def test_it_uses_every_right_that_it_is_given_and_no_other(node: Node, installed: Values) -> None:
    run = yaml.safe_load(SMOKE.read_text())
    node.stdout_of("create", "-n", RUNS, "-f", "-", stdin=json.dumps(run))
    name = f"gaporun/{run['metadata']['name']}"
    wait_until(lambda: len(jobs(node)) == 1, "the first task's Job is there")
    node.stdout_of("patch", name, "-n", RUNS, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    wait_until(lambda: not jobs(node), "a suspended run has no Job")
    node.stdout_of("delete", name, "-n", RUNS, "--timeout=30s")
    run["metadata"]["name"] = "short"
    run["spec"]["roles"]["data"]["image"] = images.OPERATOR  # which has no torch: its tasks fail
    run["spec"]["scheduling"] = {"maxFailures": 0, "ttlSecondsAfterFinished": 0}
    node.stdout_of("create", "-n", RUNS, "-f", "-", stdin=json.dumps(run))
    wait_until(lambda: not runs(node), "a run that has ended is deleted")

    requests = audited(node.folder, ACCOUNT)
    assert refused(requests) == []
    assert used(requests) == given(installed)


def given(values: Values) -> set[Right]:
    rules = [
        (role["metadata"]["namespace"], rule)
        for role in objects(values)
        if role["kind"] == "Role" and role["metadata"]["name"] in (FULLNAME, f"{FULLNAME}-lease")
        for rule in role["rules"]
    ]
    return {
        (namespace, group, resource, verb)
        for namespace, rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_changed_value_starts_it_anew(node: Node, installed: Values) -> None:
    before = pod(node)["metadata"]["uid"]
    well(release(node, "upgrade", changed({"trainer": {"graceSeconds": 90}}, of=installed)))
    assert pod(node)["metadata"]["uid"] != before


def test_an_upgrade_after_which_it_never_gets_ready_fails_and_says_why(node: Node, installed: Values) -> None:
    broken = changed({"rbac": {"create": False}, "selfCheck": {"seconds": 15}}, of=installed)
    broken = changed({"trainer": {"graceSeconds": 91}}, of=broken)  # or the pod that is ready would stay
    flags = ["--namespace", NAMESPACE, "--values", "-"]
    done = helm("upgrade", RELEASE, str(CHART), *flags, stdin=json.dumps(broken), server=node)
    assert done.returncode != 0
    assert "/readyz: " in done.stderr
    assert f"kubectl logs deployment/{FULLNAME} --namespace {NAMESPACE}" in done.stderr
    well(helm("rollback", RELEASE, "--namespace", NAMESPACE, "--wait", server=node))

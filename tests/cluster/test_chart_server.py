"""The chart's objects on a real API server: each is taken as it stands, and the operator's account may do what it needs
and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.chart import (
    EXAMPLES,
    FULLNAME,
    NAMESPACE,
    NAMESPACED,
    SETS,
    SMALLEST,
    Values,
    changed,
    objects,
    pods,
    prepare,
)
from tests.cluster.control_plane import ControlPlane
from tests.slow.gapo_command import SMOKE

pytestmark = pytest.mark.cluster
MONITORING = Path(__file__).with_name("monitoring")
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{FULLNAME}"

Right = tuple[str, str, str, str]
"""Group, resource, verb, and the one name that it is for (empty: any)."""


@pytest.fixture(scope="module")
def ready(cluster: ControlPlane) -> ControlPlane:
    """With the Prometheus operator's kinds, and namespaces that take none but restricted pods."""
    prepare(cluster)
    cluster.stdout_of("apply", "--server-side", "-f", str(MONITORING), "--selector", "!none")
    cluster.established()
    return cluster


@pytest.mark.parametrize("values", [*SETS.values(), *EXAMPLES.values()], ids=[*SETS, *EXAMPLES])
def test_every_object_is_taken_as_it_stands(ready: ControlPlane, values: Values) -> None:
    manifests = objects(values)
    flags = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"]
    done = ready.run("apply", *flags, "-f", "-", stdin=yaml.safe_dump_all(manifests))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied (server dry run)") == len(manifests)
    assert "Warning" not in done.stderr


def test_an_object_with_a_misspelt_field_would_be_noticed(ready: ControlPlane) -> None:
    (policy,) = [one for one in objects(SMALLEST) if one["kind"] == "NetworkPolicy"]
    policy["spec"]["podSelektor"] = {}
    done = ready.run(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(policy)
    )
    assert "podSelektor" in done.stderr


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_pod_is_taken_where_only_restricted_ones_are(ready: ControlPlane, values: Values) -> None:
    for pod in pods(values).values():
        pod["spec"]["serviceAccountName"] = "default"
        create = ["create", "--dry-run=server", "--validate=strict", "-n", NAMESPACE, "-f", "-"]
        done = ready.run(*create, stdin=json.dumps(pod))
        assert done.returncode == 0, done.stderr


RBAC = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture(params=["cluster-wide", "namespaced"])
def granted(ready: ControlPlane, request: pytest.FixtureRequest) -> Iterator[tuple[ControlPlane, str]]:
    """The chart's accounts, roles and bindings, for the time of one test."""
    values = SMALLEST if request.param == "cluster-wide" else NAMESPACED
    stream = yaml.safe_dump_all([one for one in objects(values) if one["kind"] in RBAC])
    ready.stdout_of("apply", "-f", "-", stdin=stream)
    yield ready, request.param
    ready.stdout_of("delete", "-f", "-", stdin=stream)


REVIEW = ("-f", "-", "-o", "json", "--validate=false")
"""Validation would look for CRDs, which not everybody may."""


def rights(server: ControlPlane, account: str, namespace: str) -> set[Right]:
    """All that the API server's own authorizer lets an account do in a namespace, beside what any account may."""

    def of(who: str) -> set[Right]:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        answers = server.stdout_of("create", *REVIEW, f"--as={who}", stdin=json.dumps(review))
        status = json.loads(answers)["status"]
        assert not status["incomplete"]
        return {
            (group, resource, verb, name)
            for rule in status["resourceRules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }

    return of(account) - of(f"system:serviceaccount:{namespace}:somebody-else")


IN_RUNS: set[Right] = {
    ("gapo.dev", "gaporuns", "list", ""),
    ("gapo.dev", "gaporuns", "watch", ""),
    ("gapo.dev", "gaporuns", "delete", ""),
    ("gapo.dev", "gaporuns/status", "patch", ""),
    ("batch", "jobs", "list", ""),
    ("batch", "jobs", "watch", ""),
    ("batch", "jobs", "create", ""),
    ("batch", "jobs", "delete", ""),
    ("", "pods", "list", ""),
    ("", "pods", "watch", ""),
    ("", "events", "list", ""),
    ("", "events", "watch", ""),
    ("", "events", "create", ""),
}
LEASE: set[Right] = {
    ("coordination.k8s.io", "leases", "create", ""),
    ("coordination.k8s.io", "leases", "get", "gapo-operator"),
    ("coordination.k8s.io", "leases", "update", "gapo-operator"),
}


def test_the_operator_may_do_what_it_needs_and_nothing_else(granted: tuple[ControlPlane, str]) -> None:
    server, scope = granted
    everywhere = IN_RUNS if scope == "cluster-wide" else set()
    expected = {
        NAMESPACE: everywhere | LEASE,
        "red": IN_RUNS,
        "blue": IN_RUNS,
        "green": everywhere,
        "kube-system": everywhere,
    }
    assert {namespace: rights(server, ACCOUNT, namespace) for namespace in expected} == expected


def test_with_volcano_it_may_write_pod_groups_where_it_works_and_gains_nothing_else(
    ready: ControlPlane,
) -> None:
    values = changed({"volcano": {"enabled": True}}, of=NAMESPACED)
    stream = yaml.safe_dump_all([one for one in objects(values) if one["kind"] in RBAC])
    ready.stdout_of("apply", "-f", "-", stdin=stream)
    try:
        groups = {("scheduling.volcano.sh", "podgroups", verb, "") for verb in ("create", "patch", "delete")}
        assert rights(ready, ACCOUNT, "red") == IN_RUNS | groups
        assert rights(ready, ACCOUNT, "green") == set()
    finally:
        ready.stdout_of("delete", "-f", "-", stdin=stream)


DANGEROUS = [
    ("get", "", "secrets", ""),
    ("list", "", "secrets", ""),
    ("create", "", "secrets", ""),
    ("get", "", "configmaps", ""),
    ("create", "", "pods", ""),
    ("get", "", "pods/log", ""),
    ("create", "", "pods/exec", ""),
    ("list", "", "namespaces", ""),
    ("create", "", "serviceaccounts/token", ""),
    ("impersonate", "", "serviceaccounts", ""),
    ("update", "gapo.dev", "gaporuns", ""),
    ("patch", "gapo.dev", "gaporuns", ""),
    ("update", "gapo.dev", "gaporuns/finalizers", ""),
    ("patch", "batch", "jobs", ""),
    ("create", "rbac.authorization.k8s.io", "rolebindings", ""),
    ("list", "apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("delete", "coordination.k8s.io", "leases", "gapo-operator"),
    ("get", "coordination.k8s.io", "leases", "another"),
]


def allowed(server: ControlPlane, namespace: str, rights: list[tuple[str, str, str, str]]) -> list[bool]:
    """What the API server says to each: verb, group, resource (and its part), name."""
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "LocalSubjectAccessReview",
            "metadata": {"namespace": namespace},
            "spec": {
                "user": ACCOUNT,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": verb,
                    "group": group,
                    "resource": resource.partition("/")[0],
                    "subresource": resource.partition("/")[2],
                    "name": name,
                },
            },
        }
        for verb, group, resource, name in rights
    ]
    output = server.stdout_of("create", "-f", "-", "-o", "json", stdin=yaml.safe_dump_all(reviews))
    decoder, answers = json.JSONDecoder(), []
    while output.strip():
        answer, end = decoder.raw_decode(output.strip())
        answers += answer.get("items") or [answer]
        output = output.strip()[end:]
    return [answer["status"]["allowed"] for answer in answers]


def test_what_would_make_the_operator_dangerous_is_denied(granted: tuple[ControlPlane, str]) -> None:
    server, _ = granted
    for namespace in (NAMESPACE, "red", "green"):
        assert allowed(server, namespace, DANGEROUS) == [False] * len(DANGEROUS)
    assert allowed(server, "red", [("create", "batch", "jobs", "")]) == [True]


def test_the_operator_works_where_it_is_told_to_and_is_refused_elsewhere(
    granted: tuple[ControlPlane, str],
) -> None:
    server, scope = granted
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "task"},
        "spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
        },
    }
    for namespace, allowed in (("red", True), ("green", scope == "cluster-wide")):
        command = ["create", "--dry-run=server", "-n", namespace, f"--as={ACCOUNT}", "-f", "-"]
        done = server.run(*command, stdin=json.dumps(job))
        assert (done.returncode == 0) is allowed, done.stderr
        assert allowed or "forbidden" in done.stderr


def test_editors_write_runs_but_not_their_status_and_viewers_only_look(ready: ControlPlane) -> None:
    roles = [one for one in objects(SMALLEST) if one["kind"] == "ClusterRole"]
    stream = yaml.safe_dump_all(roles)
    ready.stdout_of("apply", "-f", "-", stdin=stream)
    try:
        for kind in ("editor", "viewer"):
            ready.stdout_of(
                "create",
                "rolebinding",
                kind,
                f"--clusterrole={FULLNAME}-{kind}",
                f"--user={kind}",
                "-n",
                "red",
            )
        look = {("gapo.dev", "gaporuns", verb, "") for verb in ("get", "list", "watch")}
        look |= {("gapo.dev", "gaporuns/status", "get", "")}
        write = {
            ("gapo.dev", "gaporuns", verb, "")
            for verb in ("create", "update", "patch", "delete", "deletecollection")
        }
        assert rights(ready, "viewer", "red") == look
        assert rights(ready, "editor", "red") == look | write
        assert rights(ready, "editor", "blue") == set()
        run = SMOKE.read_text()
        create = ["create", "--dry-run=server", "-n", "red", "-f", "-"]
        assert ready.run(*create, "--as=editor", stdin=run).returncode == 0
        assert "forbidden" in ready.run(*create, "--as=viewer", stdin=run).stderr
    finally:
        ready.run("delete", "rolebinding", "editor", "viewer", "-n", "red")
        ready.stdout_of("delete", "-f", "-", stdin=stream)


def test_the_cluster_roles_that_take_up_the_editor_are_edit_and_admin_and_never_view(
    ready: ControlPlane,
) -> None:
    mine = {
        one["metadata"]["name"]: one["metadata"]["labels"]
        for one in objects(SMALLEST)
        if one["kind"] == "ClusterRole"
    }

    def taken_up_by(role: str) -> list[str]:
        cluster_role = json.loads(ready.stdout_of("get", "clusterrole", role, "-o", "json"))
        selectors = [one["matchLabels"] for one in cluster_role["aggregationRule"]["clusterRoleSelectors"]]
        return [
            name for name, labels in mine.items() if any(one.items() <= labels.items() for one in selectors)
        ]

    assert taken_up_by("edit") == [f"{FULLNAME}-editor"]
    assert FULLNAME + "-editor" in taken_up_by("admin")
    assert taken_up_by("view") == []

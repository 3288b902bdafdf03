"""What `gapo doctor` asks a cluster, one function a question. Each answers with findings and raises nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gapo.crd.document import document
from gapo.errors import GapoError
from gapo_operator.cli.client import NOT_INSTALLED, Cluster, RefusedError
from gapo_operator.cli.doctor.finding import Finding, fail, ok, warn
from gapo_operator.kube.objects import Body
from gapo_operator.kube.resource_paths import GROUP, VERSION, core_path

OLDEST = (1, 31)
"""Of Kubernetes, as docs/cluster.md says."""
DEFINITION = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gaporuns.{GROUP}"
ENFORCE = "pod-security.kubernetes.io/enforce"
GPU = re.compile(r"/(gpu|mig-.+)$")
APPLY_CRD = "helm upgrade the chart, or `kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml`"
WANTED = (
    ("create", GROUP, "gaporuns", ""),
    ("patch", GROUP, "gaporuns", ""),
    ("get", GROUP, "gaporuns", ""),
    ("list", GROUP, "gaporuns", ""),
    ("watch", GROUP, "gaporuns", ""),
)
USEFUL = (
    ("list", "", "pods", ""),
    ("watch", "", "pods", ""),
    ("get", "", "pods", "log"),
    ("list", "", "events", ""),
    ("list", "batch", "jobs", ""),
)
"""Verb, group, resource and subresource; WANTED of submit and status, USEFUL of logs and of what explains a wait."""


async def api_server(cluster: Cluster) -> list[Finding]:
    """Only this one raises: without an answer there is nothing more to ask."""
    version = await cluster.get("/version")
    name = str(version.get("gitVersion") or "?")
    parsed = re.match(r"v?(\d+)\.(\d+)", name)
    where = f"Kubernetes {name} at {cluster.server}"
    if parsed and (int(parsed[1]), int(parsed[2])) < OLDEST:
        return [
            warn(
                "api server",
                where,
                f"gapo is made for {OLDEST[0]}.{OLDEST[1]} and newer; upgrade the cluster",
            )
        ]
    return [ok("api server", where)]


async def definition(cluster: Cluster) -> list[Finding]:
    """Whether GapoRuns are known, and by the schema of this release."""
    check = "definition"
    try:
        there = await cluster.get(DEFINITION)
    except RefusedError as error:
        if error.status == 404:
            return [fail(check, "the cluster knows no GapoRuns", NOT_INSTALLED.partition("; ")[2])]
        return [await _definition_by_discovery(cluster)]
    served = {one["name"]: one for one in there["spec"]["versions"] if one.get("served")}
    if VERSION not in served:
        return [
            fail(check, f"GapoRun is there, but not as {VERSION}: {', '.join(sorted(served))}", APPLY_CRD)
        ]
    conditions = {c.get("type"): c.get("status") for c in (there.get("status") or {}).get("conditions") or []}
    if conditions.get("Established") != "True":
        return [
            fail(check, "GapoRun is defined but not established", f"kubectl describe crd gaporuns.{GROUP}")
        ]
    ours, theirs = schema(document(), VERSION), schema(there, VERSION)
    if ours == theirs:
        return [ok(check, f"GapoRun {VERSION} is installed, the same as this release's")]
    missing = sorted(fields(ours) - fields(theirs))
    if missing:
        what = f"it lacks {len(missing)} fields of this release, such as {', '.join(missing[:3])}"
        return [fail(check, f"GapoRun {VERSION} is of another release: {what}", APPLY_CRD)]
    more = sorted(fields(theirs) - fields(ours))
    what = (
        f"has {len(more)} fields more, such as {more[0]}"
        if more
        else "differs in limits, rules or descriptions"
    )
    return [
        warn(check, f"GapoRun {VERSION} is of another release: it {what}", "use the gapo of that release")
    ]


async def _definition_by_discovery(cluster: Cluster) -> Finding:
    """For those who may not read definitions; discovery is everybody's."""
    try:
        resources = await cluster.get(f"/apis/{GROUP}/{VERSION}")
    except GapoError as error:
        return fail("definition", str(error))
    if not any(one.get("name") == "gaporuns" for one in resources.get("resources") or []):
        return fail("definition", "the cluster knows no GapoRuns", NOT_INSTALLED.partition("; ")[2])
    return warn(
        "definition", f"GapoRun {VERSION} is installed; you may not read whether it is this release's"
    )


def schema(crd: Body, version: str) -> Body:
    for one in crd["spec"]["versions"]:
        if one["name"] == version:
            openapi: Body = one["schema"]["openAPIV3Schema"]
            return openapi
    return {}


def fields(of: Body, path: str = "") -> set[str]:
    """Dotted names of all fields of a structural schema."""
    names = set()
    inside = [*(of.get("properties") or {}).items()]
    if isinstance(of.get("items"), Mapping):
        names |= fields(of["items"], path)
    for name, inner in inside:
        dotted = f"{path}.{name}" if path else name
        names |= {dotted} | fields(inner, dotted)
    return names


async def rights(cluster: Cluster) -> list[Finding]:
    """What the user may do in the namespace, asked of the API server itself."""
    where, findings = f"in namespace {cluster.namespace}", []
    for check, wanted, judge, todo in (
        (
            "rights",
            WANTED,
            fail,
            "ask an administrator for the role edit in it; the chart joins GapoRuns to that role",
        ),
        ("rights for logs", USEFUL, warn, "gapo status and gapo logs tell less without"),
    ):
        try:
            missing = [_words(right) for right in wanted if not await _may(cluster, right)]
        except GapoError as error:
            findings.append(warn(check, f"cannot be asked: {error}"))
            continue
        what = "submit and read GapoRuns" if judge is fail else "read pods, their logs and events"
        findings.append(
            judge(check, f"you may not {', '.join(missing)} {where}", todo)
            if missing
            else ok(check, f"you may {what} {where}")
        )
    return findings


async def _may(cluster: Cluster, right: tuple[str, str, str, str]) -> bool:
    verb, group, resource, part = right
    asked = {
        "namespace": cluster.namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": part,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in asked.items() if value}},
    }
    answer = await cluster.send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool((answer.get("status") or {}).get("allowed"))


def _words(right: tuple[str, str, str, str]) -> str:
    verb, group, resource, part = right
    return f"{verb} {resource}" + (f".{group}" if group else "") + (f"/{part}" if part else "")


async def namespace(cluster: Cluster) -> list[Finding]:
    """Its pod security, and GPUs that a quota leaves."""
    check = "pod security"
    try:
        labels = (await cluster.get(f"/api/v1/namespaces/{cluster.namespace}"))["metadata"].get(
            "labels"
        ) or {}
    except RefusedError as error:
        if error.status == 404:
            return [
                fail(
                    "namespace",
                    f"there is no namespace {cluster.namespace}",
                    "create it, or choose another by -n",
                )
            ]
        return [warn(check, f"you may not read namespace {cluster.namespace}")]
    except GapoError as error:
        return [warn(check, str(error))]
    level = labels.get(ENFORCE)
    if level == "restricted":
        finding = ok(
            check, f"namespace {cluster.namespace} enforces restricted, as pods of runs need no more"
        )
    else:
        todo = f"kubectl label namespace {cluster.namespace} {ENFORCE}=restricted keeps other pods from more than runs need"
        finding = warn(
            check, f"namespace {cluster.namespace} enforces {level or 'nothing'}; runs work in it", todo
        )
    return [finding, *await _quotas(cluster)]


async def _quotas(cluster: Cluster) -> list[Finding]:
    findings = []
    try:
        quotas = await cluster.items(core_path(cluster.namespace, "resourcequotas"))
    except GapoError:
        return []
    for quota in quotas:
        status = quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        for name in sorted(hard):
            if (hard[name] == used.get(name) and hard[name] != "0") or (hard[name] == "0" and "gpu" in name):
                message = f"quota {quota['metadata']['name']}: {used.get(name, '0')} of {hard[name]} {name} are used"
                findings.append(warn("quota", message, "runs wait until some are given back"))
    return findings


async def gpus(cluster: Cluster) -> list[Finding]:
    """What nodes offer in all; what is free of it, only a scheduler knows."""
    check = "gpus"
    try:
        nodes = await cluster.items("/api/v1/nodes")
    except RefusedError:
        return [warn(check, "you may not read nodes, so that GPUs cannot be counted")]
    except GapoError as error:
        return [warn(check, str(error))]
    offered: dict[str, list[int]] = {}
    for node in nodes:
        for name, amount in ((node.get("status") or {}).get("allocatable") or {}).items():
            if GPU.search(name) and str(amount).isdigit() and int(amount):
                offered.setdefault(name, []).append(int(amount))
    if not offered:
        some = "has no node" if not nodes else f"has {len(nodes)} nodes, none with GPUs"
        return [
            warn(
                check,
                f"the cluster {some}",
                "small models train on CPU; others need a device plugin and GPUs",
            )
        ]
    return [
        ok(
            check,
            "; ".join(f"{sum(each)} {name} on {len(each)} nodes" for name, each in sorted(offered.items())),
        )
    ]

"""Whether an operator leads, and whether it looks at the user's namespace: by its Lease and its Deployment, else by
what it has done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from gapo.errors import GapoError
from gapo_operator.cli.client import Cluster
from gapo_operator.cli.doctor.finding import Finding, fail, ok, warn
from gapo_operator.kube.objects import Body
from gapo_operator.kube.resource_paths import runs_path

OPERATORS = "app.kubernetes.io/part-of=gapo,app.kubernetes.io/component=operator"
LEASE = "gapo-operator"


async def operators(cluster: Cluster, operator_namespace: str) -> list[Finding]:
    """Whether one leads, and whether it looks at this namespace."""
    deployed = await _listed(
        cluster, "/apis/apps/v1", "deployments", {"labelSelector": OPERATORS}, operator_namespace
    )
    leases = await _listed(
        cluster,
        "/apis/coordination.k8s.io/v1",
        "leases",
        {"fieldSelector": f"metadata.name={LEASE}"},
        operator_namespace,
    )
    if deployed is None and leases is None:
        return [await _by_its_work(cluster)]
    return [*_leading(leases, cluster.time), *_watching(deployed or [], cluster.namespace)]


async def _listed(cluster: Cluster, api: str, kind: str, query: Body, namespace: str) -> list[Body] | None:
    """In all namespaces, else in the operator's; None where neither may be read."""
    for path in (f"{api}/{kind}", f"{api}/namespaces/{namespace}/{kind}"):
        try:
            return await cluster.items(path, query)
        except GapoError:
            continue
    return None


def _leading(leases: Sequence[Body] | None, now: datetime) -> Iterator[Finding]:
    check = "operator"
    if leases is None:
        yield warn(check, "you may not read its Lease, so that nobody can tell whether one leads")
        return
    if not leases:
        yield fail(
            check,
            "no operator has ever run here: there is no Lease",
            "install the chart, see docs/cluster.md",
        )
    for lease in leases:
        spec, place = lease.get("spec") or {}, (lease.get("metadata") or {}).get("namespace")
        holder, renewed = spec.get("holderIdentity"), _time(spec.get("renewTime"))
        until = renewed + timedelta(seconds=float(spec.get("leaseDurationSeconds") or 0)) if renewed else None
        if holder and until and until >= now - timedelta(seconds=1):
            yield ok(check, f"{holder} leads (namespace {place})")
        else:
            since = f" since {renewed:%Y-%m-%d %H:%M:%S}" if renewed else ""
            yield fail(
                check,
                f"no operator leads{since} (Lease {place}/{LEASE})",
                f"kubectl get pods,events -n {place}; runs wait, and lose nothing",
            )


def _watching(deployments: Sequence[Body], namespace: str) -> Iterator[Finding]:
    check = "watched"
    watched = {}
    for one in deployments:
        metadata = one["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        watched[name] = _namespaces_of(one)
        ready, wanted = (
            (one.get("status") or {}).get("readyReplicas") or 0,
            (one.get("spec") or {}).get("replicas", 1),
        )
        if ready < wanted:
            todo = f"kubectl describe pods -n {metadata['namespace']}"
            yield warn("operator", f"{ready} of {wanted} pods of {name} are ready", todo)
    if not watched:
        yield warn(
            check, "which namespaces the operator watches cannot be seen: there is no Deployment to read"
        )
    elif any(not names or namespace in names for names in watched.values()):
        yield ok(check, f"namespace {namespace} is watched")
    else:
        listing = "; ".join(f"{name} watches {', '.join(names)}" for name, names in watched.items())
        yield fail(
            check,
            f"no operator watches namespace {namespace}: {listing}",
            "add it to the chart's watchNamespaces",
        )


def _namespaces_of(deployment: Body) -> list[str]:
    """From the operator's arguments; empty means all."""
    containers = deployment["spec"]["template"]["spec"].get("containers") or []
    arguments = [str(argument) for container in containers for argument in container.get("args") or []]
    pairs = itertools.pairwise(arguments)
    return [value for name, value in pairs if name == "--namespace"] + [
        argument.partition("=")[2] for argument in arguments if argument.startswith("--namespace=")
    ]


async def _by_its_work(cluster: Cluster) -> Finding:
    """For those who may look at nothing but their runs: has one been answered?"""
    check, path = "operator", runs_path(cluster.namespace)
    try:
        runs = await cluster.items(path)
    except GapoError:
        runs = []
    for run in runs:
        metadata, status = run["metadata"], run.get("status") or {}
        if status.get("observedGeneration") == metadata.get("generation"):
            return ok(check, f"GapoRun {metadata['name']} of this namespace was looked at by one")
    return warn(
        check, "you may not look at it, and no run of this namespace tells of it", "ask an administrator"
    )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None

"""What `gapo doctor` checks of storage: that a namespace has what the operator's configuration asks of it, and that a
location honours conditional creates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gapo.errors import GapoError, UnsafeLocationError
from gapo.local.run_location import parse_locations
from gapo.store.location import Location
from gapo.store.objects import Objects
from gapo.store.probe import probe_location
from gapo_operator.cli.client import Cluster, RefusedError
from gapo_operator.cli.doctor.finding import Finding, fail, ok, warn
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.resource_paths import core_path

NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""An object without its contents: nobody needs to see a Secret to know that it is there."""


async def in_namespace(cluster: Cluster, config: OperatorConfig) -> list[Finding]:
    """The storage locations for the cluster's namespace, and whether what their pods mount is there."""
    check, allowed = "storage", [one for one in config.storage_locations if one.allows(cluster.namespace)]
    if not allowed:
        message = f"no storage location is for namespace {cluster.namespace}"
        return [fail(check, message, "add it to a location's namespaces in the chart's values")]
    findings = [
        ok(check, f"locations for namespace {cluster.namespace}: {', '.join(one.name for one in allowed)}")
    ]
    wanted = {("serviceaccounts", name) for name in [config.trainer.service_account_name] if name}
    for one in allowed:
        wanted |= {("secrets", name) for name in [one.secret_name] if name}
        wanted |= {("configmaps", name) for name in [one.ca_config_map] if name}
    wanted |= {("secrets", name) for name in config.trainer.image_pull_secrets}
    for kind, name in sorted(wanted):
        findings.append(await _there(cluster, kind, name))
    return findings


async def _there(cluster: Cluster, kind: str, name: str) -> Finding:
    check, what = "namespace", f"{kind.removesuffix('s')} {name}"
    try:
        await cluster.get(core_path(cluster.namespace, kind, name), accept=NAMES_ONLY)
    except RefusedError as error:
        if error.status == 404:
            todo = "create it; the operator's configuration has pods of runs use it (docs/cluster.md)"
            return fail(check, f"{what} is not in namespace {cluster.namespace}", todo)
        return warn(check, f"you may not see whether {what} is in namespace {cluster.namespace}")
    except GapoError as error:
        return warn(check, str(error))
    return ok(check, f"{what} is in namespace {cluster.namespace}")


def probes(
    named: Sequence[str],
    config: OperatorConfig | None,
    namespace: str,
    endpoint: str | None,
    region: str | None,
) -> list[Finding]:
    """Creates and deletes two small objects below the namespace's prefix of each location, with the credentials of this
    machine. Raises SpecError for a location that cannot be understood."""
    return [_probe(one, namespace) for one in _locations(named, config, endpoint, region)]


def _locations(
    named: Sequence[str], config: OperatorConfig | None, endpoint: str | None, region: str | None
) -> Iterator[Location]:
    listed = {one.name: one for one in config.storage_locations} if config else {}
    for item in named:
        if item in listed:
            one = listed[item]
            yield Location(one.name, one.uri, endpoint or one.endpoint, region or one.region)
        else:
            name = item.partition("=")[0]
            yield parse_locations([item], endpoint=endpoint, region=region)[name]


def _probe(location: Location, namespace: str) -> Finding:
    check = f"location {location.name}"
    try:
        probe_location(Objects(location.open(), f"{namespace}/.gapo", where=location.uri))
    except UnsafeLocationError as error:
        return fail(check, str(error))
    except GapoError as error:
        todo = "check address, credentials in the environment, and what they may do below that prefix"
        return fail(check, f"{location.uri}, prefix {namespace}/: {error}", todo)
    return ok(check, f"{location.uri} honours conditional creates below {namespace}/")

"""kopf: watches that fill the view and wake the queue. Handlers decide nothing and write nothing.

Only event handlers: daemons, timers and delete handlers would put finalizers on objects, and change handlers
annotations; a GapoRun must be deletable with the operator gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf

from gapo_operator.kube.client import SELECTOR
from gapo_operator.kube.credentials import SERVICE_ACCOUNT, has_service_account
from gapo_operator.kube.objects import RunKey
from gapo_operator.kube.resource_paths import GROUP, PLURAL, VERSION
from gapo_operator.watch.cache import ClusterView

CLUSTER_CA = SERVICE_ACCOUNT / "ca.crt"


def watches(view: ClusterView, wake: Callable[[RunKey], None]) -> kopf.OperatorRegistry:
    """Handlers for GapoRuns, their Jobs and pods, and for refusals of the Job controller to create a pod."""
    registry = kopf.OperatorRegistry()
    resources: dict[str, tuple[str, ...]] = {
        "runs": (GROUP, VERSION, PLURAL),
        "jobs": ("batch", "v1", "jobs"),
        "pods": ("", "v1", "pods"),
    }
    for kind, resource in resources.items():
        kopf.on.event(*resource, registry=registry, id=kind)(_observer(kind, view, wake))

    async def refused(event: Any, **_: Any) -> None:
        body = event["object"]
        about = body.get("involvedObject") or {}
        if event["type"] == "DELETED" or about.get("kind") != "Job":
            return
        run = view.warn(str(about.get("namespace")), str(about.get("name")), str(body.get("message")))
        if run is not None:
            wake(run)

    kopf.on.event("", "v1", "events", registry=registry, id="refused")(refused)
    kopf.on.login(registry=registry, id="login")(login)
    return registry


def _observer(kind: str, view: ClusterView, wake: Callable[[RunKey], None]) -> Callable[..., Any]:
    async def observe(event: Any, **_: Any) -> None:
        run = view.observe(kind, dict(event["object"]), deleted=event["type"] == "DELETED")
        if run is not None:
            wake(run)

    return observe


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf compares each object with what it last knew of it, for handlers of changes. There are none, and copying
    objects for it took a quarter of the time in which runs start."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Nor of handlers that are to be tried again: an event is delivered once."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def settings() -> kopf.OperatorSettings:
    options = kopf.OperatorSettings()
    options.posting.enabled = False
    options.scanning.disabled = (
        True  # or it would watch CRDs and namespaces, for which there is no permission
    )
    options.persistence.diffbase_storage = _NoDiffs()
    options.persistence.progress_storage = _NoProgress()
    options.watching.label_selectors["jobs.batch"] = SELECTOR
    options.watching.label_selectors["pods"] = SELECTOR
    options.watching.field_selectors["events"] = "involvedObject.kind=Job,reason=FailedCreate"
    return options


def login(settings: kopf.OperatorSettings, **kwargs: Any) -> kopf.ConnectionInfo | None:
    """By address where we run in a cluster, for its DNS may not be there; else as kubectl does."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and has_service_account():
        plain = f"[{host}]" if ":" in host else host
        return kopf.ConnectionInfo(
            server=f"https://{plain}:{port}",
            ca_path=str(CLUSTER_CA) if CLUSTER_CA.is_file() else None,
            token=(SERVICE_ACCOUNT / "token").read_text().strip(),
        )
    return kopf.login_with_kubeconfig(settings=settings, **kwargs)


async def watch(
    registry: kopf.OperatorRegistry, namespaces: Sequence[str], stop: asyncio.Event, ready: asyncio.Event
) -> None:
    """Runs kopf until `stop` is set."""
    await kopf.operator(
        registry=registry,
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
        stop_flag=stop,
        ready_flag=ready,
    )

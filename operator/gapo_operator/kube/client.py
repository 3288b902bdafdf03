"""Every write to Kubernetes, and the lists that correct a broken watch. One place, so that all of it can be counted,
bounded and seen failing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio import client

from gapo.digest import digest
from gapo_operator.kube.api_server import APPLY, JSON, JSON_PATCH, MERGE, ApiServer, NoAnswerError, all_items
from gapo_operator.kube.credentials import has_service_account, load_kubeconfig, load_service_account
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.kube.resource_paths import (
    GROUP,
    PLURAL,
    VERSION,
    core_path,
    jobs_path,
    resource_path,
    runs_path,
)
from gapo_operator.operator_metrics import UNANSWERED
from gapo_operator.render.job import Manifest
from gapo_operator.render.pod_group import API_VERSION as VOLCANO
from gapo_operator.render.pod_group import owned_by_job

FIELD_MANAGER = "gapo-operator"
SELECTOR = "app.kubernetes.io/managed-by=gapo-operator"
CONCURRENCY = 16
"""Requests under way at once; the API server's own limits are per client."""
Listener = Callable[[str, str, float], None]
"""Told of each request once it is answered: verb, HTTP status as text, seconds."""
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
COLLECTIONS = (PLURAL, "jobs", "pods")


class KubeError(Exception):
    """A request that the API server refused, or did not answer. `status` is 0 where there was no answer; `reason` is
    the server's word."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class ListenedClient(client.ApiClient):
    """Tells of every request that is made through it: this module's, and those of the library's leader election."""

    def __init__(self, listener: Listener, settings: client.Configuration | None = None) -> None:
        super().__init__(settings)
        self._listener = listener

    async def call_api(self, method: str, url: str, *args: Any, **more: Any) -> Any:
        began, code = time.monotonic(), UNANSWERED
        try:
            response = await super().call_api(method, url, *args, **more)
            code = str(response.status)
            return response
        finally:
            self._listener(_verb(method, url), code, time.monotonic() - began)


def _verb(method: str, url: str) -> str:
    """As Kubernetes' roles name it."""
    if method != "GET":
        return VERBS.get(method, "other")
    return "list" if url.partition("?")[0].rpartition("/")[2] in COLLECTIONS else "get"


class NoPodGroupsError(KubeError):
    """Volcano is not installed, or the operator may not use it."""

    def __init__(self, status: int, message: str) -> None:
        hint = {
            403: "the chart's volcano.enabled lets the operator",
            404: f"install Volcano, which brings PodGroups of {VOLCANO}, or take scheduling.scheduler out",
        }[status]
        super().__init__(status, f"{message}; {hint}")


class Kube:
    """The operator's requests. Made by `connect`."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._limit = asyncio.Semaphore(CONCURRENCY)

    @property
    def api(self) -> client.ApiClient:
        """For what the library does by itself, such as leader election."""
        return self._server.api

    async def create_job(self, job: Manifest) -> Body | None:
        """The Job as the server has it; None where one of that name is there already."""
        return await self._create(jobs_path(job["metadata"]["namespace"]), job)

    async def delete_job(self, namespace: str, name: str, uid: str | None) -> None:
        """With its pods, which get their signal to stop; only the one with that uid, where one is given. No error where it is
        gone."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", jobs_path(namespace, name), body, missing_ok=True)
        except KubeError as error:
            if error.status != 409:  # another one of that name by now
                raise

    async def apply_pod_group(self, group: Manifest) -> None:
        """Raises NoPodGroupsError, as its siblings do, where the cluster has no groups, or none for us."""
        path = _pod_group_path(group["metadata"]["namespace"], group["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._send_group("PATCH", path, group, query=query, content=APPLY)

    async def own_pod_group(self, namespace: str, name: str, job_uid: str) -> None:
        """Makes a group that of the Job of its name. No error where it is gone."""
        path, patch = _pod_group_path(namespace, name), owned_by_job(name, job_uid)
        await self._send_group("PATCH", path, patch, content=MERGE, missing_ok=True)

    async def delete_pod_group(self, namespace: str, name: str) -> None:
        """No error where it is gone."""
        await self._send_group("DELETE", _pod_group_path(namespace, name), missing_ok=True)

    async def _send_group(self, method: str, path: str, body: Manifest | None = None, **more: Any) -> None:
        try:
            await self._send(method, path, body, **more)
        except KubeError as error:
            if error.status in (403, 404):
                raise NoPodGroupsError(error.status, str(error)) from None
            raise

    async def delete_run(self, key: RunKey, uid: str) -> None:
        """That very GapoRun, not one of the same name that was created meanwhile. Its Jobs go with it."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._send("DELETE", runs_path(key.namespace, key.name), body, missing_ok=True)

    async def write_status(self, key: RunKey, uid: str, status: Mapping[str, Any]) -> Body | None:
        """The object as the server has it afterwards; None where it is gone, or another one has its name."""
        path = runs_path(key.namespace, key.name) + "/status"
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            return await self._send("PATCH", path, patch, content=JSON_PATCH, missing_ok=True)
        except KubeError as error:
            if error.status == 422 and "test" in str(error):
                return None
            raise

    async def create_event(self, run: Body, kind: str, reason: str, message: str, about: str) -> None:
        """A Kubernetes event, once: the same `about` gives the same name, whoever creates it again."""
        metadata, now = run["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"{metadata['name']}.{digest([metadata['uid'], reason, about])[:16]}"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "GapoRun",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "gapo-operator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._create(core_path(metadata["namespace"], "events"), event)

    async def list_objects(self, kind: str, namespace: str | None) -> list[Body]:
        """`runs`, `jobs` or `pods` of ours; all namespaces where None."""
        path, selector = {
            "runs": (runs_path(namespace), None),
            "jobs": (jobs_path(namespace), SELECTOR),
            "pods": (core_path(namespace, "pods"), SELECTOR),
        }[kind]

        async def page(query: Mapping[str, Any]) -> Body:
            listed = await self._send("GET", path, query=query)
            assert listed is not None  # noqa: S101  (a list is never missing)
            return listed

        return await all_items(page, {"labelSelector": selector})

    async def _create(self, path: str, body: Mapping[str, Any]) -> Body | None:
        try:
            return await self._send("POST", path, body)
        except KubeError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                return None
            raise  # another 409, such as of two who count a quota at once, made nothing

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content: str = JSON,
        missing_ok: bool = False,
    ) -> dict[str, Any] | None:
        try:
            async with self._limit:
                answer = await self._server.request(method, path, body, query=query, content=content)
        except NoAnswerError as error:
            raise KubeError(0, f"the API server did not answer: {error}") from None
        if answer.status == 404 and missing_ok:
            return None
        reply = answer.body()
        if answer.status >= 400:
            message = str(reply.get("message") or f"HTTP {answer.status}")
            raise KubeError(answer.status, message, str(reply.get("reason") or ""))
        return reply


def _pod_group_path(namespace: str, name: str) -> str:
    return resource_path(f"/apis/{VOLCANO}", namespace, "podgroups", name)


@asynccontextmanager
async def connect(listener: Listener) -> AsyncIterator[Kube]:
    """By the pod's service account, whatever its image brings, else by the kubeconfig that KUBECONFIG names. Raises
    ClusterError where that cannot be used."""
    settings = client.Configuration()

    async def log_in() -> None:
        await load_kubeconfig(settings, hint="set KUBECONFIG, or run the operator in a cluster")

    in_pod = has_service_account()
    if in_pod:
        load_service_account(settings)
    else:
        await log_in()
    async with ListenedClient(listener, settings) as api:
        yield Kube(ApiServer(api, None if in_pod else log_in))

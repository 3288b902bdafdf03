"""Every write to Kubernetes, and the lists that correct a broken watch. One place, so that all of it can be counted,
bounded and seen failing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import client, config

from gapo.digest import digest
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.operator_metrics import UNANSWERED
from gapo_operator.render.job import Manifest
from gapo_operator.render.names import PREFIX
from gapo_operator.render.pod_group import API_VERSION as VOLCANO
from gapo_operator.render.pod_group import owned_by_job

GROUP, VERSION, PLURAL = PREFIX, "v1alpha1", "gaporuns"
FIELD_MANAGER = "gapo-operator"
SELECTOR = "app.kubernetes.io/managed-by=gapo-operator"
REQUEST_SECONDS = 20.0
CONCURRENCY = 16
"""Requests under way at once; the API server's own limits are per client."""
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


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

    def __init__(self, listener: Listener) -> None:
        super().__init__()
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

    def __init__(self, api: client.ApiClient) -> None:
        self.api = api
        self._limit = asyncio.Semaphore(CONCURRENCY)

    async def create_job(self, job: Manifest) -> Body | None:
        """The Job as the server has it; None where one of that name is there already."""
        path = f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs"
        return await self._create(path, job)

    async def delete_job(self, namespace: str, name: str, uid: str | None) -> None:
        """With its pods, which are told to stop; only the one with that uid, where one is given. No error where it is
        gone."""
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", path, body, missing_ok=True)
        except KubeError as error:
            if error.status != 409:  # another one of that name by now
                raise

    async def apply_pod_group(self, group: Manifest) -> None:
        """Raises NoPodGroupsError, as its siblings do, where the cluster has no groups, or none for us."""
        path = _pod_group_path(group["metadata"]["namespace"], group["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._send_group("PATCH", path, group, query=query, content="application/apply-patch+yaml")

    async def own_pod_group(self, namespace: str, name: str, job_uid: str) -> None:
        """Makes a group that of the Job of its name. No error where it is gone."""
        path, patch = _pod_group_path(namespace, name), owned_by_job(name, job_uid)
        await self._send_group("PATCH", path, patch, content="application/merge-patch+json", missing_ok=True)

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
        """That very GapoRun, not one of the same name that was made meanwhile. Its Jobs go with it."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}"
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._send("DELETE", path, body, missing_ok=True)

    async def write_status(self, key: RunKey, uid: str, status: Mapping[str, Any]) -> Body | None:
        """The object as the server has it afterwards; None where it is gone, or another one has its name."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}/status"
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            return await self._send(
                "PATCH", path, patch, content="application/json-patch+json", missing_ok=True
            )
        except KubeError as error:
            if error.status == 422 and "test" in str(error):
                return None
            raise

    async def tell(self, run: Body, kind: str, reason: str, message: str, about: str) -> None:
        """A Kubernetes event, once: the same `about` gives the same name, whoever tells it again."""
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
        await self._create(f"/api/v1/namespaces/{metadata['namespace']}/events", event)

    async def list_objects(self, kind: str, namespace: str | None) -> list[Body]:
        """`runs`, `jobs` or `pods` of ours; all namespaces where None."""
        within = f"/namespaces/{namespace}" if namespace else ""
        path, selector = {
            "runs": (f"/apis/{GROUP}/{VERSION}{within}/{PLURAL}", None),
            "jobs": (f"/apis/batch/v1{within}/jobs", SELECTOR),
            "pods": (f"/api/v1{within}/pods", SELECTOR),
        }[kind]
        found: list[Body] = []
        query = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._send("GET", path, query=query)
            assert page is not None  # noqa: S101  (a list is never missing)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

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
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        missing_ok: bool = False,
    ) -> dict[str, Any] | None:
        headers = {"Accept": "application/json", "Content-Type": content}
        try:
            async with self._limit, asyncio.timeout(REQUEST_SECONDS):
                request = await self.api.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params=headers,
                    body=body,
                    auth_settings=["BearerToken"],
                )
                response = await self.api.call_api(*request)
                data = await response.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, OSError, ClientError) as error:
            raise KubeError(0, f"the API server did not answer: {error or 'timeout'}") from None
        try:
            answer = json.loads(data or b"{}")
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if response.status == 404 and missing_ok:
            return None
        if response.status >= 400:
            said = str(answer.get("message") or f"HTTP {response.status}")
            raise KubeError(response.status, said, str(answer.get("reason") or ""))
        return answer


def _pod_group_path(namespace: str, name: str) -> str:
    return f"/apis/{VOLCANO}/namespaces/{namespace}/podgroups/{name}"


@asynccontextmanager
async def connect(listener: Listener) -> AsyncIterator[Kube]:
    """By the pod's service account, else by the kubeconfig that KUBECONFIG names."""
    if IN_CLUSTER.is_file():
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
    async with ListenedClient(listener) as api:
        yield Kube(api)

"""Requests to the API server as the user who types the command may make them, and what its refusals mean."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import typer

from gapo.cli.options import Where
from gapo.errors import ClusterError, GapoError, RetryableError
from gapo_operator.kube.api_server import (
    JSON,
    REQUEST_SECONDS,
    Answer,
    ApiServer,
    NoAnswerError,
    all_items,
    connection_errors,
    json_object,
)
from gapo_operator.kube.credentials import (
    SERVICE_ACCOUNT,
    has_service_account,
    load_kubeconfig,
    load_service_account,
)
from gapo_operator.kube.objects import Body
from gapo_operator.kube.resource_paths import GROUP

T = TypeVar("T")

SILENCE_SECONDS = 60.0
"""A watch is asked for this long and then anew: a connection that died unnoticed is left in good time."""
INTERRUPTED = 130
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNKNOWN_FIELD = "field not declared in schema"
"""Words of an apply whose field the definition lacks; they come with 500, as if the server were to blame."""
NOT_INSTALLED = (
    "this cluster knows no GapoRuns (gapo.dev/v1alpha1); install gapo's chart, or have an administrator run "
    "`kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml`"
)


class RefusedError(ClusterError):
    """A request that the API server refused, with its status and its answer."""

    def __init__(self, message: str, status: int, answer: Body) -> None:
        super().__init__(message)
        self.status, self.answer = status, answer

    def causes(self) -> list[Mapping[str, str]]:
        """What is wrong, one mapping with reason, message and field each."""
        return list((self.answer.get("details") or {}).get("causes") or [])


class Cluster:
    """An API server. Made by `connect`."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server, self.namespace = server, namespace
        self.time = datetime.now(UTC)
        """The API server's clock at its last answer."""

    @property
    def server(self) -> str:
        return self._server.address

    async def get(self, path: str, query: Body | None = None, *, accept: str = JSON) -> Body:
        return await self.send("GET", path, query=query, accept=accept)

    async def find(self, path: str, query: Body | None = None) -> Body | None:
        """None where there is no such object; a kind that the cluster does not know stays an error."""
        try:
            return await self.get(path, query)
        except RefusedError as error:
            if error.status == 404 and (error.answer.get("details") or {}).get("name"):
                return None
            raise

    async def items(self, path: str, query: Body | None = None) -> list[Body]:
        """All objects of a list, however many pages it has."""
        return await all_items(lambda page_query: self.get(path, page_query), query or {})

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Body | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Body:
        """Raises RefusedError, or RetryableError where no usable answer comes."""
        try:
            answer = await self._server.request(
                method, path, body, query=query, content=content, accept=accept
            )
        except NoAnswerError as error:
            raise _unreachable(self.server, str(error)) from None
        return self._accepted(answer, path)

    async def lines(
        self, path: str, query: Body | None = None, *, silence: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """An endless answer line by line, each with its end; what is there comes at once.

        Raises RetryableError where the connection is lost, and where nothing came for `silence` seconds.
        """
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, connect=REQUEST_SECONDS, sock_read=silence)
        try:
            response = await self._server.open("GET", path, query=query, accept="*/*", limit=limit)
        except NoAnswerError as error:
            raise _unreachable(self.server, str(error)) from None
        try:
            if response.status >= 400:
                self._accepted(Answer(response.status, response.headers, await response.read()), path)
            rest = b""
            async for chunk in response.response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line + b"\n"
            if rest:
                yield rest
        except connection_errors() as error:
            raise RetryableError(f"the connection to {self.server} was lost: {error or 'timeout'}") from None
        finally:
            response.response.close()

    async def watch(self, path: str, query: Body, version: str) -> AsyncGenerator[tuple[str, Body], None]:
        """Changes after a resource version, until the server ends the watch."""
        watch_query = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(SILENCE_SECONDS)),
        }
        async with aclosing(
            self.lines(path, watch_query, silence=SILENCE_SECONDS + REQUEST_SECONDS)
        ) as lines:
            async for line in lines:
                event = _parsed(line)
                yield str(event.get("type")), event.get("object") or {}

    def _accepted(self, answer: Answer, path: str) -> Body:
        """The answer's object. Raises what `refusal` makes of any status of 400 or more."""
        date = answer.headers.get("Date")
        if date:
            self.time = parsedate_to_datetime(date)
        body = _parsed(answer.data)
        if answer.status >= 400:
            raise refusal(answer.status, body, path, _plain(answer.data.decode(errors="replace").strip()))
        return body


def _parsed(data: bytes) -> dict[str, Any]:
    """An object; {} for any other value. Pods write into messages: what would steer a terminal is taken out."""
    parsed: dict[str, Any] = _plain(json_object(data))
    return parsed


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub("", value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def refusal(status: int, answer: Body, path: str, text: str) -> GapoError:
    """An answer of 400 or more as an error that says what to do."""
    message = str(answer.get("message") or text or f"HTTP {status}")
    details = answer.get("details") or {}
    if (status == 429 or status >= 500) and UNKNOWN_FIELD not in message:
        return RetryableError(f"the API server cannot answer now: {message}")
    if status == 401:
        message = "the API server does not know you; log in to the cluster again, or choose another --context"
    elif status == 403 and "forbidden" in message.lower() and answer.get("reason") == "Forbidden":
        message += "; ask an administrator, or choose another namespace by -n"
    elif status == 404 and not answer and path.startswith(f"/apis/{GROUP}/"):
        message = NOT_INSTALLED
    elif status == 404 and details.get("kind") == "gaporuns":
        message = f"there is no GapoRun {details.get('name')} in namespace {_namespace_in(path)}"
    elif status == 404 and details.get("kind") == "namespaces":
        message = f"there is no namespace {details.get('name')}; create it, or choose another by -n"
    return RefusedError(message, status, answer)


def _namespace_in(path: str) -> str:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""


@asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Cluster]:
    """By the kubeconfig as kubectl chooses it; inside a pod without one, by its service account."""
    try:
        from kubernetes.aio import client
    except ImportError:
        raise ClusterError(
            "commands for a cluster need more libraries: pip install 'gapo[operator]'"
        ) from None
    settings = client.Configuration()

    async def log_in() -> str:
        hint = "give --kubeconfig FILE, or run gapo where kubectl works"
        return await load_kubeconfig(settings, where.kubeconfig, where.context, hint=hint)

    as_pod = where.kubeconfig is None and _without_kubeconfig() and has_service_account()
    if as_pod:
        load_service_account(settings)
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    else:
        namespace = await log_in()
    async with client.ApiClient(configuration=settings) as api:
        yield Cluster(ApiServer(api, None if as_pod else log_in), where.namespace or namespace)


def _without_kubeconfig() -> bool:
    """Whether kubectl would come as the pod that it runs in."""
    return "KUBECONFIG" not in os.environ and not Path("~/.kube/config").expanduser().is_file()


def _unreachable(server: str, why: str) -> RetryableError:
    return RetryableError(
        f"the API server {server} does not answer: {why}; check the cluster, or choose another by --context"
    )


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work; Ctrl-C ends it with 130 and no further word."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None

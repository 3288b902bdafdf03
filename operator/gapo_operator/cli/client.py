"""Requests to the API server as the user who types the command may make them, and what its refusals mean."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gapo.api.run import API_VERSION
from gapo.cli.options import Where
from gapo.errors import ClusterError, GapoError, NoClusterError, RetryableError

if TYPE_CHECKING:
    from kubernetes.aio import client

T = TypeVar("T")
Body = Mapping[str, Any]

GROUP, VERSION = API_VERSION.split("/")
REQUEST_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""A watch is asked for this long and then anew: a connection that died unnoticed is left in good time."""
INTERRUPTED = 130
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNKNOWN_FIELD = "field not declared in schema"
"""Words of an apply whose field the definition lacks; they come with 500, as if the server were to blame."""
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
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

    def __init__(self, api: client.ApiClient, where: Where, namespace: str) -> None:
        self._api, self._where, self.namespace = api, where, namespace
        self.time = datetime.now(UTC)
        """The API server's clock at its last answer."""

    @property
    def server(self) -> str:
        return str(self._api.configuration.host)

    async def get(self, path: str, query: Body | None = None, *, accept: str = "application/json") -> Body:
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
        found: list[Body] = []
        asked = {"limit": "500", **(query or {})}
        while True:
            page = await self.get(path, asked)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            asked["continue"] = token

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Body | None = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        """Raises RefusedError, or RetryableError where no usable answer comes."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._open(method, path, body, query, content, accept)
                data = await response.read()
        except TimeoutError:
            raise _unreachable(self.server, f"no answer within {REQUEST_SECONDS:.0f} s") from None
        return self._judged(response, data, path)

    async def lines(
        self, path: str, query: Body | None = None, *, silence: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """An endless answer line by line, each with its end; what is there comes at once.

        Raises RetryableError where the connection is lost, and where nothing came for `silence` seconds.
        """
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, connect=REQUEST_SECONDS, sock_read=silence)
        response = await self._open("GET", path, None, query, "application/json", "*/*", limit)
        try:
            if response.status >= 400:
                self._judged(response, await response.read(), path)
            rest = b""
            async for chunk in response.response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line + b"\n"
            if rest:
                yield rest
        except (OSError, _client_error()) as error:
            raise RetryableError(f"the connection to {self.server} was lost: {error or 'timeout'}") from None
        finally:
            response.response.close()

    async def watch(self, path: str, query: Body, version: str) -> AsyncGenerator[tuple[str, Body], None]:
        """Changes after a resource version, until the server ends the watch."""
        asked = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(SILENCE_SECONDS)),
        }
        async with aclosing(self.lines(path, asked, silence=SILENCE_SECONDS + REQUEST_SECONDS)) as lines:
            async for line in lines:
                event = _parsed(line)
                yield str(event.get("type")), event.get("object") or {}

    async def _open(
        self,
        method: str,
        path: str,
        body: Any,
        query: Body | None,
        content: str,
        accept: str,
        limit: Any = None,
    ) -> Any:
        try:
            response = None
            for again in (False, True):
                request = await self._api.param_serialize(
                    method,
                    path,
                    query_params=[
                        (name, value) for name, value in (query or {}).items() if value is not None
                    ],
                    header_params={"Accept": accept, "Content-Type": content},
                    body=body,
                    auth_settings=["BearerToken"],
                )
                response = await self._api.call_api(*request, _request_timeout=limit)
                if response.status != 401 or again:
                    break
                await self._log_in_again()
        except (OSError, _client_error()) as error:
            raise _unreachable(self.server, str(error) or type(error).__name__) from None
        return response

    async def _log_in_again(self) -> None:
        """Tokens that a login program gives are short-lived."""
        if self._where.kubeconfig is not None or not _in_cluster():
            await _load(self._where, self._api.configuration)

    def _judged(self, response: Any, data: bytes, path: str) -> Body:
        said = response.headers.get("Date")
        if said:
            self.time = parsedate_to_datetime(said)
        try:
            answer = _parsed(data or b"{}")
        except ValueError:
            answer = {}
        if response.status >= 400:
            raise refusal(response.status, answer, path, _plain(data.decode(errors="replace").strip()))
        return answer


def _parsed(data: bytes) -> dict[str, Any]:
    """An object; {} for any other value. Pods write into messages: what would steer a terminal is taken out."""
    value = _plain(json.loads(data))
    return value if isinstance(value, dict) else {}


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


def runs_path(namespace: str, name: str = "") -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/gaporuns" + (f"/{name}" if name else "")


def core_path(namespace: str, kind: str, name: str = "") -> str:
    """Of pods, events and other objects of the core group."""
    return f"/api/v1/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


@asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Cluster]:
    """By the kubeconfig as kubectl chooses it; inside a pod without one, by its service account."""
    try:
        from kubernetes.aio import client, config
    except ImportError:
        raise ClusterError(
            "commands for a cluster need more libraries: pip install 'gapo[operator]'"
        ) from None
    settings = client.Configuration()
    if where.kubeconfig is None and _in_cluster():
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        namespace = (ACCOUNT / "namespace").read_text().strip()
    else:
        namespace = await _load(where, settings)
    async with client.ApiClient(configuration=settings) as api:
        yield Cluster(api, where, where.namespace or namespace)


async def _load(where: Where, settings: client.Configuration) -> str:
    """Fills in address and credentials; returns the context's namespace."""
    from kubernetes.aio import config
    from yaml import YAMLError

    named = str(where.kubeconfig) if where.kubeconfig else os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(part).expanduser().is_file() for part in named.split(os.pathsep) if part):
        raise NoClusterError(
            f"no kubeconfig at {named}; give --kubeconfig FILE, or run gapo where kubectl works"
        )
    try:
        loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=named, context=where.context, client_configuration=settings, persist_config=False
        )
    except config.ConfigException as error:
        asked = f"context {where.context!r}: " if where.context else ""
        raise ClusterError(f"{named}: {asked}{error}") from None
    except (YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterError(f"{named}: not a kubeconfig: {' '.join(str(error).split())}") from None
    context = loader.current_context["context"]
    return str(context.get("namespace") or "default")


def _in_cluster() -> bool:
    """Whether to come as the pod that this runs in, as kubectl does where there is no kubeconfig."""
    return (
        "KUBECONFIG" not in os.environ
        and not Path("~/.kube/config").expanduser().is_file()
        and (ACCOUNT / "token").is_file()
    )


def _client_error() -> type[Exception]:
    from aiohttp import ClientError

    return ClientError


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

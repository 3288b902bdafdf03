"""Requests to an API server, the operator's and the commands': how long an answer may take, what it holds, lists of
many pages.

What a refusal means is for each of them to say: the operator tells what passes by itself from what a person has to put
right (`kube/client.py`), a command says what its user can do (`cli/client.py`). The library is not imported here, for
commands that talk to no cluster import this module too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gapo_operator.kube.objects import Body

if TYPE_CHECKING:
    from kubernetes.aio import client

REQUEST_SECONDS = 20.0
PAGE_ITEMS = 500
JSON = "application/json"
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class NoAnswerError(Exception):
    """The API server could not be reached, or did not answer in time; the message says which."""


@dataclass(frozen=True)
class Answer:
    """What the API server replied, a refusal included."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    def body(self) -> dict[str, Any]:
        return json_object(self.data)


class ApiServer:
    """An API server, over a connection that its user opens and closes."""

    def __init__(self, api: client.ApiClient, log_in: Callable[[], Awaitable[object]] | None = None) -> None:
        """`log_in` replaces credentials that the server does not know any more: those of login programs live shortly."""
        self.api, self._log_in = api, log_in

    @property
    def address(self) -> str:
        return str(self.api.configuration.host)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Answer:
        """Raises NoAnswerError."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self.open(method, path, body, query=query, content=content, accept=accept)
                data = await response.read()
        except TimeoutError:
            raise NoAnswerError(f"no answer within {REQUEST_SECONDS:.0f} s") from None
        except connection_errors() as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None
        return Answer(response.status, response.headers, data)

    async def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        content: str = JSON,
        accept: str = JSON,
        limit: Any = None,
    ) -> Any:
        """The library's response, of which nothing but the head is read; `limit` is aiohttp's. Raises NoAnswerError."""
        try:
            response = await self._call(method, path, body, query, content, accept, limit)
            if response.status == 401 and self._log_in is not None:
                await self._log_in()
                response = await self._call(method, path, body, query, content, accept, limit)
        except connection_errors() as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None
        return response

    async def _call(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, Any] | None,
        content: str,
        accept: str,
        limit: Any,
    ) -> Any:
        request = await self.api.param_serialize(
            method,
            path,
            query_params=[(name, value) for name, value in (query or {}).items() if value is not None],
            header_params={"Accept": accept, "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self.api.call_api(*request, _request_timeout=limit)


def json_object(data: bytes) -> dict[str, Any]:
    """{} for anything else, such as what a proxy on the way says."""
    try:
        value = json.loads(data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def all_items(
    get_page: Callable[[Mapping[str, Any]], Awaitable[Body]], query: Mapping[str, Any]
) -> list[Body]:
    """All objects of a list, however many pages it has."""
    items: list[Body] = []
    page_query = {"limit": str(PAGE_ITEMS), **query}
    while True:
        page = await get_page(page_query)
        items += page.get("items") or []
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return items
        page_query["continue"] = token


def connection_errors() -> tuple[type[Exception], ...]:
    """What the library raises where the connection fails, or ends before the answer does."""
    from aiohttp import ClientError

    return OSError, ClientError

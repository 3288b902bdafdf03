"""Objects as they change, by list and watch: what `--watch`, `--wait` and `logs -f` stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from gapo.errors import GapoError, RetryableError
from gapo_operator.cli.client import Cluster, RefusedError
from gapo_operator.kube.objects import Body

LOST_SECONDS = 60.0
"""How long the API server may be away before following it ends."""
PAUSE_SECONDS = 1.0


class Source(NamedTuple):
    """A list to follow. Where it may be missing, a user without the right to read it gets an empty one."""

    path: str
    query: Mapping[str, Any]
    optional: bool = False


Look = Callable[[Mapping[str, Sequence[Body]]], Awaitable[bool]]
"""Gets every source's objects by the source's name; says whether that is enough."""


async def read(cluster: Cluster, source: Source) -> list[Body]:
    """The list once."""
    try:
        return await cluster.items(source.path, source.query)
    except RefusedError as error:
        if source.optional and error.status == 403:
            return []
        raise


async def follow_all(cluster: Cluster, sources: Mapping[str, Source], look: Look) -> None:
    """Calls `look` once all sources are read, and again after each change, until it returns True.

    Raises what a source's first reading raises, and RetryableError where the API server is away for too long.
    """
    changes: asyncio.Queue[tuple[str, list[Body] | GapoError]] = asyncio.Queue()

    async def pour(name: str, source: Source) -> None:
        try:
            async with aclosing(follow(cluster, source)) as lists:
                async for objects in lists:
                    await changes.put((name, objects))
        except GapoError as error:
            await changes.put((name, error))

    tasks = [asyncio.create_task(pour(name, source)) for name, source in sources.items()]
    objects_by_source: dict[str, list[Body]] = {}
    try:
        while True:
            name, objects = await changes.get()
            if isinstance(objects, GapoError):
                raise objects
            objects_by_source[name] = objects
            if len(objects_by_source) == len(sources) and await look(objects_by_source):
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def follow(cluster: Cluster, source: Source) -> AsyncGenerator[list[Body], None]:
    """The list, anew at each change. A watch that ends or breaks begins again with a list."""
    loop = asyncio.get_running_loop()
    answered = None
    while True:
        try:
            listed = await cluster.get(source.path, source.query)
            answered = loop.time()
            objects = {_key(body): body for body in listed.get("items") or []}
            yield list(objects.values())
            version = str((listed.get("metadata") or {}).get("resourceVersion", ""))
            async with aclosing(cluster.watch(source.path, source.query, version)) as events:
                async for kind, body in events:
                    answered = loop.time()
                    if kind == "ERROR":
                        break  # the version is too old, most of the time
                    if kind == "DELETED":
                        objects.pop(_key(body), None)
                    elif kind in ("ADDED", "MODIFIED"):
                        objects[_key(body)] = body
                    yield list(objects.values())
            await asyncio.sleep(PAUSE_SECONDS)  # who ends every watch at once is not asked without a pause
        except RetryableError:
            if answered is None or loop.time() - answered > LOST_SECONDS:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
        except RefusedError as error:
            if not (source.optional and error.status == 403):
                raise
            yield []
            await asyncio.Event().wait()


def _key(body: Body) -> str:
    return str((body.get("metadata") or {}).get("uid", ""))

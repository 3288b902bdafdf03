"""A proxy in front of a rollout server that fails when it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

Forward = Callable[[], Awaitable[web.Response]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
"""Answers a request in the server's place; calling `forward` asks the server."""


class FaultProxy:
    """Listens on a port of this machine; everything is forwarded until `fault` is set."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: Fault | None = None
        self.paths: list[str] = []
        """Of all requests so far."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def fail(self, path: str, fault: Fault, times: int | None = None) -> None:
        """From now on requests of a path are answered by `fault`, as often as said."""
        left = [times]

        async def decide(request: web.Request, forward: Forward) -> web.StreamResponse:
            if request.path != path or left[0] == 0:
                return await forward()
            if left[0] is not None:
                left[0] -= 1
            return await fault(request, forward)

        self.fault = decide

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def _serve(self) -> None:
        # What hangs is cancelled at the end: a task that is only forgotten is told of by whatever collects it.
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as self._session:
            self._ready.set()
            await self._ended.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        body = await request.read()

        async def forward() -> web.Response:
            headers = {
                k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")
            }
            url = self.upstream + request.path_qs
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                content = await answer.read()
                return web.Response(status=answer.status, body=content, content_type=answer.content_type)

        try:
            return await forward() if self.fault is None else await self.fault(request, forward)
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"{self.upstream}: {error!r}")


async def error_500(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    return web.Response(status=500, text="the engine is dead")


async def hang(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def break_off(request: web.Request, _forward: Forward) -> web.StreamResponse:
    """As a server does that dies while it answers."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def pretend(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Says that it has done what it has not."""
    return web.json_response({"message": "done"})

"""`/livez`, `/readyz` and `/metrics` over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

BEAT_SECONDS = 1.0
STUCK_SECONDS = 30.0
"""A loop that has not come round for so long is stuck."""


class Health:
    """Liveness is the event loop's own heartbeat; an API server that does not answer fails readiness alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self.watching = False
        """The watches have listed what there is."""
        self.unreachable: str | None = None
        """Why the API server could not be used at the last try."""

    def beat(self) -> None:
        self._beat = self._clock()

    def live(self) -> str | None:
        """None, or what is wrong."""
        silent = self._clock() - self._beat
        return None if silent < STUCK_SECONDS else f"the event loop has been stuck for {silent:.0f} s"

    def ready(self) -> str | None:
        if not self.watching:
            return self.unreachable or "the watches are not established yet"
        return self.unreachable


@asynccontextmanager
async def serve_health(health: Health, port: int) -> AsyncIterator[None]:
    async def livez(_: web.Request) -> web.Response:
        return _answer(health.live())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.ready())

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz)])
    async with _listening(app, port):
        yield


@asynccontextmanager
async def serve_metrics(exposed: Callable[[], bytes], port: int) -> AsyncIterator[None]:
    """`exposed` gives what a scrape is answered with, in Prometheus' text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposed(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    async with _listening(app, port):
        yield


@asynccontextmanager
async def _listening(app: web.Application, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()


def _answer(problem: str | None) -> web.Response:
    return web.Response(text="ok\n") if problem is None else web.Response(status=503, text=f"{problem}\n")

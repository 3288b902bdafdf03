"""A queue of keys, each due at some time, each handled by one task at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """`add` makes a key due; `run` calls the handler for keys that are, each in a task of its own.

    A key that is added while it is handled comes again afterwards; of several times the earliest counts. Bounding
    how much runs at once is the handler's business: one that waits for a slow storage service must hold up no other.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`waited` is called when a key's handling begins, with the seconds for which it has been due."""
        self._clock, self._waited = clock, waited
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._busy: set[K] = set()
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait, due or not."""
        return len(self._due)

    @property
    def active(self) -> int:
        """Keys that are being handled."""
        return len(self._busy)

    def add(self, key: K, after: float = 0.0) -> None:
        """Makes the key due in `after` seconds, or earlier where it is already."""
        at = self._clock() + after
        due = self._due.get(key)
        if due is not None and due <= at:
            return
        self._due[key] = at
        heapq.heappush(self._heap, (at, next(self._order), key))
        self._changed.set()

    async def run(self, handle: Callable[[K], Awaitable[None]]) -> None:
        """Until cancelled; tasks that run then are cancelled too. `handle` must not raise."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for key, due in self._take():
                    tasks.create_task(self._handle(key, due, handle))
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), self._until_next())
                except TimeoutError:
                    continue

    async def _handle(self, key: K, due: float, handle: Callable[[K], Awaitable[None]]) -> None:
        self._waited(self._clock() - due)
        try:
            await handle(key)
        finally:
            self._busy.discard(key)
            if key in self._due:
                heapq.heappush(self._heap, (self._due[key], next(self._order), key))
            self._changed.set()

    def _take(self) -> list[tuple[K, float]]:
        """The keys that are due and not being handled, with the time since which they are due."""
        ready, now = [], self._clock()
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) != at or key in self._busy:
                continue  # superseded, or looked at again once it is no longer handled
            del self._due[key]
            self._busy.add(key)
            ready.append((key, at))
        return ready

    def _until_next(self) -> float | None:
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

"""Does the location honour conditional creates? Where it does not, two writers would both win
(docs/contracts/storage.md#unsafe-stores)."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from gapo.errors import StoreError, UnsafeLocationError
from gapo.store.objects import Objects

RACERS = 8


def probe_location(objects: Objects, token: str | None = None) -> None:
    """Creates one object twice and races eight writers for another; removes both again.

    Raises UnsafeLocationError unless the second create is refused and exactly one racer wins, StoreError where the
    location cannot be written at all. `token` names the probe's objects; random if None.
    """
    token = token or uuid.uuid4().hex
    twice, race = f".probe/{token}-twice", f".probe/{token}-race"
    first = objects.create_or_read(twice, b"first")  # where this fails there is nothing to remove
    try:
        second = objects.create(twice, b"second")
        if second or first != b"first" or objects.get(twice) != b"first":
            raise _unsafe(objects, "a second create of the same object replaced the first")
        racers = [f"racer {number}".encode() for number in range(RACERS)]
        start = threading.Barrier(RACERS)

        def run(mine: bytes) -> bool:
            start.wait()
            return objects.create_or_read(race, mine) == mine

        with ThreadPoolExecutor(RACERS) as pool:
            winners = sum(pool.map(run, racers))
        if winners != 1:
            raise _unsafe(objects, f"{winners} of {RACERS} simultaneous creates of one object succeeded")
    finally:
        # What went wrong above matters more than a leftover of a few bytes.
        with suppress(StoreError):
            objects.delete(twice)
            objects.delete(race)


def _unsafe(objects: Objects, what: str) -> UnsafeLocationError:
    return UnsafeLocationError(
        f"storage location {objects.where} ignores conditional creates (If-None-Match): {what}; two attempts could"
        " both commit there, so runs do not start; use a store, or a version of it, that supports them"
    )

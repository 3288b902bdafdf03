"""Storage locations as the operator uses them: opened with its own credentials, a few requests at a time, and left
alone for a while when they fail."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from obstore.store import ObjectStore

from gapo.digest import digest, sha256_hex
from gapo.errors import GapoError, LocationInvalidError, StoreError, StoreRefusedError
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.probe import probe_location
from gapo_operator.config import StorageLocation
from gapo_operator.operator_metrics import OperatorMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

CONCURRENCY = 8
"""Passes that may talk to one location at once."""
READERS = 4
"""Beside them, works that only read: a restart's passes may take long, and dashboards are not to wait for them."""
READ_TIMEOUT = timedelta(seconds=10)
RETRY_FOR = timedelta(seconds=5)
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
"""How long a location that failed is left alone: doubled from failure to failure."""


FILES_OF_THE_ENVIRONMENT = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT")
"""Variables that name a file of credentials which the client reads once, when it is made; tokens of a pod's identity it
reads again by itself."""


class PausedError(StoreError):
    """The location failed a moment ago, and why; nothing was sent. `retry_after` is in seconds."""

    def __init__(self, error: StoreError, retry_after: float) -> None:
        super().__init__(str(error))
        self.reason = error.reason  # type: ignore[misc]
        self.retry_after = retry_after


@dataclass
class _Opened:
    location: StorageLocation
    pool: ThreadPoolExecutor
    readers: ThreadPoolExecutor
    store: ObjectStore = field(init=False)
    """Not there for as long as it could not be opened at all."""
    files: str = ""
    """Digest of the files that its credentials and its certificate were read from."""
    probed: bool = False
    failures: int = 0
    paused_until: float = 0.0
    last_error: StoreError = field(default_factory=StoreError)
    unusable: GapoError | None = None
    """Why it could not be opened with what its files say now."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class StoragePool:
    """Opens each location once, and again where `refresh` finds other keys. Used from one event loop."""

    def __init__(
        self,
        credentials: Path | None = None,
        authorities: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        metrics: OperatorMetrics | None = None,
    ) -> None:
        self._credentials, self._authorities, self._clock = credentials, authorities, clock
        self._metrics = metrics or OperatorMetrics()
        self._metrics.paused.set_function(self.paused)
        self._opened: dict[str, _Opened] = {}

    def paused(self) -> int:
        """How many locations are left alone just now."""
        now = self._clock()
        return sum(opened.paused_until > now for opened in list(self._opened.values()))

    def refresh(self) -> bool:
        """Opens locations anew whose files have changed, as a mounted Secret's do when it is rotated. True where any
        was: what was refused may be allowed now. Work that is under way goes on with the keys that it has."""
        changed = [one for one in self._opened.values() if self._digest(one.location) != one.files]
        for opened in changed:
            log.info(
                "storage location %s: its credentials or its certificate have changed", opened.location.name
            )
            self._reopen(opened, opened.location)
        return bool(changed)

    async def call(
        self, location: StorageLocation, prefix: str, work: Callable[[Objects], T], *, writes: bool = True
    ) -> T:
        """Runs `work` in one of the location's threads over the objects below `prefix`.

        Raises what `work` raises, PausedError while the location is left alone, UnsafeLocationError where the
        location ignores conditional creates, which is looked at before the first work that writes.
        """
        opened = self._open(location)
        self._check(opened)
        loop = asyncio.get_running_loop()
        try:
            if writes:
                await self._probe(opened, prefix)
            asked = time.monotonic()
            pool = opened.pool if writes else opened.readers
            result = await loop.run_in_executor(pool, lambda: self._work(opened, prefix, work, asked))
        except (PausedError, StoreRefusedError):
            # What is refused may be refused to this run's folder alone: no other has to wait for that.
            raise
        except StoreError as error:
            self._pause(opened, error)
            raise
        opened.failures = 0
        return result

    async def _probe(self, opened: _Opened, prefix: str) -> None:
        async with opened.lock:
            self._check(opened)  # others waited here for a probe that failed
            if not opened.probed:
                loop, root = asyncio.get_running_loop(), self._objects(opened, f"{prefix}/.gapo")
                await loop.run_in_executor(opened.pool, probe_location, root)
                opened.probed = True

    def _objects(self, opened: _Opened, prefix: str) -> Objects:
        listener = self._metrics.store_request
        return Objects(opened.store, prefix, where=opened.location.name, listener=listener)

    def _check(self, opened: _Opened) -> None:
        left = opened.paused_until - self._clock()
        if left > 0:
            raise PausedError(opened.last_error, left)

    def _work(self, opened: _Opened, prefix: str, work: Callable[[Objects], T], asked: float) -> T:
        self._metrics.store_waits.observe(time.monotonic() - asked)
        self._check(opened)  # it may have failed while this waited for a thread
        return work(self._objects(opened, prefix))

    def close(self) -> None:
        """Waits for no thread: what is being written is safe to cut short."""
        for opened in self._opened.values():
            for pool in (opened.pool, opened.readers):
                pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, location: StorageLocation) -> _Opened:
        opened = self._opened.get(location.name)
        if opened is None:
            pool = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix=f"store-{location.name}")
            readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"read-{location.name}")
            opened = self._opened[location.name] = _Opened(location, pool, readers)
            self._reopen(opened, location)
        elif opened.location != location:
            self._reopen(opened, location)
        if opened.unusable is not None:
            raise opened.unusable
        return opened

    def _reopen(self, opened: _Opened, location: StorageLocation) -> None:
        """What was learnt of an address holds for that address, and a failure for the keys that it was met with."""
        opened.probed = opened.probed and opened.location.address == location.address
        opened.location, opened.files, opened.unusable = location, self._digest(location), None
        opened.failures, opened.paused_until = 0, 0.0
        try:
            opened.store = self._store(location)
        except GapoError as error:
            opened.unusable = error

    def _store(self, location: StorageLocation) -> ObjectStore:
        authority = self._authority(location)
        return open_location(
            location.uri,
            endpoint=location.endpoint,
            region=location.region,
            ca_file=authority if authority and authority.is_file() else None,
            read_timeout=READ_TIMEOUT,
            retry_for=RETRY_FOR,
            options=self._keys(location),
        )

    def _authority(self, location: StorageLocation) -> Path | None:
        return self._authorities / location.name / "ca.crt" if self._authorities else None

    def _digest(self, location: StorageLocation) -> str:
        """Of every file that opening the location reads."""
        named = [Path(os.environ[name]) for name in FILES_OF_THE_ENVIRONMENT if os.environ.get(name)]
        authority = self._authority(location)
        files = [*self._key_files(location), *([authority] if authority else []), *named]
        return digest([[str(path), _content(path)] for path in files])

    def _key_files(self, location: StorageLocation) -> list[Path]:
        folder = self._credentials / location.name if self._credentials else None
        if folder is None or not folder.is_dir():
            return []
        return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]

    def _keys(self, location: StorageLocation) -> dict[str, str]:
        """The operator's credentials for a location, one file a setting, as a mounted Secret has them."""
        try:
            return {path.name.lower(): path.read_text().strip() for path in self._key_files(location)}
        except (OSError, UnicodeDecodeError) as error:
            raise LocationInvalidError(f"credentials for storage location {location.name}: {error}") from None

    def _pause(self, opened: _Opened, error: StoreError) -> None:
        opened.failures += 1
        opened.last_error = error
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(opened.failures - 1, 10))
        opened.paused_until = self._clock() + pause * random.uniform(0.8, 1.2)


def _content(path: Path) -> str | None:
    try:
        return sha256_hex(path.read_bytes())
    except OSError:
        return None

"""The figures of runs that ended before this process began, read a few at a time behind whatever else there is to do."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from gapo.api.run import GapoRunSpec
from gapo.api.status import GapoRunStatus
from gapo.errors import GapoError, StoreError
from gapo.observe import Observer
from gapo.planner import State, Status
from gapo.store import layout
from gapo.store.objects import Objects
from gapo.telemetry.figures import RunFigures
from gapo.telemetry.gather import figures_of
from gapo.telemetry.rest import figures_at_rest
from gapo_operator.config import OperatorConfig
from gapo_operator.stores import PausedError, Stores
from gapo_operator.summary import conditions_of
from gapo_operator.view import RunKey
from gapo_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

READERS = 4
"""Runs that are read at once: of a location's threads half are left to runs that live."""
PACE_SECONDS = 0.08
"""Between two runs that one reader reads: at most 50 runs a second."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0


@dataclass(frozen=True)
class Ended:
    """A run to read: it has ended, and nothing of it changes any more."""

    key: RunKey
    uid: str
    spec: GapoRunSpec
    status: GapoRunStatus


class History:
    """Reads each run that it is given, and gives `found` its figures; what storage fails at is tried again."""

    def __init__(
        self, stores: Stores, config: OperatorConfig, found: Callable[[Ended, RunFigures], None]
    ) -> None:
        self._stores, self._config, self._found = stores, config, found
        self._wanted: dict[RunKey, Ended] = {}
        self._failures: dict[RunKey, int] = {}
        self._queue: WorkQueue[RunKey] = WorkQueue()
        self._readers = asyncio.Semaphore(READERS)

    def __len__(self) -> int:
        """Runs that are still to be read."""
        return len(self._wanted)

    def want(self, ended: Ended) -> None:
        self._wanted[ended.key] = ended
        self._queue.add(ended.key)

    def drop(self, key: RunKey) -> None:
        """It is gone, or lives again."""
        self._wanted.pop(key, None)
        self._failures.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        await self._queue.run(self._read)

    async def _read(self, key: RunKey) -> None:
        async with self._readers:
            ended = self._wanted.get(key)
            if ended is None:
                return
            try:
                figures = await self._figures(ended)
            except PausedError as error:
                self._queue.add(key, error.retry_after * random.uniform(1.0, 1.5))
                return
            except StoreError as error:
                self._try_again(key, error)
                return
            except GapoError as error:
                log.warning("%s: its figures cannot be read: %s", key, error)
            except Exception:
                log.exception("%s: its figures cannot be read", key)
            else:
                if self._wanted.get(key) is ended:
                    self._found(ended, figures)
            if self._wanted.get(key) is ended:
                self.drop(key)
            await asyncio.sleep(PACE_SECONDS)

    def _try_again(self, key: RunKey, error: StoreError) -> None:
        log.debug("%s: its figures cannot be read just now: %s", key, error)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
        self._queue.add(key, wait * random.uniform(0.8, 1.2))

    async def _figures(self, ended: Ended) -> RunFigures:
        """Raises SpecError where the location is not for that namespace any more, and what storage raises."""
        key, storage, run_id = ended.key, ended.spec.storage, ended.status.run_id or ""
        location = self._config.location(storage.location, key.namespace)
        prefix = layout.run_prefix(key.namespace, key.name, run_id, storage.path)
        return await self._stores.call(location, prefix, lambda objects: read(objects, ended), writes=False)


def read(objects: Objects, ended: Ended) -> RunFigures:
    """Of a run that succeeded, from two records; of any other, by a scan of its storage."""
    key, spec, status = ended.key, ended.spec, ended.status
    figures = figures_at_rest(objects, key.namespace, key.name, spec, status)
    if figures is not None:
        return figures
    observer = Observer(objects, status.run_id or "")
    observer.scan()
    stands = Status(State(status.state or "Failed"), status.stage or 0, "", "", status.best_stage)
    conditions, progress = conditions_of(status), status.progress_percentage
    return figures_of(
        key.namespace,
        key.name,
        spec,
        observer.seen(),
        stands,
        progress=None if progress is None else progress / 100,
        conditions=conditions,
    )

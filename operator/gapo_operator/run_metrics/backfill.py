"""The figures of runs that were there before this process began, read a few at a time, in few requests each.

A run that succeeded is read whole from two records. One that lives has its decided stages read from one, so that a
dashboard shows them before its scan, which may take long where many runs are to be scanned, comes round.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from gapo.api.run import GapoRunSpec
from gapo.api.status import GapoRunStatus
from gapo.errors import GapoError, StoreError
from gapo.metrics.figures import RunFigures
from gapo.planning.plan import State, Status
from gapo.run.reader import Observer
from gapo.store import layout
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision
from gapo.telemetry.from_observation import figures_of
from gapo.telemetry.from_records import figures_at_rest
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.objects import RunKey
from gapo_operator.kube.run_location import check_place, folder_of
from gapo_operator.run_metrics.status_usage import FINISHED, conditions_of, figures_of_status
from gapo_operator.storage_pool import PausedError, StoragePool
from gapo_operator.watch.workqueue import WorkQueue

log = logging.getLogger(__name__)

READERS = 4
"""Runs that are read at once."""
PACE_SECONDS = 0.08
"""Between two runs that one reader reads: at most 50 runs a second."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0


Receiver = Callable[["Entry", RunFigures], None]


@dataclass(frozen=True)
class Entry:
    """A run to read, as its status tells of it."""

    key: RunKey
    uid: str
    spec: GapoRunSpec
    status: GapoRunStatus


class Backfill:
    """Reads each run that it is given; what storage fails at is tried again."""

    def __init__(self, stores: StoragePool, config: OperatorConfig) -> None:
        self._stores, self.config = stores, config
        self._wanted: dict[RunKey, Entry] = {}
        self._failures: dict[RunKey, int] = {}
        self._queue: WorkQueue[RunKey] = WorkQueue()
        self._readers = asyncio.Semaphore(READERS)

    def __len__(self) -> int:
        """Runs that are still to be read."""
        return len(self._wanted)

    def want(self, entry: Entry) -> None:
        self._wanted[entry.key] = entry
        self._queue.add(entry.key)

    def drop(self, key: RunKey) -> None:
        """It is gone, or a pass has read more of it."""
        self._wanted.pop(key, None)
        self._failures.pop(key, None)

    async def run(self, take: Receiver) -> None:
        """Gives `take` what is read, until cancelled."""
        await self._queue.run(lambda key: self._read(key, take))

    async def _read(self, key: RunKey, take: Receiver) -> None:
        async with self._readers:
            entry = self._wanted.get(key)
            if entry is None:
                return
            try:
                figures = await self._figures(entry)
            except PausedError as error:
                self._queue.add(key, error.retry_after * random.uniform(1.0, 1.5))
                return
            except StoreError as error:
                self._try_again(key, error)
                return
            except GapoError as error:
                log.warning("%s: its figures cannot be read: %s", key, error)
            except Exception:
                # What one run does to us must not reach another.
                log.exception("%s: its figures cannot be read", key)
            else:
                if self._wanted.get(key) is entry:
                    take(entry, figures)
            if self._wanted.get(key) is entry:
                self.drop(key)
            await asyncio.sleep(PACE_SECONDS)

    def _try_again(self, key: RunKey, error: StoreError) -> None:
        log.debug("%s: its figures cannot be read just now: %s", key, error)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
        self._queue.add(key, wait * random.uniform(0.8, 1.2))

    async def _figures(self, entry: Entry) -> RunFigures:
        """Raises SpecError where the location is not for that namespace any more, and what storage raises."""
        key, storage, run_id = entry.key, entry.spec.storage, entry.status.run_id or ""
        location = self.config.location(storage.location, key.namespace)
        prefix = layout.run_prefix(key.namespace, key.name, run_id, storage.path)
        check_place(entry.status.location, storage.location, folder_of(location, prefix))
        return await self._stores.call(location, prefix, lambda objects: read(objects, entry), writes=False)


def read(objects: Objects, entry: Entry) -> RunFigures:
    """Of a run that succeeded, from two records; of one that lives, what is decided; of any other, by a scan."""
    key, spec, status = entry.key, entry.spec, entry.status
    if status.state not in FINISHED:
        return _decided(objects, entry)
    figures = figures_at_rest(objects, key.namespace, key.name, spec, status)
    if figures is not None:
        return figures
    observer = Observer(objects, status.run_id or "")
    observer.scan()
    stands = Status(State(status.state), status.stage or 0, "", "", status.best_stage)
    progress = status.progress_percentage
    return figures_of(
        key.namespace,
        key.name,
        spec,
        observer.observation(),
        stands,
        progress=None if progress is None else progress / 100,
        conditions=conditions_of(status),
    )


def last_decided(status: GapoRunStatus) -> int | None:
    """The newest stage at whose end something was decided, by the status."""
    return max((row.stage for row in status.stages if row.verdict), default=None)


def _decided(objects: Objects, entry: Entry) -> RunFigures:
    figures = figures_of_status(entry.key.namespace, entry.key.name, entry.status, entry.spec)
    stage = last_decided(entry.status)
    decision = None if stage is None else read_record(objects, layout.decision(stage), Decision)
    return figures if decision is None else replace(figures, stages=decision.metrics)

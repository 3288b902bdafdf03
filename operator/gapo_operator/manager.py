"""The operator as a process: watches, queue, passes, Lease, health, until it is told to stop or loses the Lease."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import generate_latest

from gapo_operator.config import ConfigFile
from gapo_operator.http import BEAT_SECONDS, Health, serve_health, serve_metrics
from gapo_operator.kube.client import Kube, KubeError, connect
from gapo_operator.kube.leader import Leadership, NotLeaderError, lead, release
from gapo_operator.kube.objects import RunKey, run_of
from gapo_operator.operator_metrics import OperatorMetrics
from gapo_operator.reconcile.pass_failure import RETRY_SECONDS
from gapo_operator.reconcile.reconciler import Reconciler
from gapo_operator.run_metrics.backfill import Backfill
from gapo_operator.run_metrics.exporter import RunExporter
from gapo_operator.run_metrics.run_series import RunSeries
from gapo_operator.storage_pool import StoragePool
from gapo_operator.watch.cache import ClusterView
from gapo_operator.watch.handlers import watch, watches
from gapo_operator.watch.workqueue import WorkQueue

log = logging.getLogger(__name__)

RESYNC_SECONDS = 300.0
"""How often everything is listed anew: a watch that broke tells of no deletion it has missed."""
REREAD_SECONDS = 10.0
"""How often the files that we were given are looked at; also over how long the passes are spread that follow a change."""
LOST_LEASE = 1


@dataclass(frozen=True)
class Options:
    """How the process was started."""

    config: ConfigFile
    namespaces: Sequence[str] = ()
    """Watched; all where empty."""
    lease_namespace: str | None = None
    """Where the Lease lies; without one this process must be the only one."""
    lease_name: str = "gapo-operator"
    identity: str = "gapo-operator"
    credentials: Path | None = None
    authorities: Path | None = None
    health_port: int = 8080
    metrics_port: int = 8081


class Operator:
    """Wires the parts together; `run` returns the process's exit code."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.view, self.health, self.metrics = ClusterView(), Health(), OperatorMetrics()
        self.queue: WorkQueue[RunKey] = WorkQueue(waited=self.metrics.waited.observe)
        self.leadership = Leadership(required=options.lease_namespace is not None)
        self.stores = StoragePool(options.credentials, options.authorities, metrics=self.metrics)
        self.series = RunSeries(self._is_exported)
        self.backfill = Backfill(self.stores, options.config.current)
        self.metrics.waiting.set_function(lambda: len(self.queue))
        self.metrics.active.set_function(lambda: self.queue.active)
        self.metrics.unread.set_function(lambda: len(self.backfill))
        self.metrics.leading.set_function(lambda: self.leadership.held)

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop` is set (exit code 0) or the Lease is lost (1)."""
        options = self.options
        async with (
            serve_health(self.health, options.health_port),
            serve_metrics(self._exposed, options.metrics_port),
            connect(self.metrics.kubernetes_request) as kube,
        ):
            stop_watches, listed = asyncio.Event(), asyncio.Event()
            registry = watches(self.view, self.queue.add)
            watching = asyncio.create_task(watch(registry, options.namespaces, stop_watches, listed))
            working = asyncio.create_task(self._lead_and_work(kube, listed))
            others = [
                asyncio.create_task(self._beat()),
                asyncio.create_task(stop.wait()),
                watching,  # kopf cancels itself on a signal
            ]
            try:
                done, _ = await asyncio.wait([working, *others], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled():
                        task.result()
                # kopf, when it ends, also cancels what was started after it.
                return LOST_LEASE if working in done and not working.cancelled() else 0
            finally:
                stop_watches.set()
                for task in (working, *others[:-1]):
                    task.cancel()
                await asyncio.gather(working, *others, return_exceptions=True)
                self.stores.close()
                if options.lease_namespace is not None:
                    await release(
                        self.leadership,
                        kube.api,
                        name=options.lease_name,
                        namespace=options.lease_namespace,
                        identity=options.identity,
                    )

    async def _beat(self) -> None:
        while True:
            self.health.beat()
            await asyncio.sleep(BEAT_SECONDS)

    def _exposed(self) -> bytes:
        """What a scrape gets. Only whoever holds the Lease speaks for runs."""
        self.metrics.runs.clear()
        if not self.leadership.held:
            return generate_latest(self.metrics.registry)
        for state, count in self.series.states().items():
            self.metrics.runs.labels(state).set(count)
        return generate_latest(self.metrics.registry) + self.series.text()

    def _is_exported(self, key: RunKey, uid: str) -> bool:
        run = self.view.run(key)
        return run is not None and run["metadata"]["uid"] == uid

    async def _lead_and_work(self, kube: Kube, listed: asyncio.Event) -> None:
        """Returns when the Lease is lost."""
        await listed.wait()
        while not self.health.watching:
            try:
                await self._resync(kube)
                self.health.watching, self.health.unreachable = True, None
            except KubeError as error:
                # Without its rights, say, it is not ready and tells why, and goes on once it has them.
                log.error("what is there cannot be listed: %s", error)
                self.health.unreachable = str(error)
                await asyncio.sleep(RETRY_SECONDS)
        elected, options = asyncio.Event(), self.options
        leading = None
        if options.lease_namespace is not None:
            leading = asyncio.create_task(
                lead(
                    self.leadership,
                    kube.api,
                    name=options.lease_name,
                    namespace=options.lease_namespace,
                    identity=options.identity,
                    elected=elected,
                )
            )
            waiting = asyncio.create_task(elected.wait())
            await asyncio.wait([leading, waiting], return_when=asyncio.FIRST_COMPLETED)
            if leading.done():
                waiting.cancel()
                return leading.result()
            log.info("holding the Lease %s/%s", options.lease_namespace, options.lease_name)
        reconciler = self.reconciler(kube)
        working = [
            asyncio.create_task(self.queue.run(lambda key: self._pass(reconciler, key))),
            asyncio.create_task(self.backfill.run(reconciler.take_backfill)),
            asyncio.create_task(self._resync_often(kube)),
            asyncio.create_task(self._reread_often(reconciler)),
        ]
        try:
            await asyncio.wait(
                [*working, *([leading] if leading else [])], return_when=asyncio.FIRST_COMPLETED
            )
            for task in working:
                if task.done():
                    task.result()
            log.error("the Lease is lost; ending, so that whoever holds it is alone")
        finally:
            for task in [*working, *([leading] if leading else [])]:
                task.cancel()
            await asyncio.gather(*working, *([leading] if leading else []), return_exceptions=True)

    def reconciler(self, kube: Kube) -> Reconciler:
        """Of the files as they are now: they may have changed while another held the Lease."""
        self._reread()
        return Reconciler(
            self.view,
            kube,
            self.stores,
            self.options.config.current,
            self.leadership,
            RunExporter(self.metrics, self.series, self.backfill),
            wake=self.queue.add,
        )

    async def _pass(self, reconciler: Reconciler, key: RunKey) -> None:
        """One pass, whatever comes of it: what one run does to us must not reach another."""
        started = time.monotonic()
        try:
            after = await reconciler.reconcile(key)
            self.health.unreachable = None
        except NotLeaderError:
            self.queue.add(key, RETRY_SECONDS)  # should the Lease be renewed after all
            return
        except KubeError as error:
            log.warning("%s: %s", key, error)
            self.metrics.errors.labels("kubernetes").inc()
            self.health.unreachable = str(error) if error.status == 0 else None
            after = RETRY_SECONDS * random.uniform(0.8, 1.2)
        except Exception:
            log.exception("%s: the pass failed", key)
            self.metrics.errors.labels("internal").inc()
            reconciler.forget(key)
            after = RETRY_SECONDS * random.uniform(2, 4)
        self.metrics.passes.observe(time.monotonic() - started)
        if after is not None:
            self.queue.add(key, after)

    async def _reread_often(self, reconciler: Reconciler) -> None:
        """Keys and certificates come by files, which change while we run, as the configuration's may: then every run is
        looked at, for what it waited for may be there."""
        while True:
            await asyncio.sleep(REREAD_SECONDS)
            changed = self._reread()
            reconciler.config = self.options.config.current
            for key in self.view.every_run() if changed else ():
                self.queue.add(key, random.uniform(0, REREAD_SECONDS))

    def _reread(self) -> bool:
        """Whether a file that we were given says something else now."""
        changed = [self.options.config.refresh(), self.stores.refresh()]
        self.backfill.config = self.options.config.current
        return any(changed)

    async def _resync_often(self, kube: Kube) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS * random.uniform(0.9, 1.1))
            try:
                await self._resync(kube)
            except KubeError as error:
                log.warning("listing anew failed: %s", error)

    async def _resync(self, kube: Kube) -> None:
        """Lists everything, takes it, and forgets what is not there any more."""
        for kind in ("runs", "jobs", "pods"):
            since = time.monotonic()
            for namespace in self.options.namespaces or (None,):
                for body in (listed := await kube.list_objects(kind, namespace)):
                    self.view.observe(kind, body, deleted=False)
                    run = run_of(kind, body)
                    if run is not None:
                        self.queue.add(
                            run
                        )  # whether or not it tells anything new: this is the look at runs that rest
                for run in self.view.forget_unlisted(kind, listed, since, namespace):
                    self.queue.add(run)
        self.metrics.resynced.set_to_current_time()

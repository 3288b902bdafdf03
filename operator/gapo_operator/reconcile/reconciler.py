"""One pass over one GapoRun: read, plan, create and delete Jobs, write the status.

Passes are level-based: each acts on what is there now, whatever event woke it and whatever earlier passes did. What is
kept between them (`RunMemory`) saves requests; a pass without it comes to the same. In order:
1. A suspended run loses its Jobs, whatever else is wrong.
2. A manifest that cannot be read, or a run that ended under an earlier process, ends the pass.
3. The run's location is found, and the run ID written into the status before anything starts.
4. Storage is read, ends are recorded, the planner is asked, tasks are handed over (`RunPass.advance`, in a thread).
5. Jobs are created and deleted as that says.
6. The status is written where it differs, and events follow the write.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from gapo.api.load import LoadedRun
from gapo.errors import GapoError
from gapo.metrics.figures import RunFigures
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.store import layout
from gapo_operator.config import OperatorConfig, StorageLocation
from gapo_operator.kube.client import Kube
from gapo_operator.kube.job_revision import with_superseded
from gapo_operator.kube.job_states import AttemptJob, attempt_jobs_of
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.kube.run_location import access_of, check_place, folder_of, has_begun
from gapo_operator.reconcile.backoff import Refusals
from gapo_operator.reconcile.events import events_of
from gapo_operator.reconcile.finished import at_rest, has_ended, time_to_live
from gapo_operator.reconcile.jobs import JobControl
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.pass_failure import failure_of
from gapo_operator.reconcile.problems import problem_of
from gapo_operator.reconcile.run_memory import RunMemories, RunMemory
from gapo_operator.reconcile.status import Findings
from gapo_operator.reconcile.status_writer import StatusWriter
from gapo_operator.render.patch import check_pods
from gapo_operator.run_metrics.backfill import Entry
from gapo_operator.run_metrics.exporter import RunExporter
from gapo_operator.storage_pool import StoragePool
from gapo_operator.watch.cache import ClusterView

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""How often a run whose tasks run is looked at although nothing was heard."""
MANAGED_BY = "gapo.dev/operator"


class Reconciler:
    """Passes over runs, any number at a time but one a run."""

    def __init__(
        self,
        view: ClusterView,
        kube: Kube,
        stores: StoragePool,
        config: OperatorConfig,
        leadership: Leadership,
        exporter: RunExporter,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        wake: Callable[[RunKey], None] = lambda _: None,
    ) -> None:
        """`wake` is called for runs that are to be looked at because another one has given something back."""
        self.view, self.kube, self.stores, self.config = view, kube, stores, config
        self.leadership, self.exporter, self.clock = leadership, exporter, clock
        self.refusals, self._wake = Refusals(), wake
        self.memories = RunMemories(clock)
        self.status = StatusWriter(view, kube, leadership, clock, wake)
        self.jobs = JobControl(view, kube, leadership, self.refusals, clock)

    async def reconcile(self, key: RunKey) -> float | None:
        """One pass. Returns after how many seconds the next is due though nothing is heard; None for never.

        Raises NotLeaderError where the Lease was lost meanwhile, KubeError where the cluster does not answer.
        """
        run = self.view.run(key)
        if run is None or run["metadata"].get("deletionTimestamp"):
            # Its Jobs go with it, by their owner references; what lies in storage stays.
            self.memories.forget(key)
            self.refusals.forget(key)
            self.exporter.forget(key)
            self._wake_next_refused(key)
            return None
        if _managed_by(run) not in (None, MANAGED_BY):
            return None  # another controller's: spec.scheduling.managedBy
        memory, changed = self.memories.of(key, run)
        if changed:
            self.refusals.forget(key)  # by another manifest it may get what it was refused
        try:
            return await self._reconcile_run(key, run, memory)
        finally:
            self._export_figures(key, memory)

    async def _reconcile_run(self, key: RunKey, run: Body, memory: RunMemory) -> float | None:
        # 1. Before anything that may fail: a suspended run holds no device.
        if (run.get("spec") or {}).get("suspend") is True:
            await self.jobs.delete_unfinished(key, memory.uid)

        # 2. Without a manifest there is nothing to plan by, and for a run that has ended there is nothing left to do.
        findings = Findings(generation=int(run["metadata"].get("generation") or 0))
        if isinstance(memory.loaded, GapoError):
            findings = replace(findings, refused=problem_of(memory.loaded))
            return await self._write_problem(key, run, memory, findings, None)
        assert memory.loaded is not None  # noqa: S101  (RunMemories.of sets it)
        loaded, attempt_jobs = memory.loaded, self._attempt_jobs(key, memory, memory.loaded)
        findings = replace(findings, spec=loaded.spec, attempt_jobs=attempt_jobs)
        self._request_backfill(run, memory, loaded)
        memory.finished_before_start = memory.state is None and at_rest(run, loaded, attempt_jobs)
        if memory.finished_before_start:
            return await self._leave_at_rest(key, run, memory, loaded)

        try:
            # 3. Where it lies. The run ID is written before anything starts: the server holds the identity from then on.
            location, prefix, place = self._locate(key, run, loaded)
            attempt_jobs = with_superseded(attempt_jobs, loaded.spec, key.namespace, self.config)
            findings = replace(findings, run_id=loaded.run_id, location=place, access=access_of(location))
            identified = await self._write_run_id(key, run, loaded, findings)
            if identified is None:
                return None
            run = identified
            # 4. Storage and planner, in one of the location's threads.
            outcome = await self._advance(key, location, prefix, memory, run, loaded, attempt_jobs)
        except GapoError as error:
            # Whatever is wrong with location or storage ends the pass here, and the status says it.
            return await self._end_failed_pass(key, run, memory, findings, error)
        memory.storage_failures = 0
        if not self._is_current(key, memory.uid):
            return 0.0  # it was deleted meanwhile, or another one has its name
        findings = self._take_outcome(key, memory, outcome, findings)

        # 5. The cluster's Jobs; a Job that may not be made as the manifest asks leaves every other one as it should be.
        try:
            applied = await self.jobs.apply(key, memory, run, loaded, outcome, attempt_jobs, self.config)
        except GapoError as error:
            await self.status.write(key, run, replace(findings, refused=problem_of(error)))
            return None
        if outcome.create:  # the API server's answers show them before the watch does
            findings = replace(findings, attempt_jobs=self._attempt_jobs(key, memory, loaded))

        # 6. One status write, then events, and a run whose time is over goes.
        retry_after = applied.retry_after
        written = await self.status.write(key, run, replace(findings, cluster=applied.problem))
        if written is not None:
            for event in events_of(outcome, loaded, before=(run.get("status") or {}).get("state")):
                await self.kube.create_event(run, event.kind, event.reason, event.message, event.about)
            retry_after = _sooner(retry_after, await self._expire(key, memory, loaded, written))
        return self._next_pass(outcome, retry_after)

    def _attempt_jobs(
        self, key: RunKey, memory: RunMemory, loaded: LoadedRun
    ) -> dict[AttemptKey, AttemptJob]:
        """The run's attempts as the watches show them now."""
        view = self.view
        shown = (view.jobs(key), view.pods(key), view.warnings(key), view.lost(key))
        return attempt_jobs_of(memory.uid, loaded.run_id, *shown)

    def _request_backfill(self, run: Body, memory: RunMemory, loaded: LoadedRun) -> None:
        """A run that an earlier process left has figures in storage, which somebody reads in the background."""
        if memory.backfill_requested or memory.figures is not None:
            return
        if (run.get("status") or {}).get("runID") == loaded.run_id:
            memory.backfill_requested = True
            self.exporter.show_existing(run, loaded.spec)

    async def _leave_at_rest(
        self, key: RunKey, run: Body, memory: RunMemory, loaded: LoadedRun
    ) -> float | None:
        """A run that has ended stays as it is until its time is over."""
        if run["status"].get("tasks"):  # an earlier release listed what was on its way out
            cleared = await self.status.write_document(key, run, {**run["status"], "tasks": []})
            if cleared is None:
                return None
            run = cleared
        return await self._expire(key, memory, loaded, run)

    def _locate(self, key: RunKey, run: Body, loaded: LoadedRun) -> tuple[StorageLocation, str, str]:
        """The run's location, its prefix there and its folder's address. Raises SpecError for what its administrator does
        not allow, RunMovedError where the location now leads elsewhere."""
        location = self.config.location(loaded.spec.storage.location, key.namespace)
        check_pods(loaded.spec, key.namespace, self.config)
        prefix = layout.run_prefix(key.namespace, key.name, loaded.run_id, loaded.spec.storage.path)
        place = folder_of(location, prefix)
        if has_begun(run, loaded.run_id):
            check_place((run["status"] or {}).get("location"), loaded.spec.storage.location, place)
        return location, prefix, place

    async def _write_run_id(
        self, key: RunKey, run: Body, loaded: LoadedRun, findings: Findings
    ) -> Body | None:
        """The run with its ID in the status, by a write where it is not there yet: from then on the definition's rules let
        nobody change what makes up its identity. None where the run is gone."""
        if (run.get("status") or {}).get("runID") == loaded.run_id:
            return run
        return await self.status.write(key, run, findings)

    async def _advance(
        self,
        key: RunKey,
        location: StorageLocation,
        prefix: str,
        memory: RunMemory,
        run: Body,
        loaded: LoadedRun,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
    ) -> Outcome:
        """Runs the pass's storage part in one of the location's threads."""
        self.leadership.check()
        image, waited, begun = self.config.trainer.image, self.view.waited(key), has_begun(run, loaded.run_id)
        if memory.address not in (None, location.address):
            # The administrator has given the location another address: nothing that was read there holds here.
            self.memories.read_storage_anew(memory)
        memory.address = location.address
        return await self.stores.call(
            location,
            prefix,
            lambda objects: memory.storage.advance(
                objects, loaded, attempt_jobs, image, waited, has_begun=begun
            ),
        )

    def _take_outcome(self, key: RunKey, memory: RunMemory, outcome: Outcome, findings: Findings) -> Findings:
        """Takes what storage and the planner have said into memory, metrics and findings."""
        memory.figures, memory.state = outcome.figures, outcome.plan.status.state
        self.exporter.backfill.drop(key)
        self.exporter.count_decisions(outcome.decisions)
        if outcome.ended:
            self._wake_next_refused(key)
        return replace(
            findings,
            status=outcome.plan.status,
            observation=outcome.observation,
            figures=outcome.figures,
            task_figures=outcome.task_figures,
        )

    async def _end_failed_pass(
        self, key: RunKey, run: Body, memory: RunMemory, findings: Findings, error: GapoError
    ) -> float | None:
        """Ends a pass that could not read storage, or must not."""
        failure = failure_of(error, memory.storage_failures, random.uniform)
        if failure.moved:
            self.memories.read_storage_anew(memory)
        if failure.counts:
            memory.storage_failures += 1
            self.exporter.metrics.errors.labels("storage").inc()
        if failure.of_storage:
            findings = replace(findings, storage=failure.problem)
        else:
            findings = replace(findings, refused=failure.problem)
        return await self._write_problem(key, run, memory, findings, failure.retry_after)

    async def _write_problem(
        self, key: RunKey, run: Body, memory: RunMemory, findings: Findings, retry_after: float | None
    ) -> float | None:
        """Writes what keeps a run from going on. The status of one that has ended stays as it is, for its time to live."""
        if not has_ended(run):
            await self.status.write(key, run, findings)
            return retry_after
        if not isinstance(memory.loaded, LoadedRun):
            return None
        left = await self._expire(key, memory, memory.loaded, run)
        if all(attempt_job.over for attempt_job in findings.attempt_jobs.values()):
            return left
        return _sooner(retry_after, left)  # Jobs still run, whose end is to be recorded

    async def _expire(self, key: RunKey, memory: RunMemory, loaded: LoadedRun, run: Body) -> float | None:
        """Deletes a finished run whose time to live is over; else the seconds that are left, None for ever."""
        left = time_to_live(loaded, run, self.clock())
        if left is None or left > 0:
            return left
        log.info("%s: its time to live after its end is over; deleting it", key)
        self.leadership.check()
        await self.kube.delete_run(key, memory.uid)
        return None

    def _next_pass(self, outcome: Outcome, retry_after: float | None) -> float | None:
        """Seconds until the next pass is due though no event comes: what is due first of refused requests, the run's own
        times, the planner's, and a look for commits, of which no event tells."""
        waits = [wait for wait in (retry_after, outcome.again_after) if wait is not None]
        if outcome.plan.wake_at is not None:
            waits.append(max(0.1, (outcome.plan.wake_at - self.clock()).total_seconds()))
        if outcome.polls and outcome.plan.status.state in (State.RUNNING, State.WAITING):
            waits.append(POLL_SECONDS * random.uniform(0.8, 1.2))
        return min(waits, default=None)

    def _wake_next_refused(self, key: RunKey) -> None:
        """Something of that run has ended: another one may have what it was refused."""
        waiting = self.refusals.next_beside(key)
        if waiting is not None:
            self._wake(waiting)

    def forget(self, key: RunKey) -> None:
        """What is known of a run is read anew at its next pass."""
        self.memories.forget(key)

    def take_backfill(self, entry: Entry, figures: RunFigures) -> None:
        """Takes what was read of a run that an earlier process left."""
        memory, run = self.memories.get(entry.key), self.view.run(entry.key)
        if memory is None or run is None or memory.uid != entry.uid or memory.figures is not None:
            return
        if not memory.finished_before_start:
            memory.figures = figures
        self.exporter.show(run, entry.spec, figures)

    def _export_figures(self, key: RunKey, memory: RunMemory) -> None:
        """Tells scrapes how the run stands after a pass."""
        run = self.view.run(key)
        if run is None or not self._is_current(key, memory.uid) or memory.finished_before_start:
            return
        spec = memory.loaded.spec if isinstance(memory.loaded, LoadedRun) else None
        self.exporter.show(run, spec, memory.figures)

    def _is_current(self, key: RunKey, uid: str) -> bool:
        """Whether the GapoRun of that name is still the one with this uid."""
        run = self.view.run(key)
        return run is not None and run["metadata"]["uid"] == uid


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((wait for wait in (one, other) if wait is not None), default=None)


def _managed_by(run: Body) -> str | None:
    scheduling = (run.get("spec") or {}).get("scheduling") or {}
    manager = scheduling.get("managedBy")
    return None if manager is None else str(manager)

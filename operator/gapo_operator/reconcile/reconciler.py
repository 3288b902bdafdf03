"""One pass over one GapoRun: read, plan, make the cluster so, say so. Level-based: what came before does not matter."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gapo.api.load import LoadedRun, load_document
from gapo.errors import (
    ACCESS_ERRORS,
    FencedError,
    GapoError,
    LocationInvalidError,
    RunMovedError,
    StoreError,
    UnsafeLocationError,
)
from gapo.metrics.figures import RunFigures
from gapo.planning.observation import AttemptKey
from gapo.planning.planner import State
from gapo.reasons import Reason
from gapo.store import layout
from gapo_operator.config import OperatorConfig, StorageLocation
from gapo_operator.kube.attempts import Child, ChildState, Problem, children_of, is_unfinished_job_of
from gapo_operator.kube.client import Kube, KubeError
from gapo_operator.kube.job_revision import asked_of, with_superseded
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.kube.run_location import access_of, check_place, folder_of, has_begun
from gapo_operator.reconcile.backoff import Refusals
from gapo_operator.reconcile.crd_drift import Readback
from gapo_operator.reconcile.events import story_of
from gapo_operator.reconcile.finished import at_rest, condition_of, has_ended, time_to_live
from gapo_operator.reconcile.problems import problem_of, refusal_of
from gapo_operator.reconcile.status import CRD_OUTDATED, Findings, status_of
from gapo_operator.reconcile.storage import Outcome, RunStorage
from gapo_operator.render.job import job
from gapo_operator.render.names import ASKED_ANNOTATION, Owner, attempt_name, job_name
from gapo_operator.render.patch import check_pods
from gapo_operator.render.pod_group import GROUP_ANNOTATION, pod_group
from gapo_operator.run_metrics.backfill import Entry
from gapo_operator.run_metrics.exporter import Telemetry
from gapo_operator.storage_pool import PausedError, Stores
from gapo_operator.watch.cache import ClusterView

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""How often a run whose tasks run is looked at although nothing was heard."""
RETRY_SECONDS = 5.0
"""After a request that the cluster refused or did not answer."""
LONGEST_RETRY_SECONDS = 60.0
REFUSED_SECONDS, LONGEST_REFUSED_SECONDS = 30.0, 300.0
"""After access to storage that a person has to give: seldom, for no time helps there. New keys are noticed at once."""
MOVED_SECONDS = 60.0
"""Until a run that is not where it should be is looked for again."""
GIVE_WAY_SECONDS = 2.0
"""Until a Job of an earlier GapoRun of the same name is looked for again."""
CONFLICT_SECONDS = 60.0
"""After which one that is still there is told of, for somebody to delete it."""
MANAGED_BY = "gapo.dev/operator"


@dataclass
class _Known:
    """What is kept of a GapoRun between passes; all of it can be found again."""

    uid: str
    storage: RunStorage
    address: tuple[str | None, ...] | None = None
    """Of the location that `storage` was read from."""
    generation: int = -1
    failures: int = 0
    """Passes in a row that storage failed."""
    loaded: LoadedRun | GapoError | None = None
    state: State | None = None
    figures: RunFigures | None = None
    """As storage told them at the last pass that read it."""
    met: bool = False
    """Whoever reads what earlier processes left knows of it."""
    rests: bool = False
    """It ended under an earlier process."""
    grouped: set[str] = field(default_factory=set)
    """UIDs of Jobs whose PodGroup is known to be theirs."""
    in_the_way: dict[str, datetime] = field(default_factory=dict)
    """Names of Jobs that are there and not the run's, and since when each was met."""


class Reconciler:
    """Passes over runs, any number at a time but one a run."""

    def __init__(
        self,
        view: ClusterView,
        kube: Kube,
        stores: Stores,
        config: OperatorConfig,
        leadership: Leadership,
        telemetry: Telemetry,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        wake: Callable[[RunKey], None] = lambda _: None,
    ) -> None:
        """`wake` is told of runs that are to be looked at because of what another one's pass has found."""
        self.view, self.kube, self.stores, self.config = view, kube, stores, config
        self.leadership, self.telemetry, self.clock = leadership, telemetry, clock
        self.readback, self.refusals, self._wake = Readback(), Refusals(), wake
        self._known: dict[RunKey, _Known] = {}

    async def reconcile(self, key: RunKey) -> float | None:
        """One pass. Returns after how many seconds the next is due though nothing is heard; None for never.

        Raises NotLeaderError where the Lease was lost meanwhile, KubeError where the cluster does not answer.
        """
        run = self.view.run(key)
        if run is None or run["metadata"].get("deletionTimestamp"):
            self._known.pop(key, None)
            self.refusals.forget(key)
            self.telemetry.gone(key)
            self._make_room(key)
            return None
        if _managed_by(run) not in (None, MANAGED_BY):
            return None
        known = self._remember(key, run)
        try:
            return await self._pass(key, run, known)
        finally:
            self._show(key, known)

    async def _pass(self, key: RunKey, run: Body, known: _Known) -> float | None:
        if (run.get("spec") or {}).get("suspend") is True:
            # Before anything that may fail: a suspended run holds no device, whatever else is wrong.
            await self._delete_jobs(key, known.uid)
        found = Findings(generation=int(run["metadata"].get("generation") or 0))
        if isinstance(known.loaded, GapoError):
            return await self._hindered(key, run, known, replace(found, refused=problem_of(known.loaded)))
        assert known.loaded is not None  # noqa: S101  (_remember sets it)
        return await self._go_on(key, run, known, known.loaded, found)

    def _make_room(self, key: RunKey) -> None:
        """Something of that run has ended: another one may have what it was refused."""
        waiting = self.refusals.next_beside(key)
        if waiting is not None:
            self._wake(waiting)

    async def _delete_jobs(self, key: RunKey, uid: str) -> None:
        for body in self.view.jobs(key):
            if is_unfinished_job_of(uid, body):
                self.leadership.check()
                metadata = body["metadata"]
                await self.kube.delete_job(key.namespace, metadata["name"], metadata["uid"])

    def forget(self, key: RunKey) -> None:
        """What is known of a run is read anew at its next pass."""
        self._known.pop(key, None)

    def _remember(self, key: RunKey, run: Body) -> _Known:
        metadata = run["metadata"]
        known = self._known.get(key)
        if known is None or known.uid != metadata["uid"]:
            known = self._known[key] = _Known(metadata["uid"], RunStorage(metadata["uid"], self.clock))
        if known.generation != metadata.get("generation"):
            known.generation = int(metadata.get("generation") or 0)
            self.refusals.forget(key)
            try:
                begun = (run.get("status") or {}).get("runID") is not None
                known.loaded = load_document(_document(run), where=str(key), base=Path("/"), begun=begun)
            except GapoError as error:
                known.loaded = error
        return known

    async def _go_on(
        self, key: RunKey, run: Body, known: _Known, loaded: LoadedRun, found: Findings
    ) -> float | None:
        children = self._children(key, known, loaded)
        found = replace(found, spec=loaded.spec, children=children)
        known.rests = known.state is None and at_rest(run, loaded, children)
        if (
            not known.met
            and known.figures is None
            and (run.get("status") or {}).get("runID") == loaded.run_id
        ):
            known.met = True
            self.telemetry.met(run, loaded.spec)
        if known.rests:
            if run["status"].get("tasks"):  # an earlier release listed what was on its way out
                cleared = await self._write(key, run, {**run["status"], "tasks": []})
                if cleared is None:
                    return None
                run = cleared
            return await self._expire(key, known, loaded, run)
        try:
            location = self.config.location(loaded.spec.storage.location, key.namespace)
            check_pods(loaded.spec, key.namespace, self.config)
            children = with_superseded(children, loaded.spec, key.namespace, self.config)
            prefix = layout.run_prefix(key.namespace, key.name, loaded.run_id, loaded.spec.storage.path)
            place = folder_of(location, prefix)
            if has_begun(run, loaded.run_id):
                check_place((run["status"] or {}).get("location"), loaded.spec.storage.location, place)
            found = replace(found, run_id=loaded.run_id, location=place, access=access_of(location))
            # The run ID is in the status before anything starts: from then on the server holds the identity fast.
            if (run.get("status") or {}).get("runID") != loaded.run_id:
                named = await self._say(key, run, found)
                if named is None:
                    return None
                run = named
            outcome = await self._advance(key, location, prefix, known, run, loaded, children)
        except PausedError as error:
            wait = error.retry_after + random.uniform(0, 1)
            return await self._hindered(key, run, known, replace(found, storage=problem_of(error)), wait)
        except (FencedError, UnsafeLocationError) as error:
            return await self._hindered(key, run, known, replace(found, refused=problem_of(error)))
        except RunMovedError as error:
            known.storage = RunStorage(known.uid, self.clock)  # what it knows is of another place
            wait = MOVED_SECONDS * random.uniform(0.8, 1.2)
            return await self._hindered(key, run, known, replace(found, refused=problem_of(error)), wait)
        except (StoreError, LocationInvalidError) as error:
            known.failures += 1
            self.telemetry.metrics.errors.labels("storage").inc()
            first, longest = RETRY_SECONDS, LONGEST_RETRY_SECONDS
            if isinstance(error, ACCESS_ERRORS):
                first, longest = REFUSED_SECONDS, LONGEST_REFUSED_SECONDS
            wait = min(longest, first * 2.0 ** min(known.failures - 1, 10)) * random.uniform(0.8, 1.2)
            return await self._hindered(key, run, known, replace(found, storage=problem_of(error)), wait)
        except GapoError as error:
            return await self._hindered(key, run, known, replace(found, refused=problem_of(error)))
        known.failures = 0
        if not self._is_still(key, known.uid):
            return 0.0  # it was deleted meanwhile, or another one has its name
        known.figures = outcome.figures
        self.telemetry.history.drop(key)
        known.state = outcome.plan.status.state
        self.telemetry.decided(outcome.decisions)
        if outcome.ended:
            self._make_room(key)
        found = replace(
            found,
            status=outcome.plan.status,
            seen=outcome.seen,
            figures=known.figures,
            told=outcome.told,
        )
        try:
            trouble, again = await self._apply(key, known, run, loaded, outcome, children)
        except GapoError as error:
            # What the manifest asks of its pods is not allowed here; every other Job is as it should be.
            await self._say(key, run, replace(found, refused=problem_of(error)))
            return None
        if outcome.create:  # what the answers told of them is told at once
            found = replace(found, children=self._children(key, known, loaded))
        written = await self._say(key, run, replace(found, cluster=trouble))
        if written is not None:
            for event in story_of(outcome, loaded, before=(run.get("status") or {}).get("state")):
                await self.kube.tell(run, event.kind, event.reason, event.message, event.about)
            left = await self._expire(key, known, loaded, written)
            again = min((wait for wait in (again, left) if wait is not None), default=None)
        return self._next(outcome, again)

    async def _hindered(
        self, key: RunKey, run: Body, known: _Known, found: Findings, again: float | None = None
    ) -> float | None:
        """Says what keeps a run from going on. One that has ended goes nowhere: it stays as it was told, for its time."""
        if not has_ended(run):
            await self._say(key, run, found)
            return again
        if not isinstance(known.loaded, LoadedRun):
            return None
        left = await self._expire(key, known, known.loaded, run)
        if all(child.over for child in found.children.values()):
            return left
        return min((wait for wait in (again, left) if wait is not None), default=None)

    def _children(self, key: RunKey, known: _Known, loaded: LoadedRun) -> dict[AttemptKey, Child]:
        view = self.view
        seen = (view.jobs(key), view.pods(key), view.warnings(key), view.lost(key))
        return children_of(known.uid, loaded.run_id, *seen)

    async def _expire(self, key: RunKey, known: _Known, loaded: LoadedRun, run: Body) -> float | None:
        """Deletes a finished run whose time to live is over; else the seconds that are left, None for ever."""
        left = time_to_live(loaded, run, self.clock())
        if left is None or left > 0:
            return left
        log.info("%s: its time to live after its end is over; deleting it", key)
        self.leadership.check()
        await self.kube.delete_run(key, known.uid)
        return None

    async def _advance(
        self,
        key: RunKey,
        location: StorageLocation,
        prefix: str,
        known: _Known,
        run: Body,
        loaded: LoadedRun,
        children: Mapping[AttemptKey, Child],
    ) -> Outcome:
        self.leadership.check()
        image, waited, begun = self.config.trainer.image, self.view.waited(key), has_begun(run, loaded.run_id)
        if known.address not in (None, location.address):
            known.storage = RunStorage(known.uid, self.clock)  # what is known was read elsewhere
        known.address = location.address
        return await self.stores.call(
            location,
            prefix,
            lambda objects: known.storage.advance(objects, loaded, children, image, waited, has_begun=begun),
        )

    async def _apply(
        self,
        key: RunKey,
        known: _Known,
        run: Body,
        loaded: LoadedRun,
        outcome: Outcome,
        children: Mapping[AttemptKey, Child],
    ) -> tuple[Problem | None, float | None]:
        """Creates and deletes Jobs; what went wrong, and when to look again because of it.

        Raises SpecError where a Job cannot be made of what the manifest says.
        """
        trouble, again = None, None
        try:
            await self._own_groups(key, known)
        except KubeError as error:
            trouble, again = refusal_of(error), RETRY_SECONDS
        owner = Owner(key.name, key.namespace, loaded.run_id, str(run["metadata"]["uid"]))
        config = _with_image(self.config, outcome.record.default_image)
        for attempt in outcome.stop:
            self.leadership.check()
            child = children.get(attempt)
            if child is not None and child.state is ChildState.STOPPING:
                continue  # on its way out, or not ours to delete
            name = attempt_name(owner, attempt.task, attempt.attempt)
            try:
                await self.kube.delete_job(key.namespace, name, child.uid if child else None)
                if loaded.spec.scheduling.scheduler == "volcano":
                    await self.kube.delete_pod_group(key.namespace, name)
            except KubeError as error:
                trouble, again = refusal_of(error), RETRY_SECONDS
        for task in list(outcome.create):
            try:
                made = job(task, loaded.spec, owner, config, claim=outcome.claim)
                asked = asked_of(task.kind, loaded.spec, owner.namespace, config)
                made["metadata"]["annotations"][ASKED_ANNOTATION] = asked
                self.leadership.check()
                group = pod_group(made, loaded.spec)
                if group is not None:
                    await self.kube.apply_pod_group(group)  # first: Volcano may refuse a pod that lacks it
                created = await self.kube.create_job(made)
                if created is None:
                    outcome.create.remove(task)  # nobody is told that it has started
                    name = job_name(owner, task)
                    if name not in {child.job for child in children.values()}:
                        # It is ours and not heard of yet, or an earlier run's on its way out, or a stranger's.
                        since = known.in_the_way.setdefault(name, self.clock())
                        again = GIVE_WAY_SECONDS
                        if (self.clock() - since).total_seconds() >= CONFLICT_SECONDS:
                            trouble = _conflict(name)
                else:
                    known.in_the_way.clear()
                    self.view.observe("jobs", created, deleted=False)
                    log.info("%s: job %s created", key, made["metadata"]["name"])
            except KubeError as error:
                trouble, again = refusal_of(error), RETRY_SECONDS
                outcome.create.remove(task)  # nobody is told that it has started
        if trouble is not None and trouble.reason != Reason.API_UNAVAILABLE:
            return trouble, self.refusals.refused(key)
        self.refusals.forget(key)
        return trouble, again

    async def _own_groups(self, key: RunKey, known: _Known) -> None:
        """Makes each PodGroup its Job's own, once that is there: it then goes with it, whoever deletes that."""
        for body in self.view.jobs(key):
            metadata = body["metadata"]
            grouped = GROUP_ANNOTATION in (metadata.get("annotations") or {})
            if grouped and metadata["uid"] not in known.grouped and is_unfinished_job_of(known.uid, body):
                self.leadership.check()
                await self.kube.own_pod_group(key.namespace, metadata["name"], metadata["uid"])
                known.grouped.add(metadata["uid"])

    async def _say(self, key: RunKey, run: Body, found: Findings) -> Body | None:
        """Writes the status where it differs; the run as it is then, None where it is gone."""
        before = run.get("status")
        after = status_of(replace(found, unkept=self.readback.unkept), before, self.clock())
        if self.readback.same(before or {}, after) or not self._is_still(key, run["metadata"]["uid"]):
            return run
        stored = await self._write(key, run, after)
        if stored is None:
            return None
        if found.refused is not None:
            await self.kube.tell(
                run, "Warning", found.refused.reason, found.refused.message, found.refused.message
            )
        news = self.readback.learn(after, stored.get("status") or {})
        told = condition_of(after, CRD_OUTDATED)
        if told is not None and told != condition_of(before or {}, CRD_OUTDATED):
            # As an event too: the definition may not keep the condition.
            log.error("%s: %s", key, told["message"])
            await self.kube.tell(run, "Warning", CRD_OUTDATED, told["message"], told["message"])
        return await self._say(key, stored, found) if news else stored

    async def _write(self, key: RunKey, run: Body, status: Mapping[str, Any]) -> Body | None:
        """The run as it is then, None where it is gone."""
        self.leadership.check()
        stored = await self.kube.write_status(key, run["metadata"]["uid"], status)
        if stored is None:
            return None
        self.view.observe("runs", stored, deleted=False)
        if _wanted(stored) != _wanted(run):
            self._wake(key)  # somebody was faster; the watch tells of it as of what the view has already
        return stored

    def found(self, entry: Entry, figures: RunFigures) -> None:
        """Takes what was read of a run that an earlier process left."""
        known, run = self._known.get(entry.key), self.view.run(entry.key)
        if known is None or run is None or known.uid != entry.uid or known.figures is not None:
            return
        if not known.rests:
            known.figures = figures
        self.telemetry.show(run, entry.spec, figures)

    def _show(self, key: RunKey, known: _Known) -> None:
        """Tells scrapes how the run stands after a pass."""
        run = self.view.run(key)
        if run is None or not self._is_still(key, known.uid) or known.rests:
            return
        spec = known.loaded.spec if isinstance(known.loaded, LoadedRun) else None
        self.telemetry.show(run, spec, known.figures)

    def _is_still(self, key: RunKey, uid: str) -> bool:
        run = self.view.run(key)
        return run is not None and run["metadata"]["uid"] == uid

    def _next(self, outcome: Outcome, again: float | None) -> float | None:
        waits = [wait for wait in (again, outcome.again_after) if wait is not None]
        if outcome.plan.wake_at is not None:
            waits.append(max(0.1, (outcome.plan.wake_at - self.clock()).total_seconds()))
        if outcome.polls and outcome.plan.status.state in (State.RUNNING, State.WAITING):
            waits.append(POLL_SECONDS * random.uniform(0.8, 1.2))
        return min(waits, default=None)


def _document(run: Body) -> dict[str, Any]:
    """The manifest as a user would write it: of the metadata, the server's own fields are nobody's business here."""
    metadata = {k: v for k, v in run["metadata"].items() if k in ("name", "namespace", "uid")}
    written = {k: run[k] for k in ("apiVersion", "kind", "spec") if k in run}
    return copy.deepcopy({**written, "metadata": metadata})


def _conflict(name: str) -> Problem:
    text = f"a Job of that name is there and is not this run's: kubectl delete job {name}"
    return Problem(Reason.JOB_CONFLICT, f"{name}: {text}")


def _wanted(run: Body) -> tuple[object, object]:
    """Which manifest it is, and whether it is to go."""
    return run["metadata"].get("generation"), run["metadata"].get("deletionTimestamp")


def _managed_by(run: Body) -> str | None:
    scheduling = (run.get("spec") or {}).get("scheduling") or {}
    found = scheduling.get("managedBy")
    return None if found is None else str(found)


def _with_image(config: OperatorConfig, image: str | None) -> OperatorConfig:
    if image is None or image == config.trainer.image:
        return config
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"image": image})})

"""GapoRuns, their Jobs and pods as the watches have delivered them, trimmed to what is read. Kept by one event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gapo_operator.kube.job_states import waits_in_group
from gapo_operator.kube.message_changes import is_news
from gapo_operator.kube.objects import Body, RunKey, run_of

LOST_SECONDS = 300.0
"""Beyond its grace period; then a pod that is being deleted counts as gone."""


@dataclass
class _Table:
    """Objects of one kind: run → name → body, and when each was heard of last."""

    bodies: dict[RunKey, dict[str, Body]] = field(default_factory=dict)
    heard: dict[tuple[RunKey, str], float] = field(default_factory=dict)
    first: dict[tuple[RunKey, str], float] = field(default_factory=dict)
    """When each was heard of first, by our own clock: the cluster's may differ."""
    leaving: dict[tuple[RunKey, str], float] = field(default_factory=dict)
    """Since when each is being deleted."""
    queued: Callable[[Body], bool] = lambda _: False
    """Whether a queue holds an object of this kind."""

    def put(self, run: RunKey, name: str, body: Body, now: float) -> bool:
        """False where that, or something newer, is there already."""
        group = self.bodies.setdefault(run, {})
        before = group.get(name)
        if before is not None and _newer(before, body):
            return False  # a list that was begun before the watch delivered this
        if before is not None and _version(before) == _version(body) != ("", ""):
            self.heard[run, name] = now
            return False
        if before is None or _uid(before) != _uid(body) or self.queued(before):
            # Another object of that name; or one that a queue has held: its wait begins when it is let go.
            self.first[run, name] = now
            self.leaving.pop((run, name), None)
        group[name] = body
        self.heard[run, name] = now
        if body["metadata"].get("deletionTimestamp"):
            self.leaving.setdefault((run, name), now)
        return True

    def drop(self, run: RunKey, name: str, uid: str | None = None) -> None:
        group = self.bodies.get(run, {})
        if uid is not None and name in group and _uid(group[name]) != uid:
            return  # what is there now is a successor of that name
        group.pop(name, None)
        if not group:
            self.bodies.pop(run, None)
        for times in (self.heard, self.first, self.leaving):
            times.pop((run, name), None)


class ClusterView:
    """`observe` takes events; `forget_unlisted` corrects what a broken watch has missed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tables = {
            "runs": _Table(),
            "jobs": _Table(queued=lambda job: bool((job.get("spec") or {}).get("suspend"))),
            "pods": _Table(queued=waits_in_group),
        }
        self._warnings: dict[RunKey, dict[str, str]] = {}
        self._ended_pods: dict[RunKey, dict[str, Body]] = {}
        """Pods that ended and were deleted, by uid, while their Job is there: their last words still count."""

    def observe(self, kind: str, body: Body, *, deleted: bool) -> RunKey | None:
        """Takes one event; returns the run that it is about, None where it is about none or tells nothing new: the
        object as we have written it ourselves, or as a list had it."""
        run = run_of(kind, body)
        if run is None:
            return None
        table, name = self._tables[kind], str(body["metadata"]["name"])
        if deleted:
            table.drop(run, name, _uid(body))
            if kind == "jobs":
                self._warnings.get(run, {}).pop(name, None)
                self._forget_pods_of(run, _uid(body))
            elif kind == "pods" and (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                self._ended_pods.setdefault(run, {})[_uid(body)] = trimmed(kind, body)
        elif not table.put(run, name, trimmed(kind, body), self._clock()):
            return None
        return run

    def _forget_pods_of(self, run: RunKey, job: str) -> None:
        ended = self._ended_pods.get(run, {})
        for uid in [uid for uid, pod in ended.items() if job in _owners(pod)]:
            del ended[uid]
        if not ended:
            self._ended_pods.pop(run, None)

    def warn(self, namespace: str, job: str, message: str) -> RunKey | None:
        """Keeps why a Job's pod could not be created; None where the Job is not of a known run, or where that is no
        news: the Job controller tries again and again."""
        for run, jobs in self._tables["jobs"].bodies.items():
            if run.namespace == namespace and job in jobs:
                messages = self._warnings.setdefault(run, {})
                if job in messages and not is_news(messages[job], message):
                    return None
                messages[job] = message
                return run
        return None

    def forget_unlisted(
        self, kind: str, listed: Iterable[Body], since: float, namespace: str | None
    ) -> set[RunKey]:
        """Drops what a list begun at `since` did not hold and no event has brought after; returns the runs touched."""
        there = {(run_of(kind, body), str(body["metadata"]["name"])) for body in listed}
        table = self._tables[kind]
        gone = [
            entry
            for entry, heard in table.heard.items()
            if heard < since and entry not in there and namespace in (None, entry[0].namespace)
        ]
        for run, name in gone:
            uid = _uid(table.bodies.get(run, {}).get(name, {}))
            table.drop(run, name)
            if kind == "jobs":
                self._forget_pods_of(run, uid)
        return {run for run, _ in gone}

    def every_run(self) -> list[RunKey]:
        return list(self._tables["runs"].bodies)

    def run(self, key: RunKey) -> Body | None:
        return self._tables["runs"].bodies.get(key, {}).get(key.name)

    def jobs(self, key: RunKey) -> list[Body]:
        return list(self._tables["jobs"].bodies.get(key, {}).values())

    def pods(self, key: RunKey) -> list[Body]:
        """Those that are there, and the last of those that ended and are not."""
        ended = self._ended_pods.get(key, {})
        return [*self._tables["pods"].bodies.get(key, {}).values(), *ended.values()]

    def waited(self, key: RunKey) -> dict[str, float]:
        """Job name → seconds since its oldest pod that is there was heard of first, or the Job where it has none."""
        now, jobs, pods = self._clock(), self._tables["jobs"], self._tables["pods"]
        since = {
            str(job["metadata"]["name"]): jobs.first[key, str(job["metadata"]["name"])]
            for job in self.jobs(key)
        }
        for pod in self.pods(key):
            job = (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name")
            if job in since:
                since[job] = max(since[job], pods.first.get((key, str(pod["metadata"]["name"])), 0.0))
        return {job: now - at for job, at in since.items()}

    def lost(self, key: RunKey) -> frozenset[str]:
        """Pods that should have ended long ago: their node does not answer any more."""
        now, pods = self._clock(), self._tables["pods"]
        return frozenset(
            str(pod["metadata"]["name"])
            for pod in self.pods(key)
            if now - pods.leaving.get((key, str(pod["metadata"]["name"])), now)
            > LOST_SECONDS + float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        )

    def warnings(self, key: RunKey) -> Mapping[str, str]:
        return self._warnings.get(key, {})


def _uid(body: Body) -> str:
    return str((body.get("metadata") or {}).get("uid", ""))


def _owners(body: Body) -> set[str]:
    return {str(one.get("uid")) for one in (body.get("metadata") or {}).get("ownerReferences") or []}


def _version(body: Body) -> tuple[str, str]:
    """Of which object, and of which of its states; empty where that is not known."""
    version = str((body.get("metadata") or {}).get("resourceVersion", ""))
    return (_uid(body), version) if version else ("", "")


def _newer(before: Body, body: Body) -> bool:
    """Whether the first is a later state of the same object. Where versions cannot be compared it is not."""
    versions = [str((one.get("metadata") or {}).get("resourceVersion", "")) for one in (before, body)]
    if _uid(before) != _uid(body) or not all(version.isdigit() for version in versions):
        return False
    return int(versions[0]) > int(versions[1])


_KEPT_METADATA = (
    "name", "namespace", "uid", "labels", "annotations", "generation", "ownerReferences", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion",
)  # fmt: skip
_KEPT_POD_STATUS = (
    "phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses",
)  # fmt: skip


def trimmed(kind: str, body: Body) -> Body:
    """The part that is read later: a cluster may have many pods, and their specs are long."""
    metadata = {k: v for k, v in body["metadata"].items() if k in _KEPT_METADATA}
    status = dict(body.get("status") or {})
    if kind == "runs":
        return {**body, "metadata": metadata}
    if kind == "jobs":
        return {
            "metadata": metadata,
            "spec": {"suspend": (body.get("spec") or {}).get("suspend")},
            "status": status,
        }
    return {"metadata": metadata, "status": {k: v for k, v in status.items() if k in _KEPT_POD_STATUS}}

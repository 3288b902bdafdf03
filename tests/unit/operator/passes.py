"""The operator's passes over a run, against an API server and a storage location that are kept in memory: what a test
does between the operator's reading and its writing happens exactly there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kubernetes.aio import client
from obstore.store import MemoryStore, ObjectStore
from tests.unit.operator.played import manifest
from tests.unit.planner.world import START

from gapo_operator.config import OperatorConfig, StorageLocation
from gapo_operator.kube.api_server import ApiServer
from gapo_operator.kube.client import Kube, KubeError
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import RunKey
from gapo_operator.operator_metrics import OperatorMetrics
from gapo_operator.reconcile.reconciler import Reconciler
from gapo_operator.run_metrics.backfill import Backfill
from gapo_operator.run_metrics.exporter import RunExporter
from gapo_operator.run_metrics.run_series import RunSeries
from gapo_operator.storage_pool import StoragePool
from gapo_operator.watch.cache import ClusterView

KEY = RunKey("red", "run")


class Server(Kube):
    """Answers the operator's own requests as an API server would, for one GapoRun and its Jobs."""

    def __init__(self, run: dict[str, Any]) -> None:
        super().__init__(ApiServer(client.ApiClient.__new__(client.ApiClient)))
        self.run = run
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: list[str] = []
        self.status_writes = 0
        self.refusals: dict[str, KubeError] = {}
        """By verb and plural, such as `POST jobs`."""
        self.before_status: Callable[[], None] = lambda: None
        """What somebody else does just before a status is written."""

    def version(self) -> str:
        return str(int(self.run["metadata"]["resourceVersion"]) + 1)

    def change(self, **spec: Any) -> None:
        """Somebody applies the manifest with other values."""
        self.run["spec"].update(spec)
        self.run["metadata"]["generation"] += 1
        self.run["metadata"]["resourceVersion"] = self.version()

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        **_: Any,
    ) -> dict[str, Any] | None:
        kind = next(one for one in ("gaporuns", "jobs", "events") if f"/{one}" in path)
        refusal = self.refusals.get(f"{method} {kind}")
        if refusal is not None:
            raise refusal
        if kind == "events":
            assert isinstance(body, Mapping)
            self.events.append(body["reason"])
            return {}
        if kind == "jobs":
            return self._job(method, path.rpartition("/")[2], body)
        if method == "DELETE":
            self.run["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            return {}
        self.before_status()
        assert isinstance(body, Sequence)
        self.run["status"] = copy.deepcopy(body[1]["value"])
        self.run["metadata"]["resourceVersion"] = self.version()
        self.status_writes += 1
        return copy.deepcopy(self.run)

    def _job(self, method: str, name: str, body: Any) -> dict[str, Any] | None:
        if method == "DELETE":
            self.jobs.pop(name, None)
            return {}
        name = body["metadata"]["name"]
        if name in self.jobs:
            raise KubeError(409, f'jobs.batch "{name}" already exists', "AlreadyExists")
        job = copy.deepcopy(body)
        job["metadata"] |= {"uid": f"uid-{name}", "resourceVersion": "1"}
        self.jobs[name] = job
        return copy.deepcopy(job)


class _InMemory(StoragePool):
    """Every location is a folder of memory, so that no storage service is needed."""

    def __init__(self, metrics: OperatorMetrics) -> None:
        super().__init__(metrics=metrics)
        self.memory = MemoryStore()

    def _store(self, location: StorageLocation) -> ObjectStore:
        return self.memory


class Desk:
    """One GapoRun, the operator that looks at it, and a clock that the test moves."""

    def __init__(self, **spec: Any) -> None:
        run = manifest(**spec)
        run["metadata"] |= {"uid": "uid-1", "generation": 1, "resourceVersion": "1"}
        self.server, self.seconds, self.woken = Server(run), 0.0, list[RunKey]()
        self.config = OperatorConfig.model_validate(
            {"storageLocations": [{"name": "local", "uri": "s3://runs"}], "trainer": {"image": "trainer:1"}}
        )
        self.metrics = OperatorMetrics()
        self.stores = _InMemory(self.metrics)
        self.restart()

    def restart(self) -> None:
        """Another process of the operator, which knows nothing but what the cluster shows."""
        self.view = ClusterView(lambda: self.seconds)
        exporter = RunExporter(self.metrics, RunSeries(lambda *_: True), Backfill(self.stores, self.config))
        self.reconciler = Reconciler(
            self.view, self.server, self.stores, self.config, Leadership(required=False), exporter,
            clock=self.now, wake=self.woken.append,
        )  # fmt: skip
        self.hear()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def hear(self) -> list[RunKey]:
        """What the watches tell: the runs that it wakes."""
        changed = [self.view.observe("runs", copy.deepcopy(self.server.run), deleted=False)]
        changed += [
            self.view.observe("jobs", copy.deepcopy(job), deleted=False) for job in self.server.jobs.values()
        ]
        return [key for key in changed if key is not None]

    def look(self) -> float | None:
        """One pass; when the next is wanted."""
        self.hear()
        return asyncio.run(self.reconciler.reconcile(KEY))

    def condition(self, kind: str) -> dict[str, Any]:
        condition: dict[str, Any] = next(
            one for one in self.server.run["status"]["conditions"] if one["type"] == kind
        )
        return condition

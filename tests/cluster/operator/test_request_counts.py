"""What runs cost the API server and the storage while they start and while they wait: counted over passes that the test
makes itself, one after the other, so that nothing depends on how fast anything is."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import config
from tests.cluster.control_plane import ControlPlane
from tests.cluster.s3 import REGION, S3Server

from gapo_operator.config import OperatorConfig
from gapo_operator.kube.api_server import ApiServer
from gapo_operator.kube.client import Kube, ListenedClient
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import RunKey
from gapo_operator.operator_metrics import OperatorMetrics
from gapo_operator.reconcile.reconciler import Reconciler
from gapo_operator.run_metrics.backfill import Backfill
from gapo_operator.run_metrics.exporter import RunExporter
from gapo_operator.run_metrics.run_series import RunSeries
from gapo_operator.storage_pool import StoragePool
from gapo_operator.watch.cache import ClusterView

pytestmark = pytest.mark.cluster
RUNS, LOOKS = 5, 4


class Operator:
    """The operator's parts without its watches and its queue."""

    def __init__(self, kube: Kube, config: OperatorConfig, metrics: OperatorMetrics) -> None:
        self.kube, self.metrics, self.view = kube, metrics, ClusterView()
        self.stores, self.woken = StoragePool(metrics=metrics), Counter[RunKey]()
        exporter = RunExporter(metrics, RunSeries(lambda *_: True), Backfill(self.stores, config))
        leadership = Leadership(required=False)
        self.reconciler = Reconciler(
            self.view, kube, self.stores, config, leadership, exporter, wake=lambda key: self.woken.update([key])
        )  # fmt: skip

    async def hear(self, namespace: str) -> list[RunKey]:
        """What the watches would tell; the runs that it wakes."""
        woken = []
        for kind in ("runs", "jobs", "pods"):
            for body in await self.kube.list_objects(kind, namespace):
                woken.append(self.view.observe(kind, body, deleted=False))
        return sorted({key for key in woken if key is not None})

    def asked(self) -> Counter[str]:
        """Requests until now: verbs to the API server, and `storage`. Lists are the test's own."""
        requests: Counter[str] = Counter()
        for name, histogram in (
            ("", self.metrics.kubernetes_requests),
            ("storage", self.metrics.store_requests),
        ):
            for family in histogram.collect():
                for sample in family.samples:
                    if sample.name.endswith("_count") and sample.labels["op"] != "list":
                        requests[name or sample.labels["op"]] += int(sample.value)
        return requests


class World:
    """A namespace, and what a test does in it."""

    def __init__(self, cluster: ControlPlane, s3: S3Server, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.keys = [RunKey(namespace, f"run-{number}") for number in range(RUNS)]
        location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
        document = {"storageLocations": [location], "trainer": {"image": "trainer:test"}}
        self.config = OperatorConfig.model_validate(document)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.stdout_of("-n", self.namespace, *arguments, stdin=stdin)

    def apply(self) -> None:
        spec = {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": 2},
            "storage": {"location": "local"},
        }
        for key in self.keys:
            metadata = {"name": key.name, "namespace": key.namespace}
            document = {
                "apiVersion": "gapo.dev/v1alpha1",
                "kind": "GapoRun",
                "metadata": metadata,
                "spec": spec,
            }
            self.kubectl("create", "-f", "-", stdin=json.dumps(document))

    def quota(self, used: int, hard: int = 3) -> None:
        """There is no controller here that would count what a quota holds."""
        self.cluster.run("-n", self.namespace, "create", "quota", "jobs", f"--hard=count/jobs.batch={hard}")
        amounts = {"hard": {"count/jobs.batch": str(hard)}, "used": {"count/jobs.batch": str(used)}}
        patch = ["patch", "quota", "jobs", "--subresource=status", "--type=merge", "-p"]
        self.kubectl(*patch, json.dumps({"status": amounts}))

    def conditions(self, key: RunKey) -> dict[str, dict[str, Any]]:
        status = json.loads(self.kubectl("get", "gaporun", key.name, "-o", "json"))["status"]
        return {condition["type"]: condition for condition in status["conditions"]}

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        metrics = OperatorMetrics()
        await config.load_kube_config(config_file=str(self.cluster.kubeconfig))
        async with ListenedClient(metrics.kubernetes_request) as api:
            operator = Operator(Kube(ApiServer(api)), self.config, metrics)
            yield operator
            operator.stores.close()

    def play(self, scene: Callable[[Operator], Awaitable[None]]) -> None:
        async def played() -> None:
            async with self.operator() as operator:
                await scene(operator)

        asyncio.run(played())

    async def look(self, operator: Operator, times: int = 1) -> list[float | None]:
        """Passes over every run; when the last ones want the next."""
        waits: list[float | None] = []
        for _ in range(times):
            waits = [await operator.reconciler.reconcile(key) for key in self.keys]
        return waits


@pytest.fixture
def world(
    cluster: ControlPlane, s3: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[World]:
    for name, value in s3.operator.environment().items():
        monkeypatch.setenv(name, value)
    namespace = f"r{abs(hash(request.node.nodeid)) % 10**9}"
    cluster.stdout_of("create", "namespace", namespace)
    yield World(cluster, s3, namespace)
    cluster.run("delete", "namespace", namespace, "--wait=false")


def test_a_start_takes_a_job_an_event_and_two_status_writes(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.apply()
        assert await operator.hear(world.namespace) == world.keys
        await operator.reconciler.reconcile(world.keys[0])  # looks at the location too
        before = operator.asked()
        await operator.reconciler.reconcile(world.keys[1])
        after = operator.asked() - before
        assert (after["create"], after["patch"]) == (2, 2)
        assert after["storage"] <= 12
        # The Job is in the status already, though nothing has told of it but the answer to its creation.
        run = json.loads(world.kubectl("get", "gaporun", "run-1", "-o", "json"))
        assert [(task["kind"], task["state"]) for task in run["status"]["tasks"]] == [("data", "Pending")]

    world.play(scene)


def test_the_watch_wakes_no_run_for_what_the_operator_has_written_itself(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator)
        assert await operator.hear(world.namespace) == []
        world.kubectl("annotate", "gaporun", "run-2", "example.com/touched=yes")
        assert await operator.hear(world.namespace) == [RunKey(world.namespace, "run-2")]

    world.play(scene)


@pytest.mark.parametrize("state", ["pending", "queued"])
def test_runs_whose_pods_wait_cost_nothing(world: World, state: str) -> None:
    async def scene(operator: Operator) -> None:
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator)
        if state == "queued":  # as Kueue holds it
            for job in world.kubectl("get", "jobs", "-o", "name").split():
                world.kubectl("patch", job, "--type=merge", "-p", '{"spec": {"suspend": true}}')
            await operator.hear(world.namespace)
            await world.look(operator)
        before = operator.asked()
        waits = await world.look(operator, LOOKS)
        assert operator.asked() - before == Counter()
        # Pods that wait are looked at when they have waited too long (15 minutes), queued ones when they are told of.
        assert all(wait is None or wait > 800 for wait in waits)

    world.play(scene)


def test_pods_that_are_refused_in_ever_other_words_cost_one_status_write(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator)
        jobs = [name.partition("/")[2] for name in world.kubectl("get", "jobs", "-o", "name").split()]
        for number in range(LOOKS):
            before = operator.asked()
            for job in jobs:
                refusal = (
                    f'Error creating: pods "{job}-x{number}" is forbidden: exceeded quota: team, requested: '
                )
                amounts = f"pods=1, used: pods={10 + number}, limited: pods=10"
                operator.view.warn(world.namespace, job, refusal + amounts)
            await world.look(operator)
            assert operator.asked() - before == (Counter(patch=RUNS) if number == 0 else Counter())
        assert world.conditions(world.keys[0])["TasksHealthy"]["reason"] == "QuotaExceeded"

    world.play(scene)


def test_runs_that_wait_for_a_quota_of_jobs_ask_for_it_rarely_and_do_nothing_else(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.quota(used=3)
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator, 2)
        assert {world.conditions(key)["TasksHealthy"]["reason"] for key in world.keys} == {"QuotaExceeded"}
        before, waits = operator.asked(), []
        for used in range(LOOKS):
            world.quota(used=10 + used)  # of which every refusal tells
            waits = await world.look(operator)
        assert operator.asked() - before == Counter(create=RUNS * LOOKS)
        assert all(wait is not None and 1 / wait < 0.02 for wait in waits)

    world.play(scene)


def test_a_run_that_waits_for_a_quota_starts_as_soon_as_another_makes_room(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.quota(used=0, hard=RUNS - 1)
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator, 3)
        (waiting,) = [key for key in world.keys if not operator.view.jobs(key)]
        assert operator.woken == Counter()
        gone = world.keys[0]
        world.kubectl("delete", "gaporun", gone.name)
        body = operator.view.run(gone)
        assert body is not None
        operator.view.observe("runs", body, deleted=True)
        world.quota(used=0, hard=RUNS - 1)
        assert await operator.reconciler.reconcile(gone) is None
        assert operator.woken == Counter([waiting])
        await operator.reconciler.reconcile(waiting)
        assert len(operator.view.jobs(waiting)) == 1
        assert world.conditions(waiting)["TasksHealthy"]["status"] == "True"

    world.play(scene)


def test_a_changed_manifest_is_tried_at_once_and_told_anew(world: World) -> None:
    async def scene(operator: Operator) -> None:
        world.quota(used=3)
        world.apply()
        await operator.hear(world.namespace)
        await world.look(operator, 4)
        world.kubectl("patch", "gaporun", "run-0", "--type=merge", "-p", '{"spec": {"stages": {"max": 3}}}')
        assert await operator.hear(world.namespace) == [world.keys[0]]
        wait = await operator.reconciler.reconcile(world.keys[0])
        assert wait is not None
        assert wait <= 6
        assert world.conditions(world.keys[0])["TasksHealthy"]["observedGeneration"] == 2

    world.play(scene)

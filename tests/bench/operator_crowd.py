"""What a hundred GapoRuns that come at once take of the operator, and what they cost while they wait: part of
`make bench-operator`.

Against a real API server, etcd and S3 server, with the operator's own process. No pods are played: a run has started
when its first Job is there. Then as many runs more, in a namespace whose quota has no room for a Job.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from kubernetes import client, config, watch
from prometheus_client.parser import text_string_to_metric_families
from tests.bench.operator_room import NAMESPACE, manifest, running_operator
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.processes import wait_until
from tests.cluster.s3 import s3_server
from urllib3.exceptions import HTTPError

POOR = "poor"
"""The namespace that may have no Job."""
WRITERS = 8
SETTLE_SECONDS = 60.0
"""After the last run was told why it waits, until it counts as at rest."""
OPERATOR = "operator"
KUBERNETES, STORAGE = "gapo_kubernetes_request_duration_seconds", "gapo_object_store_request_duration_seconds"

Row = tuple[str, list[float], str]


@dataclass(frozen=True)
class Spent:
    """What the operator has spent since its start, or between two moments."""

    seconds: float
    cpu: dict[str, float]
    """Seconds of CPU time by program, the servers beside the operator's too: they share the machine."""
    kubernetes: dict[str, float]
    """Requests to the API server by verb; watches and the Lease's renewals are not among them."""
    storage: dict[str, float]
    """Requests to object storage by operation."""

    def since(self, before: Spent) -> Spent:
        def less(now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
            return {key: now[key] - then.get(key, 0.0) for key in now if now[key] > then.get(key, 0.0)}

        return Spent(
            self.seconds - before.seconds,
            less(self.cpu, before.cpu),
            less(self.kubernetes, before.kubernetes),
            less(self.storage, before.storage),
        )


def spent(process: OperatorProcess) -> Spent:
    counts: dict[str, dict[str, float]] = {KUBERNETES: {}, STORAGE: {}}
    text = process.get("/metrics", port=process.metrics_port)[1]
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name in counts else ():
            if sample.name.endswith("_count"):
                of = counts[family.name]
                of[sample.labels["op"]] = of.get(sample.labels["op"], 0.0) + sample.value
    return Spent(time.monotonic(), cpu_times(process), counts[KUBERNETES], counts[STORAGE])


def cpu_times(process: OperatorProcess) -> dict[str, float]:
    assert process.popen is not None
    found: dict[str, float] = {}
    for child in psutil.Process().children():
        name = OPERATOR if child.pid == process.popen.pid else child.name()
        times = child.cpu_times()
        found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def resident(process: OperatorProcess) -> float:
    assert process.popen is not None
    return psutil.Process(process.popen.pid).memory_info().rss / 2**20


@contextmanager
def heard(cluster: ControlPlane, namespace: str) -> Iterator[dict[str, float]]:
    """Run → when its first Job was heard of, from now on."""
    first: dict[str, float] = {}
    listening, stop = threading.Event(), threading.Event()
    api = client.BatchV1Api(config.new_client_from_config(str(cluster.kubeconfig)))

    def listen() -> None:
        api.list_namespaced_job(namespace)  # a connection that is open already hears at once
        listening.set()
        while not stop.is_set():
            with suppress(client.ApiException, HTTPError):  # the server is behind itself, or gone
                for event in watch.Watch().stream(api.list_namespaced_job, namespace, timeout_seconds=30):
                    run = event["raw_object"]["metadata"]["labels"]["gapo.dev/run"]
                    first.setdefault(run, time.monotonic())
                    if stop.is_set():
                        return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert listening.wait(60)
    yield first
    stop.set()


def write(cluster: ControlPlane, namespace: str, runs: int) -> None:
    api = client.CustomObjectsApi(config.new_client_from_config(str(cluster.kubeconfig)))

    def write_one(number: int) -> None:
        document = manifest(f"run-{number}", namespace)
        api.create_namespaced_custom_object("gapo.dev", "v1alpha1", namespace, "gaporuns", document)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write_one, range(runs)))


def no_room(cluster: ControlPlane, namespace: str) -> None:
    """A quota without room for a Job. There is no controller here that would count what it holds."""
    cluster.stdout_of("create", "namespace", namespace)
    cluster.stdout_of("create", "quota", "none", "--hard=count/jobs.batch=0", "-n", namespace)
    amounts = {"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}
    patch = ["patch", "quota", "none", "--subresource=status", "--type=merge", "-p", json.dumps(amounts)]
    cluster.stdout_of(*patch, "-n", namespace)


def told_why(cluster: ControlPlane, namespace: str) -> int:
    """How many runs say that they wait for the quota."""
    items = json.loads(cluster.stdout_of("get", "gaporuns", "-n", namespace, "-o", "json"))["items"]
    conditions = [c for item in items for c in item.get("status", {}).get("conditions", [])]
    return sum(c["type"] == "TasksHealthy" and c["reason"] == "QuotaExceeded" for c in conditions)


def settled(process: OperatorProcess, holds: Callable[[], bool], what: str) -> Spent:
    wait_until(holds, what, every=0.2)
    return spent(process)


def starts(cluster: ControlPlane, process: OperatorProcess, runs: int) -> list[Row]:
    with heard(cluster, NAMESPACE) as first:
        began, before = time.monotonic(), spent(process)
        write(cluster, NAMESPACE, runs)
        written = time.monotonic() - began
        after = settled(process, lambda: len(first) == runs, "every run has a Job").since(before)
        all_started = max(first.values()) - began
    each = f"of {runs} that come at once"
    return [
        (f"writing {runs} GapoRuns to the API server", [written], "s"),
        (f"first GapoRun written → first Job, {each}", sorted(at - began for at in first.values()), "s"),
        ("starts", [runs / all_started], "a second"),
        *((f"CPU time of {name}, a start", [1000 * cpu / runs], "ms") for name, cpu in sorted(after.cpu.items())),
        ("requests to the API server, a start", [sum(after.kubernetes.values()) / runs], by_kind(after.kubernetes, runs)),
        ("requests to storage, a start", [sum(after.storage.values()) / runs], by_kind(after.storage, runs)),
    ]  # fmt: skip


def by_kind(counts: dict[str, float], runs: int) -> str:
    return ", ".join(f"{kind} {count / runs:.2g}" for kind, count in sorted(counts.items()))


def rest(process: OperatorProcess, runs: int, seconds: float, what: str) -> list[Row]:
    time.sleep(SETTLE_SECONDS)
    before = spent(process)
    time.sleep(seconds)
    after = spent(process).since(before)
    asked = sum(after.kubernetes.values())
    return [
        (f"{what}: requests to the API server, a run", [asked / after.seconds / runs], "a second"),
        (f"{what}: status writes", [after.kubernetes.get("patch", 0.0) / after.seconds], "a second"),
        (f"{what}: requests to storage", [sum(after.storage.values()) / after.seconds], "a second"),
        (f"{what}: CPU", [100 * after.cpu.get(OPERATOR, 0.0) / after.seconds], "% of a core"),
    ]


def crowd(runs: int, idle_seconds: float) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, control_plane(Path(name)) as cluster:
        folder = Path(name)
        (folder / "s3-files").mkdir()
        with (
            s3_server(folder / "s3-files") as s3,
            running_operator(cluster, s3, folder, "trainer") as (process, _),
        ):
            rows = starts(cluster, process, runs)
            rows += rest(process, runs, idle_seconds, f"{runs} runs whose pods wait")
            no_room(cluster, POOR)
            write(cluster, POOR, runs)
            settled(process, lambda: told_why(cluster, POOR) == runs, "every run says why it waits")
            rows += rest(process, 2 * runs, idle_seconds, f"with {runs} more, whose Jobs a quota refuses")
            rows.append((f"resident memory, {2 * runs} runs that wait", [resident(process)], "MiB"))
            return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--idle", type=float, default=120.0)
    arguments = parser.parse_args()
    for what, values, unit in crowd(arguments.runs, arguments.idle):
        middle = values[len(values) // 2]
        sys.stdout.write(f"{what}: {middle:.3g} (largest {values[-1]:.3g}) {unit}\n")
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

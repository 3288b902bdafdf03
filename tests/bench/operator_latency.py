"""`make bench-operator`: how quick and how small the operator is.

Against a real API server, etcd and S3 server, with the operator's own process: its start, the time from `kubectl apply`
to the first Job, from a task's manifest and from its Job's end to the next Job, and what it takes while nothing
happens. Pods are played within milliseconds, so that nothing but the operator is measured. A hundred runs that come at
once, and that wait: `operator_crowd.py`. On the test node, with the real Job controller: from `kubectl apply` to the
first pod.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from kubernetes import client, config, watch
from tests.bench.experiments import machine, write_page
from tests.bench.operator_crowd import crowd
from tests.bench.operator_room import NAMESPACE, manifest, running_operator
from tests.cluster import images
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.instant_pods import SELECTOR, InstantPods, instant_pods
from tests.cluster.node import node
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.processes import wait_until
from tests.cluster.s3 import s3_server

CROWD = 100
NEXT = {"0/data/0": "0/sft/0", "0/sft/0": "0/evaluate/0", "1/ppo/0": "1/evaluate/0", "1/rm/0": "2/ppo/0"}
"""Tasks and one that only waits for them: which of stage 0's evaluation's inputs comes last is looked up."""


def finished(cluster: ControlPlane) -> int:
    said = json.loads(cluster.stdout_of("get", "gaporuns", "-n", NAMESPACE, "-o", "json"))["items"]
    return sum(item.get("status", {}).get("state") == "Succeeded" for item in said)


def latencies(runs: int, idle_seconds: float) -> list[tuple[str, Sequence[float], str]]:
    with tempfile.TemporaryDirectory() as name, control_plane(Path(name)) as cluster:
        folder = Path(name)
        (folder / "s3-files").mkdir()
        with (
            s3_server(folder / "s3-files") as s3,
            running_operator(cluster, s3, folder, "trainer") as (process, ready),
        ):
            with instant_pods(cluster.kubeconfig, NAMESPACE) as pods:
                applied = {}
                for number in range(runs):
                    run = f"run-{number}"
                    applied[run] = time.monotonic()
                    cluster.stdout_of("apply", "-f", "-", stdin=json.dumps(manifest(run)))
                    wait_until(lambda: finished(cluster) == number + 1, f"{run} is done", every=0.5)  # noqa: B023
                found = intervals(pods, applied)
            rss, cpu = at_rest(process, idle_seconds)
    return [
        ("start → ready (CRD, RBAC and API server there)", [ready], "s"),
        ("`kubectl apply` called → first Job seen", found["apply"], "s"),
        ("manifest created → next Job seen", found["committed"], "s"),
        ("Job complete → next Job seen", found["completed"], "s"),
        (f"resident memory at rest, {runs} finished runs", [rss], "MiB"),
        (f"CPU at rest over {idle_seconds:.0f} s", [cpu], "% of a core"),
    ]


def intervals(pods: InstantPods, applied: dict[str, float]) -> dict[str, list[float]]:
    """By what it is counted from. The next Job is the one that waited for that task alone."""
    at = {(what, run, task): moment for moment, what, run, task in pods.trace}
    found: dict[str, list[float]] = {"apply": [], "committed": [], "completed": []}
    for run, began in applied.items():
        found["apply"].append(at["taken", run, "0/data/0"] - began)
        for task, following in NEXT.items():
            if task == "0/sft/0":
                task = max(("0/sft/0", "0/rm-warmup/0"), key=lambda one: at["committed", run, one])
            for what in ("committed", "completed"):
                found[what].append(max(0.0, at["taken", run, following] - at[what, run, task]))
    return found


def at_rest(process: OperatorProcess, seconds: float) -> tuple[float, float]:
    """MiB and per cent of a core."""
    assert process.popen is not None
    watched = psutil.Process(process.popen.pid)
    time.sleep(5)
    before = watched.cpu_times()
    time.sleep(seconds)
    after = watched.cpu_times()
    used = after.user + after.system - before.user - before.system
    return watched.memory_info().rss / 2**20, 100 * used / seconds


def to_first_pod(times: int) -> list[float]:
    """Seconds from `kubectl apply` to the first pod, with Kubernetes' own Job controller."""
    with tempfile.TemporaryDirectory() as name, node(Path(name), (images.PAUSE,)) as cluster:
        folder = Path(name)
        (folder / "s3-files").mkdir()
        with s3_server(folder / "s3-files") as s3, running_operator(cluster, s3, folder, images.PAUSE):
            seen: dict[str, float] = {}
            stop = threading.Event()
            api = config.new_client_from_config(str(cluster.kubeconfig))

            def look() -> None:
                while not stop.is_set():
                    stream = watch.Watch().stream(
                        client.CoreV1Api(api).list_namespaced_pod,
                        NAMESPACE,
                        label_selector=SELECTOR,
                        timeout_seconds=2,
                    )
                    for event in stream:
                        seen.setdefault(
                            event["raw_object"]["metadata"]["labels"]["gapo.dev/run"], time.monotonic()
                        )

            thread = threading.Thread(target=look, daemon=True)
            thread.start()
            found = []
            for number in range(times):
                run = f"run-{number}"
                began = time.monotonic()
                cluster.stdout_of("apply", "-f", "-", stdin=json.dumps(manifest(run)))
                wait_until(lambda: run in seen, f"{run} has a pod", every=0.02)  # noqa: B023
                found.append(seen[run] - began)
                cluster.stdout_of("delete", "gaporun", run, "-n", NAMESPACE, "--wait=false")
            stop.set()
            thread.join(10)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    arguments = parser.parse_args()
    rows = latencies(arguments.runs, arguments.idle)
    rows.insert(2, ("`kubectl apply` called → first pod seen", to_first_pod(arguments.runs), "s"))
    rows += crowd(CROWD, arguments.idle)
    images.prepare((images.OPERATOR,))
    size = images.compressed_size(images.OPERATOR) / 1e6
    rows.append(("the operator's image, base included, as compressed layers", [size], "MB"))
    lines = [
        "# The operator",
        "",
        f"Command: `make bench-operator`, {arguments.runs} runs of 10 tasks one after the other. Machine: {machine()}; "
        f"Kubernetes 1.34.4, versitygw 1.8.0.",
        "",
        "| what | n | p50 | p95 | largest | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for what, values, unit in rows:
        ordered = sorted(values)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        figures = (statistics.median(ordered), p95, ordered[-1])
        lines.append(
            f"| {what} | {len(values)} | " + " | ".join(f"{v:.3g}" for v in figures) + f" | {unit} |"
        )
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        write_page(arguments.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

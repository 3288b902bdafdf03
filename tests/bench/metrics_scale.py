"""`make bench-metrics`: what it costs the operator to tell of 1,000 runs that have ended, and how soon after a start it does.

Against a real API server, etcd and S3 server, with the operator's own process. One run of twelve stages is made by the
operator's own passes over tasks that commit at once; its last decision and its export are stored under 1,000 names, and
1,000 GapoRuns with its status are written to the API server. Each has as many series as a run may have.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from kubernetes import client, config
from obstore.store import MemoryStore
from tests.bench.experiments import machine, write_page
from tests.cluster.control_plane import ControlPlane, control_plane, install_crd
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.processes import wait_until
from tests.cluster.s3 import REGION, S3Server, s3_server
from tests.unit.operator import played

from gapo.store import layout
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task
from gapo_operator.reconcile.status import Findings, status_of

STAGES = 12
MANY, ONE = "many", "one"
"""Namespaces: of all runs but one, and of that one."""
FAMILIES = 8
WRITERS = 16
SCRAPES = 20


def measured(task: Task) -> dict[str, float]:
    """What tasks of a real run measure, by name; the numbers differ from stage to stage."""
    k, wall = task.stage, {"wall/seconds": 100.0 + task.stage}
    share = 0.5 + 0.01 * k
    if task.kind is Kind.EVALUATE:
        names = ("eval/satisfaction_lo", "eval/satisfaction_hi", "fidelity/auc", "fidelity/ece",
                 "rm/prompt_swap_gap", "rm/score_generated", "eval/kl_sft", "eval/response_length",
                 "eval/distinct_responses")  # fmt: skip
        families = {f"eval/family/family.number{n}": share for n in range(FAMILIES)}
        cells = {f"crossplay/auc/{rm}/{k}": share for rm in range(k)}
        own = {"eval/satisfaction": 0.4 + 0.03 * k, "eval/satisfaction_n": 2000.0}
        return {**own, **dict.fromkeys(names, share), **families, **scores("generated"), **cells, **wall}
    if task.kind in (Kind.RM, Kind.RM_WARMUP):
        names = ("rm/pair_accuracy", "rm/adversarial_auc", "rm/memorisation_gap")
        return {**dict.fromkeys(names, share), **scores("accepted"), **scores("rejected"), **wall}
    if task.kind is Kind.PPO:
        names = ("ppo/reward", "ppo/kl", "ppo/entropy", "ppo/clip_fraction", "critic/explained_variance")
        return {**dict.fromkeys(names, share), "ppo/rollouts": 64.0, **wall}
    if task.kind is Kind.EXPORT:
        return {"export/stage": float(k), "test/best_satisfaction": 0.7, "test/gain": 0.3, **wall}
    return wall


def scores(group: str) -> dict[str, float]:
    return {
        f"scores/{group}/le_{bound}": float(bound) for bound in ("0.2", "0.4", "0.6", "0.8", "0.95", "1.0")
    }


class Template:
    """One run that has ended: its records that are read after a restart, its manifest, its status."""

    def __init__(self) -> None:
        objects, run = Objects(MemoryStore()), played.loaded(stages={"max": STAGES})
        outcome = played.play(objects, run, metrics=measured)
        export = layout.manifest(STAGES, Kind.EXPORT.value, 0)
        self.run_id = run.run_id
        self.records = {key: objects.get(key) or b"" for key in (layout.decision(STAGES), export)}
        findings = Findings(
            generation=1,
            run_id=run.run_id,
            spec=run.spec,
            location="s3://runs/many/run/id",
            status=outcome.plan.status,
            seen=outcome.seen,
            figures=outcome.figures,
        )
        self.status = status_of(findings, None, datetime.now(UTC))

    def manifest(self, namespace: str, name: str) -> dict[str, Any]:
        return played.manifest(name, namespace, stages={"max": STAGES})


def write(cluster: ControlPlane, s3: S3Server, runs: int) -> None:
    """The runs, in storage and on the API server."""
    template, root = Template(), s3.objects(s3.operator)
    api = client.CustomObjectsApi(config.new_client_from_config(str(cluster.kubeconfig)))

    def write_one(number: int) -> None:
        namespace, name = (ONE if number == 0 else MANY), f"run-{number}"
        below = root.under(layout.run_prefix(namespace, name, template.run_id))
        for key, data in template.records.items():
            below.put(key, data)
        at = ("gapo.dev", "v1alpha1", namespace, "gaporuns")
        api.create_namespaced_custom_object(*at, template.manifest(namespace, name))
        api.patch_namespaced_custom_object_status(*at, name, {"status": template.status})

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write_one, range(runs)))


@contextmanager
def started(
    cluster: ControlPlane, s3: S3Server, folder: Path, *arguments: str
) -> Iterator[tuple[OperatorProcess, float]]:
    """The operator, and when it was started."""
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    path = folder / "operator.yaml"
    path.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer"}}))
    began = time.monotonic()
    with operator(folder, cluster.kubeconfig, path, *arguments) as process:
        yield process, began


def scraped(process: OperatorProcess) -> str:
    return process.get("/metrics", port=process.metrics_port)[1]


def stages_told(text: str) -> int:
    return sum(line.startswith("gapo_stage_satisfaction_ratio{") for line in text.splitlines())


def until_told(process: OperatorProcess, began: float, runs: int) -> float:
    """Seconds until every stage of so many runs is told of."""
    wanted = runs * (STAGES + 1)
    wait_until(lambda: stages_told(scraped(process)) == wanted, f"{runs} runs are told of", every=2.0)
    return time.monotonic() - began


def timed(times: int, work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(times):
        began = time.monotonic()
        work()
        found.append(time.monotonic() - began)
    return found


Row = tuple[str, Iterable[float], str]


def measure(runs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, control_plane(Path(name)) as cluster:
        folder = Path(name)
        (folder / "s3-files").mkdir()
        with s3_server(folder / "s3-files") as s3:
            install_crd(cluster)
            for namespace in (MANY, ONE):
                cluster.stdout_of("create", "namespace", namespace)
            os.environ.update(s3.operator.environment())
            write(cluster, s3, runs)
            with started(cluster, s3, folder, "--namespace", ONE) as (process, began):
                alone = until_told(process, began, 1)
                empty = memory(process)
            with started(cluster, s3, folder) as (process, began):
                process.wait_until_ready()
                ready = time.monotonic() - began
                served = until_told(process, began, runs)
                text = scraped(process)
                times = timed(SCRAPES, lambda: scraped(process))
                full = memory(process)
    series = [
        line for line in text.splitlines() if line.startswith(("gapo_run_", "gapo_stage_")) and "run=" in line
    ]
    return [
        ("start → 1 finished run served", [alone], "s"),
        ("start → ready", [ready], "s"),
        (f"start → {runs} finished runs served", [served], "s"),
        ("one scrape", times, "s"),
        ("length of a scrape", [len(text) / 2**20], "MiB"),
        ("series of runs", [len(series)], ""),
        ("series a run", [len(series) / runs], ""),
        ("resident memory with 1 run", [empty], "MiB"),
        (f"resident memory with {runs} runs", [full], "MiB"),
    ]


def memory(process: OperatorProcess) -> float:
    assert process.popen is not None
    return psutil.Process(process.popen.pid).memory_info().rss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    lines = [
        "# What runs cost the operator's metrics",
        "",
        f"Command: `make bench-metrics`, {arguments.runs} GapoRuns of {STAGES} stages that have succeeded. Machine: "
        f"{machine()}; Kubernetes 1.34.4, versitygw 1.8.0, all of them on it; its load average "
        f"before was {load:.1f}.",
        "",
        "| what | n | p50 | largest | |",
        "|---|---:|---:|---:|---|",
    ]
    for what, values, unit in measure(arguments.runs):
        ordered = sorted(values)
        lines.append(
            f"| {what} | {len(ordered)} | {shown(statistics.median(ordered))} | {shown(ordered[-1])} | {unit} |"
        )
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        write_page(arguments.write, text)
    return 0


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())

"""The documented scrape configuration in a real Prometheus, which is told of pods as its own discovery would tell."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Gauge
from tests.cluster.pod_discovery import targets
from tests.cluster.processes import free_ports
from tests.monitoring.prometheus import needs_prometheus, prometheus

from gapo.api.load import load_run
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.metrics.http import SampleCollector, serve
from gapo.metrics.samples import run_samples, task_samples
from gapo.planning.preview import preview
from gapo.tasks import Kind, TaskKey
from gapo_operator.config import OperatorConfig, load_config
from gapo_operator.render.names import Owner
from gapo_operator.render.pod import pod_template

pytestmark = [pytest.mark.slow, needs_prometheus]

ROOT = Path(__file__).parents[2]
JOBS = yaml.safe_load((ROOT / "docs" / "prometheus-scrape.yaml").read_text())["scrape_configs"]
RUN_ID = "0123456789ab"


class Documented:
    """A job of the file, whose pods are read from another."""

    def __init__(self, job: dict[str, Any], pods: Path) -> None:
        self.job, self.pods = job, pods

    def config(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.job.items() if key != "kubernetes_sd_configs"}
        return {**kept, "scrape_interval": "1s", "file_sd_configs": [{"files": [str(self.pods)]}]}


def pod(name: str, namespace: str, template: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, **template["metadata"]}
    return {"metadata": metadata, "spec": template["spec"], "status": {"podIP": "127.0.0.1", "phase": phase}}


def task_template(port: int) -> dict[str, Any]:
    """Of a reward model's pod, as the operator renders it."""
    spec = load_run(ROOT / "examples" / "smoke.yaml").spec
    task = next(t for t in preview(spec, RUN_ID).tasks if t.key == TaskKey(2, Kind.RM))
    config: OperatorConfig = load_config(ROOT / "tests" / "cluster" / "operator.yaml")
    trainer = config.trainer.model_copy(update={"metrics_port": port})
    config = config.model_copy(update={"trainer": trainer})
    return pod_template(task, spec, Owner("smoke", "red", RUN_ID), config, claim=0)


def operator_template(port: int) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 1}, {"name": "metrics", "containerPort": port}]
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": "gapo-operator"}},
        "spec": {"containers": [{"ports": ports}]},
    }


def test_pods_are_found_named_and_believed_as_far_as_is_theirs(tmp_path: Path) -> None:
    theirs, ours, gone = free_ports(3)
    truth = RunFigures("red", "smoke", "Running", stages={1: {"eval/satisfaction": 0.5}}, stage=2)
    forged = RunFigures("red", "other", "Succeeded", stages={1: {"eval/satisfaction": 1.0}})
    figures = TaskFigures(progress_percentage=25.0, metrics={"wall/update": 3.0}, started=1000.0)
    pods = [
        pod("task", "red", task_template(theirs)),
        pod("task-before", "red", task_template(gone), "Succeeded"),
        pod("operator", "gapo-system", operator_template(ours)),
    ]
    (tmp_path / "pods.json").write_text(json.dumps(targets(pods)))
    with ExitStack() as stack:
        tasks, lies, runs = (
            SampleCollector(lambda samples=samples: samples)
            for samples in (task_samples({}, figures), run_samples(forged), run_samples(truth))
        )
        leads = Gauge("gapo_leader", "An operator, so it says", registry=None)
        leads.set(1)
        stack.enter_context(serve([tasks, lies, leads], "127.0.0.1", theirs))
        stack.enter_context(serve([runs], "127.0.0.1", ours))
        documented = [Documented(job, tmp_path / "pods.json") for job in JOBS]
        scraping = stack.enter_context(prometheus(tmp_path, documented))
        scraping.wait_until_answered("sum(up) == 2", "both pods are scraped")

        def labels(expression: str) -> list[dict[str, str]]:
            scraping.wait_until_answered(expression, f"{expression} has an answer")
            series = scraping.api.instant(expression, time.time())
            return [{k: v for k, v in one.labels.items() if k != "instance"} for one in series]

        task = {"job": "gapo-tasks", "namespace": "red", "pod": "task", "run": "smoke", "stage": "2"}
        task |= {"role": "rewardModel"}
        assert labels("gapo_task_progress_ratio == 0.25") == [
            {"__name__": "gapo_task_progress_ratio", **task}
        ]
        assert labels("gapo_task_phase_seconds_total == 3") == [
            {"__name__": "gapo_task_phase_seconds_total", "kind": "update", **task}
        ]
        assert labels("gapo_stage_satisfaction_ratio") == [
            {
                "__name__": "gapo_stage_satisfaction_ratio", "job": "gapo-operator", "namespace": "red",
                "pod": "operator", "run": "smoke", "stage": "1",
            }
        ]  # fmt: skip
        of_tasks = {one["__name__"] for one in labels('{__name__=~"gapo_.*", job="gapo-tasks"}')}
        assert of_tasks
        assert all(name.startswith("gapo_task_") for name in of_tasks)
        assert {one["run"] for one in labels('{__name__=~"gapo_(run|stage)_.*"}')} == {"smoke"}
        assert {one["pod"]: one["namespace"] for one in labels("up")} == {
            "task": "red", "operator": "gapo-system",
        }  # fmt: skip

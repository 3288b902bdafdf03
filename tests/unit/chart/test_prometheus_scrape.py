"""The documented scrape configuration, against the pods that the operator renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.chart.relabelling import meta, relabelled

from gapo.api.load import load_run
from gapo.planning.preview import preview
from gapo.tasks import Kind, TaskKey
from gapo_operator.config import load_config
from gapo_operator.render.names import Owner
from gapo_operator.render.pod import pod_template

ROOT = Path(__file__).parents[3]
JOBS: dict[str, dict[str, Any]] = {
    job["job_name"]: job
    for job in yaml.safe_load((ROOT / "docs" / "prometheus-scrape.yaml").read_text())["scrape_configs"]
}
OPERATOR = {
    "metadata": {
        "labels": {"app.kubernetes.io/name": "gapo-operator", "app.kubernetes.io/managed-by": "Helm"}
    }
}

SMOKE = {
    Kind.DATA: "data",
    Kind.SFT: "generator",
    Kind.RM_WARMUP: "rewardModel",
    Kind.PPO: "generator",
    Kind.EVALUATE: "evaluation",
    Kind.RM: "rewardModel",
}


def task_pod(kind: Kind = Kind.PPO, stage: int = 2) -> dict[str, Any]:
    spec = load_run(ROOT / "examples" / "smoke.yaml").spec
    task = next(t for t in preview(spec, "0123456789ab").tasks if t.key == TaskKey(stage, kind))
    config = load_config(ROOT / "tests" / "cluster" / "operator.yaml")
    return pod_template(task, spec, Owner("smoke", "red", "0123456789ab"), config, claim=0)


def test_a_tasks_series_are_named_after_the_labels_of_its_pod() -> None:
    pod = task_pod()
    (port,) = pod["spec"]["containers"][0]["ports"]
    found = relabelled(meta("red", "smoke-x", pod, port["name"]), JOBS["gapo-tasks"]["relabel_configs"])
    assert found == {
        "namespace": "red", "pod": "smoke-x", "run": "smoke", "stage": "2", "role": "generator",
    }  # fmt: skip
    assert JOBS["gapo-tasks"]["honor_labels"] is False


@pytest.mark.parametrize(
    ("kind", "stage"), [(kind, 0 if kind in (Kind.DATA, Kind.SFT, Kind.RM_WARMUP) else 1) for kind in SMOKE]
)
def test_roles_are_called_as_in_the_spec(kind: Kind, stage: int) -> None:
    found = relabelled(
        meta("red", "x", task_pod(kind, stage), "metrics"), JOBS["gapo-tasks"]["relabel_configs"]
    )
    assert found is not None
    assert found["role"] == SMOKE[kind]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("job", ["gapo-tasks", "gapo-operator"])
def test_a_pod_that_has_ended_is_not_asked(job: str, phase: str) -> None:
    pod = task_pod() if job == "gapo-tasks" else OPERATOR
    running = meta("red", "x", pod, "metrics")
    assert relabelled(running, JOBS[job]["relabel_configs"]) is not None
    assert relabelled({**running, "__meta_kubernetes_pod_phase": phase}, JOBS[job]["relabel_configs"]) is None


def test_each_job_asks_its_own_pods_on_their_port_for_metrics_alone() -> None:
    tasks, operator = (JOBS[name]["relabel_configs"] for name in ("gapo-tasks", "gapo-operator"))
    assert relabelled(meta("gapo-system", "o", OPERATOR, "metrics"), tasks) is None
    assert relabelled(meta("gapo-system", "o", OPERATOR, "http"), operator) is None
    assert relabelled(meta("red", "t", task_pod(), "metrics"), operator) is None
    assert relabelled(meta("red", "t", task_pod(), "other"), tasks) is None
    found = relabelled(meta("gapo-system", "o", OPERATOR, "metrics"), operator)
    assert found == {"namespace": "gapo-system", "pod": "o"}
    assert JOBS["gapo-operator"]["honor_labels"] is True


def test_a_pod_cannot_say_what_a_stage_has_committed() -> None:
    rules = JOBS["gapo-tasks"]["metric_relabel_configs"]
    for name in ("gapo_stage_satisfaction_ratio", "gapo_run_state"):
        assert relabelled({"__name__": name, "run": "smoke"}, rules) is None
    assert relabelled({"__name__": "gapo_task_reward_mean", "run": "smoke"}, rules) == {"run": "smoke"}

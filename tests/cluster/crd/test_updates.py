"""What the API server lets a user change of a GapoRun, before it has begun and afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd.gaporuns import changed, judged, started

pytestmark = pytest.mark.cluster
ROLLOUT_RULES = (
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rollout/x-kubernetes-validations"
)


def until(so: Callable[[], bool]) -> None:
    """A definition is in force a moment after it was taken; each question asks the server anew."""
    assert any(so() for _ in range(50))


@pytest.fixture
def begun_before(cluster: ControlPlane, applied):
    """A run with fields that the earlier release's definition still took, once today's is in force again."""
    definition = json.loads(cluster.stdout_of("get", "crd", "gaporuns.gapo.dev", "-o", "json"))
    rules: Any = definition
    for part in ROLLOUT_RULES.strip("/").split("/"):
        rules = rules[int(part) if part.isdigit() else part]
    patch = ["patch", "crd", "gaporuns.gapo.dev", "--type=json", "-p"]
    old = {"rollout": {"engine": "vllm", "replicas": 2}}
    cluster.stdout_of(*patch, json.dumps([{"op": "remove", "path": ROLLOUT_RULES}]))
    try:
        until(lambda: judged(cluster, changed(old)) == "")
        name = applied(old)
        started(cluster, name)
    finally:
        cluster.stdout_of(*patch, json.dumps([{"op": "add", "path": ROLLOUT_RULES, "value": rules}]))
        until(lambda: "runs on one machine alone" in judged(cluster, changed(old)))
    return name, old


def test_a_run_that_began_with_what_is_refused_now_goes_on_and_may_be_changed_elsewhere(
    cluster: ControlPlane, applied, begun_before: tuple[str, dict[str, Any]]
) -> None:
    name, old = begun_before
    status = {"status": {"runID": "0123456789ab", "state": "Running", "stage": 1}}
    cluster.stdout_of(
        "patch", "gaporun", name, "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    applied({**old, "suspend": True})
    document = changed({"rollout": {"engine": "vllm", "replicas": 3}}, name)
    refused = cluster.run("apply", "-f", "-", stdin=json.dumps(document))
    assert "runs on one machine alone" in refused.stderr


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("spec.seed", {"seed": 1}),
        ("spec.method", {"method": "PPO"}),
        ("spec.data", {"data": {"generate": {"size": 2001}}}),
        ("spec.generator", {"generator": {"fromScratch": {"layers": 2}}}),
        ("spec.ppo", {"ppo": {"actorLr": 0.5}}),
        ("spec.critic", {"critic": {"warmupPasses": 1}}),
        ("spec.stages.iterations", {"stages": {"iterations": 4}}),
        ("spec.runID", {"runID": "another"}),
        ("spec.storage", {"storage": {"path": "elsewhere"}}),
        ("spec.scheduling.managedBy", {"scheduling": {"managedBy": "kueue.x-k8s.io/multikueue"}}),
    ],
)
def test_what_a_run_is_cannot_change_once_it_has_started(
    cluster: ControlPlane, applied, field: str, change: dict[str, Any]
) -> None:
    name = applied({})
    applied(change)  # before it has started, all may change
    applied({})
    started(cluster, name)
    document = changed(change, name)
    done = cluster.run("apply", "-f", "-", stdin=json.dumps(document))
    assert done.returncode == 1
    assert f"{field} " in done.stderr
    assert "cannot change once it has started" in done.stderr


def test_what_may_change_while_a_run_goes_on_can_be_changed(cluster: ControlPlane, applied) -> None:
    name = applied({"budget": {"rollouts": 1000, "gpuHours": 2.5}})
    started(cluster, name)
    applied(
        {
            "suspend": True,
            "stages": {"max": 9},
            "budget": {"rollouts": 5000},
            "retention": {"lastStages": 3},
            "checkpoint": {"interval": "30s"},
            "scheduling": {"maxFailures": 5, "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 60},
            "roles": {"generator": {"threads": 2, "pod": {"nodeSelector": {"gpu": "a"}}}},
        }
    )
    assert cluster.stdout_of("get", "gr", name, "-o", "jsonpath={.spec.stages.max}") == "9"


@pytest.mark.parametrize(
    ("before", "change", "field"),
    [
        ({}, {"stages": {"max": 2}}, "spec.stages.max"),
        ({"stages": {"max": 13}}, {"stages": {"max": None}}, "spec.stages.max"),
        ({"stages": None}, {"stages": {"max": 11}}, "spec.stages.max"),
        ({"budget": {"rollouts": 1000}}, {"budget": {"rollouts": 999}}, "spec.budget.rollouts"),
        ({"budget": {"gpuHours": 2.5}}, {"budget": {"gpuHours": 2.25}}, "spec.budget.gpuHours"),
        ({"budget": {"rollouts": 1000}}, {"budget": {"rollouts": 1000, "tokens": 10}}, "spec.budget.tokens"),
        ({}, {"budget": {"wallClock": 60}}, "spec.budget.wallClock"),
    ],
)
def test_what_may_only_grow_can_be_lowered_until_the_run_has_started(
    cluster: ControlPlane, applied, before: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    name = applied(before)
    applied(change)
    applied(before)
    started(cluster, name)
    done = cluster.run("apply", "-f", "-", stdin=json.dumps(changed(change, name)))
    assert done.returncode == 1
    assert f"{field} can only be raised" in done.stderr
    applied(before)

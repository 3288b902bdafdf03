"""Models on volumes (`pvc://claim/folder`): which pods mount the claim, where, and that none can write to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gapo.api.load import load_document
from gapo.planning.preview import preview
from gapo.tasks import Kind, Task
from gapo_operator.config import load_config
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner

ROOT = Path(__file__).parents[3]
CONFIG = load_config(ROOT / "tests" / "cluster" / "operator.yaml")
OWNER = Owner("smoke", "default", "0123456789ab")
ON_CLAIMS: dict[str, Any] = {
    "generator": {"model": "pvc://generators/qwen/0.5b"},
    "rewardModel": {"model": "pvc://encoders"},
    "critic": {"model": "pvc://critics/small"},
    "ppo": {"miniBatch": 64},
}
ROLES = ("data", "generator", "rewardModel", "evaluation")


def pods(**spec: Any) -> list[tuple[Task, dict[str, Any]]]:
    """Every task of a run with its pod."""
    document = yaml.safe_load((ROOT / "examples" / "smoke.yaml").read_text())
    document["spec"] |= {**ON_CLAIMS, **spec}
    resolved = load_document(document, where="smoke", base=ROOT).spec
    return [
        (task, job(task, resolved, OWNER, CONFIG, claim=0)["spec"]["template"]["spec"])
        for task in preview(resolved, OWNER.run_id).tasks
    ]


def claims(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Mount path → its volume's source, with the mount's own readOnly."""
    sources = {v["name"]: v.get("persistentVolumeClaim") for v in pod["volumes"]}
    return {
        mount["mountPath"]: {**sources[mount["name"]], "mount": mount.get("readOnly", False)}
        for mount in pod["containers"][0]["volumeMounts"]
        if sources[mount["name"]]
    }


def read_only(claim: str) -> dict[str, dict[str, Any]]:
    return {f"/volumes/{claim}": {"claimName": claim, "readOnly": True, "mount": True}}


ALL = read_only("generators") | read_only("encoders") | read_only("critics")
"""What the data task looks at before anything trains."""


def test_exactly_the_pods_that_read_a_model_mount_its_claim_and_none_can_write() -> None:
    mounts_of = {str(task.key): claims(pod) for task, pod in pods(stages={"max": 3})}
    assert {key: mounts for key, mounts in mounts_of.items() if mounts} == {
        "0/data": ALL,
        "0/sft": read_only("generators"),
        "0/rm-warmup": read_only("encoders"),
        "1/ppo": read_only("critics"),
    }
    assert {"2/ppo", "3/ppo", "1/rm", "1/evaluate"} <= mounts_of.keys()


def test_models_on_one_claim_are_one_volume_of_the_data_tasks_pod() -> None:
    one = {
        section: {"model": f"pvc://models/{section}"} for section in ("generator", "rewardModel", "critic")
    }
    (pod,) = (pod for task, pod in pods(**one) if task.kind is Kind.DATA)
    assert claims(pod) == read_only("models")
    names = [volume["name"] for volume in pod["volumes"]]
    assert len(names) == len(set(names))
    assert len([v for v in pod["volumes"] if "persistentVolumeClaim" in v]) == 1
    (pod,) = (pod for task, pod in pods() if task.kind is Kind.DATA)
    names = [volume["name"] for volume in pod["volumes"]]
    assert len(names) == len(set(names))


def test_the_pod_of_a_model_on_a_claim() -> None:
    (pod,) = (pod for task, pod in pods() if task.kind is Kind.SFT)
    assert pod["volumes"][-1] == {
        "name": "model", "persistentVolumeClaim": {"claimName": "generators", "readOnly": True},
    }  # fmt: skip
    assert pod["containers"][0]["volumeMounts"][-1] == {
        "name": "model", "mountPath": "/volumes/generators", "readOnly": True,
    }  # fmt: skip


def test_a_critic_that_starts_anew_at_each_stage_is_mounted_at_each() -> None:
    rendered = pods(stages={"max": 2}, critic={"model": "pvc://critics/small", "onStageChange": "reset"})
    assert [claims(pod) for task, pod in rendered if task.kind is Kind.PPO] == [read_only("critics")] * 2


def test_a_run_that_imports_its_start_loads_a_critic_alone() -> None:
    resume = {"run": "other", "runID": "abc", "take": "state"}
    mounts_of = {str(task.key): claims(pod) for task, pod in pods(resumeFrom=resume, stages={"max": 2})}
    assert {key: mounts for key, mounts in mounts_of.items() if mounts} == {
        "0/data": read_only("critics"), "1/ppo": read_only("critics"),
    }  # fmt: skip


def test_supervised_training_goes_on_without_the_claim() -> None:
    mounts_of = {str(task.key): claims(pod) for task, pod in pods(method="SFT", stages={"max": 2})}
    assert {key: mounts for key, mounts in mounts_of.items() if mounts} == {
        "0/data": read_only("generators"), "0/sft": read_only("generators"),
    }  # fmt: skip
    assert "2/sft" in mounts_of


@pytest.mark.parametrize("model", ["hf://org/name", "s3://models/qwen", "/models/qwen"])
def test_no_other_model_mounts_anything(model: str) -> None:
    models = {section: {"model": model} for section in ("generator", "rewardModel", "critic")}
    assert not [task.key for task, pod in pods(**models) if claims(pod)]


def test_a_claim_that_the_pod_has_already_is_one_volume() -> None:
    mounted = {"persistentVolumeClaims": [{"name": "generators", "mountPath": "/mine"}]}
    (pod,) = (p for t, p in pods(roles={"generator": {"pod": mounted}}) if t.kind is Kind.SFT)
    assert [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [
        {"claimName": "generators"}
    ]
    assert {path: one["mount"] for path, one in claims(pod).items()} == {
        "/mine": False, "/volumes/generators": True,
    }  # fmt: skip
    cached = {role: {"cache": {"persistentVolumeClaim": "generators"}} for role in ROLES}
    (pod,) = (p for t, p in pods(roles=cached) if t.kind is Kind.SFT)
    assert {path: one["mount"] for path, one in claims(pod).items()} == {
        "/cache": False, "/volumes/generators": True,
    }  # fmt: skip

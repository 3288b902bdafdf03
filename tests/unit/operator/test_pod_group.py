"""Runs that queue with Volcano: each Job's pod in a PodGroup of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.operator.test_render import CONFIG, OWNER, ROOT, rendered, run_of

from gapo_operator.cli.render import print_jobs
from gapo_operator.config import OperatorConfig, load_config
from gapo_operator.render.pod_group import owned_by_job, pod_group

VOLCANO: dict[str, Any] = {"scheduler": "volcano"}
GROUP = "scheduling.k8s.io/group-name"


def both(**spec: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    job = rendered(**spec)
    return job, pod_group(job, run_of(**spec).spec)


def test_a_group_has_the_name_of_its_job_and_what_volcano_wants_to_know_of_its_pod() -> None:
    resources = {"requests": {"cpu": 2}, "limits": {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}}
    job, group = both(
        scheduling={**VOLCANO, "queueName": "gpus", "priorityClassName": "low"},
        roles={"generator": {"resources": resources, "pod": {"priorityClassName": "high"}}},
    )
    name = job["metadata"]["name"]
    assert group == {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "PodGroup",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": job["metadata"]["labels"],
            "ownerReferences": OWNER.references(),
        },
        "spec": {
            "minMember": 1,
            "queue": "gpus",
            "priorityClassName": "high",
            "minResources": {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "1"},
        },
    }


def test_the_pod_is_volcanos_and_names_its_group_and_the_job_is_not_suspended() -> None:
    job, _ = both(scheduling={**VOLCANO, "queueName": "gpus"})
    template, name = job["spec"]["template"], job["metadata"]["name"]
    assert template["spec"]["schedulerName"] == "volcano"
    assert template["metadata"]["annotations"] == {GROUP: name}
    assert job["metadata"]["annotations"][GROUP] == name
    assert job["spec"]["suspend"] is False
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]


def test_without_a_queue_and_resources_volcanos_own_defaults_hold() -> None:
    _, group = both(scheduling=VOLCANO)
    assert group is not None
    assert group["spec"] == {"minMember": 1}


def test_volcano_may_run_under_another_name() -> None:
    job, group = both(scheduling=VOLCANO, roles={"generator": {"pod": {"schedulerName": "volcano-gpu"}}})
    assert job["spec"]["template"]["spec"]["schedulerName"] == "volcano-gpu"
    assert group is not None


def test_no_annotation_of_a_run_leads_its_pod_into_another_group() -> None:
    base = yaml.safe_load(Path(CONFIG).read_text())
    config = OperatorConfig.model_validate({**base, "allowedAnnotationPrefixes": ["scheduling.k8s.io/"]})
    roles = {"generator": {"pod": {"annotations": {GROUP: "theirs"}}}}
    job = rendered(config=config, scheduling=VOLCANO, roles=roles)
    assert job["spec"]["template"]["metadata"]["annotations"][GROUP] == job["metadata"]["name"]


def test_a_run_that_says_nothing_of_volcano_has_no_group() -> None:
    for scheduling in ({}, {"queueName": "gpus"}, {"scheduler": "kueue", "queueName": "gpus"}):
        job, group = both(scheduling=scheduling)
        assert group is None
        assert "schedulerName" not in job["spec"]["template"]["spec"]
        assert GROUP not in job["metadata"]["annotations"]


def test_what_a_profile_adds_to_a_pod_its_group_asks_for_too() -> None:
    config = load_config(CONFIG).model_dump(mode="json", by_alias=True)
    config["podProfiles"] = [{"name": "rdma", "limits": {"rdma/hca": 1}}]
    spec = {"scheduling": VOLCANO, "roles": {"generator": {"pod": {"profile": "rdma"}}}}
    job = rendered(config=OperatorConfig.model_validate(config), **spec)
    group = pod_group(job, run_of(**spec).spec)
    assert group is not None
    assert group["spec"]["minResources"] == {"rdma/hca": "1"}


def test_a_group_becomes_its_jobs_own_without_holding_up_its_deletion() -> None:
    (owner,) = owned_by_job("job", "its-uid")["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "its-uid",
        "controller": True, "blockOwnerDeletion": False,
    }  # fmt: skip


def test_render_prints_each_group_before_its_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load((ROOT / "examples" / "smoke.yaml").read_text())
    document["spec"]["scheduling"] = VOLCANO
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(document))
    print_jobs(file, CONFIG, whole=True)
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert len(printed) == 26
    for group, job in zip(printed[::2], printed[1::2], strict=True):
        assert (group["kind"], job["kind"]) == ("PodGroup", "Job")
        assert group["metadata"]["name"] == job["metadata"]["name"]

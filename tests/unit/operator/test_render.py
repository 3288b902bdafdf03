"""Tasks as Jobs: names, identity of the hand-over, the restricted pod, and what the planner alone decides."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gapo.api.load import load_document
from gapo.errors import SpecError
from gapo.planning.preview import preview
from gapo.tasks import Kind, Task
from gapo_operator.config import OperatorConfig, load_config
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner, job_name

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "tests" / "cluster" / "operator.yaml"
OWNER = Owner("smoke", "default", "0123456789ab", uid="11111111-2222-3333-4444-555555555555")


def run_of(**spec: Any):
    document = yaml.safe_load((ROOT / "examples" / "smoke.yaml").read_text())
    document["spec"] |= spec
    return load_document(document, where="smoke", base=ROOT)


def tasks_of(**spec: Any) -> list[Task]:
    return list(preview(run_of(**spec).spec, OWNER.run_id).tasks)


def rendered(
    kind: Kind = Kind.PPO, *, owner: Owner = OWNER, config: OperatorConfig | None = None, **spec: Any
):
    loaded = run_of(**spec)
    task = next(t for t in preview(loaded.spec, OWNER.run_id).tasks if t.kind is kind)
    return job(task, loaded.spec, owner, config or load_config(CONFIG), claim=4)


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def argument(manifest: dict[str, Any], name: str) -> str:
    arguments = container_of(manifest)["args"]
    return arguments[arguments.index(name) + 1]


def test_every_task_of_a_run_has_a_name_of_its_own_and_always_the_same() -> None:
    names = [job_name(OWNER, task) for task in tasks_of()]
    assert len(set(names)) == len(names)
    assert names == [job_name(OWNER, task) for task in tasks_of()]
    assert re.fullmatch("smoke-[0-9a-f]{5}-1-ppo-0", names[[t.kind for t in tasks_of()].index(Kind.PPO)])


def test_the_longest_names_fit_into_a_label() -> None:
    task = tasks_of()[0].model_copy(update={"stage": 200, "kind": Kind.RM_WARMUP, "attempt": 99})
    assert len(job_name(Owner("x" * 40, "n", "0123456789ab"), task)) == 63


def test_another_run_under_the_same_name_has_other_jobs() -> None:
    task = tasks_of()[0]
    manifest = {
        job_name(Owner("smoke", "default", run_id), task)
        for run_id in ("attempt-1", "attempt-2", "attempt-3")
    }
    assert len(manifest) == 3


def test_the_pod_is_given_the_address_and_the_digest_of_its_task() -> None:
    manifest = rendered(Kind.DATA)
    task = next(t for t in tasks_of() if t.kind is Kind.DATA)
    assert argument(manifest, "--task") == "s3://runs/default/smoke/0123456789ab/stages/0/data/0/task.json"
    assert argument(manifest, "--sha256") == hashlib.sha256(task.document).hexdigest()
    assert json.loads(task.document)["kind"] == "data"
    assert argument(manifest, "--claim") == "4"
    assert argument(manifest, "--endpoint") == "http://127.0.0.1:9000"


def test_each_pod_writes_under_its_own_uid() -> None:
    manifest = rendered()
    assert argument(manifest, "--writer") == "$(POD_UID)"
    assert container_of(manifest)["env"][0] == {
        "name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
    }  # fmt: skip


def test_whatever_ends_a_pod_ends_its_job() -> None:
    spec = rendered()["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "FailJob", "FailJob"]
    assert rules[0]["onExitCodes"]["values"] == [64, 65, 66, 70, 73]
    assert rules[1]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert rules[2]["onExitCodes"]["values"] == [143]


def test_a_pod_has_no_token_no_root_no_capability_and_nothing_to_write_to_but_its_volumes() -> None:
    pod = rendered()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    own = pod["containers"][0]["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {
        "/scratch", "/cache", "/tmp", "/dev/shm",  # noqa: S108
    }  # fmt: skip


def test_prometheus_finds_a_pods_metrics_by_the_name_of_its_port() -> None:
    manifest = rendered()
    assert container_of(manifest)["ports"] == [{"name": "metrics", "containerPort": 9400}]
    assert argument(manifest, "--metrics-port") == "9400"


def test_a_port_of_its_own_or_none_is_the_administrators_choice() -> None:
    def configured(port: int) -> dict[str, Any]:
        config = load_config(CONFIG)
        trainer = config.trainer.model_copy(update={"metrics_port": port})
        return rendered(config=config.model_copy(update={"trainer": trainer}))

    assert container_of(configured(9500))["ports"] == [{"name": "metrics", "containerPort": 9500}]
    assert argument(configured(9500), "--metrics-port") == "9500"
    without = container_of(configured(0))
    assert "ports" not in without
    assert "--metrics-port" not in without["args"]


def test_a_role_brings_its_image_resources_and_threads() -> None:
    roles = {
        "generator": {
            "image": "mine:1", "threads": 6,
            "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}},
        }
    }  # fmt: skip
    ppo, data = container_of(rendered(Kind.PPO, roles=roles)), container_of(rendered(Kind.DATA, roles=roles))
    assert ppo["image"] == "mine:1"
    assert ppo["resources"] == {"limits": {"nvidia.com/gpu": "1", "memory": "16Gi"}}
    assert {"name": "OMP_NUM_THREADS", "value": "6"} in ppo["env"]
    assert data["image"] == "registry.example/gapo-trainer:0.1.0"
    assert "resources" not in data


def test_a_queued_job_waits_for_its_queue() -> None:
    manifest = rendered(scheduling={"queueName": "gpus"})
    assert manifest["spec"]["suspend"] is True
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert rendered()["spec"]["suspend"] is False


def test_a_job_belongs_to_its_run_without_holding_up_its_deletion() -> None:
    (owner,) = rendered()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["blockOwnerDeletion"]) == ("GapoRun", OWNER.uid, False)
    assert "ownerReferences" not in rendered(owner=Owner("smoke", "default", "0123456789ab"))["metadata"]


def test_credentials_come_from_a_secret_of_the_runs_own_namespace_by_name_only() -> None:
    container = container_of(rendered())
    assert container["envFrom"] == [{"secretRef": {"name": "gapo-storage"}}]
    red = Owner("smoke", "red", "0123456789ab")
    assert "envFrom" not in container_of(rendered(owner=red, storage={"location": "team"}))


def test_the_folder_of_a_run_lies_in_its_namespaces_own_part_of_the_location() -> None:
    red = Owner("smoke", "red", "0123456789ab")
    manifest = rendered(Kind.DATA, owner=red, storage={"location": "team", "path": "drafts"})
    assert argument(manifest, "--task").startswith("s3://team/gapo/red/drafts/smoke/0123456789ab/")


def test_a_location_of_another_namespace_is_refused_as_if_it_were_not_there() -> None:
    with pytest.raises(SpecError, match="'team' is not for namespace default") as refused:
        rendered(storage={"location": "team"})
    assert "known: local" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"storageLocations": []}, "storageLocations"),
        ({"storageLocations": [{"name": "a", "uri": "file:///data"}]}, "storageLocations.0.uri"),
        ({"storageLocations": [{"name": "a", "uri": "s3://b"}, {"name": "a", "uri": "s3://c"}]}, "a is there twice"),
        ({"storageLocations": [{"name": "a", "uri": "s3://b", "credentials": "mountedSecret"}]}, "secretName"),
        ({"trainer": {"image": "x", "user": 0}}, "trainer.user"),
        ({"trainer": {"image": "x", "metricsPort": -1}}, "trainer.metricsPort"),
        ({"webhook": {}}, "webhook"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_meant_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.read_text()), **change}))
    with pytest.raises(SpecError, match=words):
        load_config(file)

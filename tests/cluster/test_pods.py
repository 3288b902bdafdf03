"""Pods with all that a run may ask for and a profile may grant, on a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import GOOD
from tests.slow.gapo_command import manifest

from gapo.api.load import load_document
from gapo.planning.preview import preview
from gapo.tasks import Kind
from gapo_operator.config import OperatorConfig
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner

pytestmark = pytest.mark.cluster
CONFIG = Path(__file__).with_name("operator.yaml")
ALLOWED = {
    "allowedLabelPrefixes": ["example.com/"],
    "allowedAnnotationPrefixes": ["example.com/"],
    "allowedServiceAccounts": ["trainer"],
    "podProfiles": [
        {
            "name": "rdma",
            "capabilities": ["IPC_LOCK"],
            "nodeSelector": {"net": "rdma"},
            "tolerations": [{"key": "rdma", "operator": "Exists"}],
            "annotations": {"k8s.v1.cni.cncf.io/networks": "ib0"},
            "limits": {"rdma/hca": 1},
        }
    ],
}


@pytest.mark.parametrize(
    "case",
    [
        "a pod with all that it may have",
        "a cache of models",
        "requests up to the limits",
        "devices by claims",
        "a queue of Volcano's",
    ],
)
def test_what_a_run_asks_of_its_pods_is_a_job_that_is_taken_as_it_stands(
    cluster: ControlPlane, case: str
) -> None:
    loaded = load_document(manifest(**GOOD[case]), where=case, base=Path())
    config = OperatorConfig.model_validate({**yaml.safe_load(CONFIG.read_text()), **ALLOWED})
    owner = Owner("smoke", "default", loaded.run_id)
    tasks = {task.kind: task for task in preview(loaded.spec, loaded.run_id).tasks}
    for kind in (Kind.DATA, Kind.PPO, Kind.RM):
        rendered = job(tasks[kind], loaded.spec, owner, config, claim=0)
        created = cluster.stdout_of(
            "create",
            "--dry-run=server",
            "--validate=strict",
            "-o",
            "json",
            "-f",
            "-",
            stdin=json.dumps(rendered),
        )
        stored = json.loads(created)["spec"]["template"]
        asked = rendered["spec"]["template"]
        assert stored["spec"].get("affinity") == asked["spec"].get("affinity")
        assert stored["spec"].get("tolerations") == asked["spec"].get("tolerations")
        assert stored["spec"].get("resourceClaims") == asked["spec"].get("resourceClaims")
        resources = [spec["spec"]["containers"][0].get("resources", {}) for spec in (stored, asked)]
        assert resources[0].get("claims") == resources[1].get("claims")
        assert stored["metadata"].get("annotations") == asked["metadata"].get("annotations")


def test_a_claim_of_devices_that_the_pod_does_not_name_would_be_noticed(cluster: ControlPlane) -> None:
    loaded = load_document(manifest(**GOOD["devices by claims"]), where="claims", base=Path())
    config = OperatorConfig.model_validate(yaml.safe_load(CONFIG.read_text()))
    task = next(t for t in preview(loaded.spec, loaded.run_id).tasks if t.kind is Kind.PPO)
    rendered = job(task, loaded.spec, Owner("smoke", "default", loaded.run_id), config, claim=0)
    del rendered["spec"]["template"]["spec"]["resourceClaims"][0]
    done = cluster.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(rendered))
    assert "resources.claims" in done.stderr

"""A model on a volume claim, in a real pod: where it is mounted, that it loads, and that nothing can be written to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.processes import wait_until
from tests.slow.gapo_command import SMOKE, merged
from tests.unit.ppo.tiny_ppo import tiny_folder

from gapo.api.load import load_document
from gapo.planning.preview import preview
from gapo.tasks import Kind
from gapo_operator.config import OperatorConfig
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner

pytestmark = pytest.mark.node
NAMESPACE = "volumes"
LOAD = """
from pathlib import Path
from gapo_trainer.models.source import locate
from gapo_trainer.models.networks import load_generator
folder = locate("pvc://models/tiny/generator", what="generator.model", into=Path("/scratch/model"))
print(folder, load_generator(folder)[0].num_parameters())
try:
    (folder / "x").touch()
except OSError as error:
    print(error.strerror)
"""


def claimed(node: Node, folder: Path) -> None:
    """The folder as a claim named `models` of the namespace."""
    size, modes = {"storage": "1Gi"}, ["ReadOnlyMany", "ReadWriteMany"]
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "models"},
        "spec": {
            "capacity": size, "accessModes": modes, "hostPath": {"path": str(folder)}, "storageClassName": "",
            "claimRef": {"name": "models", "namespace": NAMESPACE}, "persistentVolumeReclaimPolicy": "Retain",
        },
    }  # fmt: skip
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": NAMESPACE},
        "spec": {
            "accessModes": modes, "resources": {"requests": size}, "storageClassName": "",
            "volumeName": "models",
        },
    }  # fmt: skip
    for one in (volume, claim):
        node.stdout_of("create", "-f", "-", stdin=json.dumps(one))


def test_a_model_on_a_claim_loads_and_cannot_be_written_to(node: Node, tmp_path: Path) -> None:
    tiny_folder(tmp_path / "models" / "tiny")
    for path in (tmp_path / "models", *(tmp_path / "models").rglob("*.safetensors")):
        path.chmod(0o755)  # written for their owner alone
    node.stdout_of("create", "namespace", NAMESPACE)
    node.stdout_of("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    wait_until(lambda: node.run("get", "sa", "default", "-n", NAMESPACE).returncode == 0, "it has an account")
    claimed(node, tmp_path / "models")
    document = yaml.safe_load(SMOKE.read_text())
    model = {"fromScratch": None, "model": "pvc://models/tiny/generator"}
    document["spec"] = merged(document["spec"], {"generator": model, "ppo": {"miniBatch": 64}})
    spec = load_document(document, where="smoke", base=tmp_path).spec
    task = next(one for one in preview(spec, "0123456789ab").tasks if one.kind is Kind.SFT)
    config = OperatorConfig.model_validate(
        {"storageLocations": [{"name": "local", "uri": "s3://runs"}], "trainer": {"image": images.TRAINER}}
    )
    manifest = job(task, spec, Owner("smoke", NAMESPACE, "0123456789ab"), config, claim=0)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["command"], container["args"] = ["python", "-c", LOAD], []
    node.stdout_of("create", "-f", "-", stdin=json.dumps(manifest))
    name = manifest["metadata"]["name"]

    def ended() -> bool:
        status = json.loads(node.stdout_of("get", "job", name, "-n", NAMESPACE, "-o", "json"))["status"]
        return any(c["type"] in ("Complete", "Failed") for c in status.get("conditions", []))

    wait_until(ended, "it has ended", every=0.5)
    log_lines = node.stdout_of("logs", "-n", NAMESPACE, f"job/{name}").splitlines()
    assert log_lines[-2].startswith("/volumes/models/tiny/generator "), log_lines
    assert int(log_lines[-2].split()[1]) > 1000
    assert log_lines[-1] == "Read-only file system"

"""Who may do what, logins that expire, and clusters that cannot be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cluster.cli.room import NAMESPACE, Gapo, Room, findings, manifest
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "tenant"},
    "rules": [{"apiGroups": ["gapo.dev"], "resources": ["gaporuns"], "verbs": ["get", "list", "watch"]}],
}


@pytest.fixture(scope="module")
def tenant(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of someone who may read GapoRuns and nothing else."""
    room.kubectl("create", "-f", "-", stdin=json.dumps(ROLE))
    room.kubectl("create", "serviceaccount", "tenant")
    room.kubectl("create", "rolebinding", "tenant", "--role=tenant", "--serviceaccount=cli:tenant")
    token = room.kubectl("create", "token", "tenant").strip()
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    document["users"] = [{"name": "admin", "user": {"token": token}}]
    document["contexts"][0]["context"]["namespace"] = NAMESPACE
    file = tmp_path_factory.mktemp("tenant") / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


def test_one_who_may_only_read_runs_sees_them_and_is_told_what_is_missing(
    room: Room, tenant: Path, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "readable", suspend=True)
    assert gapo_(f"submit {file} -n cli").code == 0
    room.wait_for("Suspended", "readable")
    assert gapo_(f"status readable --kubeconfig {tenant}").out.startswith("cli/readable")
    refused = gapo_(f"submit {file} --kubeconfig {tenant}")
    assert refused.code == 69
    assert 'cannot patch resource "gaporuns"' in refused.err
    assert "ask an administrator" in refused.err
    hidden = gapo_(f"logs readable --kubeconfig {tenant}")
    assert hidden.code == 69
    assert 'cannot list resource "pods"' in hidden.err
    result = gapo_(f"doctor --kubeconfig {tenant} -o json")
    assert result.code == 69
    assert findings(result) == {
        "api server": "ok",
        "definition": "warn",
        "rights": "fail",
        "rights for logs": "warn",
        "operator": "ok",
        "pod security": "warn",
        "gpus": "warn",
    }
    assert "you may not create gaporuns.gapo.dev, patch gaporuns.gapo.dev in namespace cli" in result.out


def test_one_who_may_see_pods_but_not_their_logs_is_told_at_once(
    room: Room, tenant: Path, gapo_: Gapo, tmp_path: Path
) -> None:
    room.kubectl("create", "role", "looker", "--verb=get,list,watch", "--resource=pods")
    room.kubectl("create", "rolebinding", "looker", "--role=looker", "--serviceaccount=cli:tenant")
    room.pods.misbehave = {"0/data/0": "hang"}
    assert gapo_(f"submit {manifest(tmp_path, 'closed', seed=9)} -n cli").code == 0
    room.wait_for("Running", "closed")
    for follow in ("", "-f"):
        result = gapo_(f"logs closed --kubeconfig {tenant} {follow}")
        assert result.code == 69
        assert 'cannot get resource "pods/log"' in result.err
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", "closed")


def test_a_cluster_that_cannot_be_reached_is_one_line(
    cluster: ControlPlane, gapo_: Gapo, tmp_path: Path
) -> None:
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away = tmp_path / "away"
    away.write_text(yaml.safe_dump(document))
    result = gapo_(f"status run --kubeconfig {away}")
    assert result.code == 75
    assert result.err.startswith("error: the API server https://127.0.0.1:1 does not answer")
    assert gapo_(f"status run --kubeconfig {tmp_path / 'absent'}").code == 69
    context = gapo_("status run --context prod")
    assert context.code == 69
    assert "context 'prod'" in context.err
    document["users"] = [{"name": "admin", "user": {"token": "wrong"}}]
    document["clusters"] = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"]
    away.write_text(yaml.safe_dump(document))
    unknown = gapo_(f"status run --kubeconfig {away}")
    assert (unknown.code, "log in to the cluster again" in unknown.err) == (69, True)


def test_a_login_program_is_asked_again_when_its_token_is_no_longer_taken(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    token = document["users"][0]["user"]["token"]
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    (tmp_path / "old").write_text(json.dumps({**answer, "status": {"token": "expired"}}))
    (tmp_path / "new").write_text(json.dumps({**answer, "status": {"token": token}}))
    script = f"cd {tmp_path}; if [ -e asked ]; then cat new; else touch asked; cat old; fi"
    program = {"command": "sh", "args": ["-c", script], "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": {"apiVersion": answer["apiVersion"], **program}}
    file = tmp_path / "by-program"
    file.write_text(yaml.safe_dump(document))
    assert gapo_(f"submit {manifest(tmp_path, 'renewed', suspend=True)} -n cli").code == 0
    result = gapo_(f"status renewed -n cli --kubeconfig {file}")
    assert (result.code, (tmp_path / "asked").exists()) == (0, True)
    assert result.out.startswith("cli/renewed")

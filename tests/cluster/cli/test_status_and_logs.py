"""`gapo status`, `suspend`, `resume` and `logs`; the plugin of kubectl; the page's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.cluster.cli.room import NAMESPACE, Gapo, Room, manifest
from tests.cluster.conftest import ROOT
from tests.cluster.s3 import REGION

pytestmark = pytest.mark.cluster


def test_status_shows_stages_tasks_problems_and_events(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    room.pods.misbehave = {"1/ppo/0": "unschedulable"}
    assert gapo_(f"submit {manifest(tmp_path, 'shown', seed=2)} -n cli").code == 0
    room.operator.wait_until(
        lambda: any(c["reason"] == "Unschedulable" for c in room.status("shown").get("conditions", [])),
        "it cannot be scheduled",
    )
    text = gapo_("status shown -n cli").out
    assert text.startswith("cli/shown (")
    assert "): Pending, A1/1 ppo" in text
    assert "1 Insufficient nvidia.com/gpu" in text
    assert "TaskCommitted" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "0.400", "0.900"] in [row[:3] for row in rows]
    assert ["ppo", "0", "Pending"] in [row[:3] for row in rows]
    body = json.loads(gapo_("status shown -n cli -o json").out)
    assert (body["state"], body["stage"], body["stages"][0]["satisfaction"]) == ("Pending", 1, 0.4)
    assert body["tasks"][0]["kind"] == "ppo"
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", "shown")


def test_status_of_a_file_is_of_this_machine_unless_the_cluster_is_asked(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "both", {"namespace": "cli"}, suspend=True)
    assert gapo_(f"submit {file}").code == 0
    here = gapo_(f"status {file}")
    assert here.code == 65
    assert "has not been started" in here.err
    room.wait_for("Suspended", "both")
    assert gapo_(f"status {file} --cluster").out.startswith("cli/both")
    assert gapo_(f"status {file} -n cli").out.startswith("cli/both")
    absent = gapo_("status both -n default")
    assert (absent.code, absent.err) == (69, "error: there is no GapoRun both in namespace default\n")
    assert gapo_("status absent.yaml").code == 64
    mixed = gapo_(f"status {file} --cluster --location local=/tmp")
    assert mixed.code == 64
    assert "are for a FILE" in mixed.err


def test_a_suspended_run_is_resumed(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'paused', seed=3)} -n cli").code == 0
    assert gapo_("suspend paused -n cli").out.startswith("GapoRun cli/paused suspended")
    assert gapo_("suspend paused -n cli").out == "GapoRun cli/paused is suspended already\n"
    room.wait_for("Suspended", "paused")
    assert gapo_("resume paused -n cli").out == "GapoRun cli/paused resumed\n"
    assert gapo_("status paused -n cli --watch").code == 0
    assert gapo_("suspend nobody -n cli").code == 69


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pending:ImagePullBackOff", "0 data is pending: ImagePullFailed: "),
        ("unschedulable", "0 data is pending: Unschedulable: 0/1 nodes are available"),
        ("refused:exceeded quota: gpus", "0 data is pending: QuotaExceeded: exceeded quota: gpus"),
    ],
)
def test_logs_say_why_there_are_none_yet(
    room: Room, gapo_: Gapo, tmp_path: Path, how: str, words: str
) -> None:
    name = f"quiet-{how[0]}"
    room.pods.misbehave = {"0/data/0": how}
    assert gapo_(f"submit {manifest(tmp_path, name, seed=4)} -n cli").code == 0
    room.operator.wait_until(
        lambda: any(
            c["type"] == "TasksHealthy" and c["status"] == "False"
            for c in room.status(name).get("conditions", [])
        ),
        "it is known why",
    )
    result = gapo_(f"logs {name} -n cli")
    assert result.code == 75
    assert words in result.err
    room.pods.misbehave = {}
    room.kubectl("delete", "gaporun", name)


def test_logs_of_a_run_without_a_pod_say_how_the_run_stands(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'podless', suspend=True)} -n cli").code == 0
    room.wait_for("Suspended", "podless")
    result = gapo_("logs podless -n cli --stage 3 --kind ppo")
    assert result.code == 69
    assert "no pod of A3 ppo is there: GapoRun cli/podless is Suspended" in result.err
    assert gapo_("logs nobody -n cli").code == 69


def test_kubectl_has_it_as_a_plugin(room: Room, tmp_path: Path) -> None:
    suspended = manifest(tmp_path, "plugged", suspend=True)
    environment = {
        **os.environ,
        "KUBECONFIG": str(room.cluster.kubeconfig),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def kubectl(*arguments: str) -> str:
        done = subprocess.run(
            [str(room.cluster.kubectl), "gapo", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert kubectl("submit", str(suspended), "-n", NAMESPACE).startswith("GapoRun cli/plugged created")
    room.wait_for("Suspended", "plugged")
    assert kubectl("status", "plugged", "-n", NAMESPACE).startswith("cli/plugged")


def test_the_commands_of_the_page(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text().partition("## Submit and follow")[2]
    written = [line for line in page.splitlines() if line.startswith(("gapo ", "kubectl gapo "))]
    assert len(written) >= 8
    location = {"name": "team", "uri": room.s3.uri, "endpoint": room.s3.endpoint, "region": REGION}
    (tmp_path / "operator.yaml").write_text(
        yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}})
    )
    manifest(tmp_path, "smoke", seed=5).rename(tmp_path / "run.yaml")
    for command in written:
        if command.startswith("gapo logs"):
            continue  # needs a node: test_cli_node.py
        result = gapo_(command.removeprefix("kubectl ").removeprefix("gapo ").replace("-n red", "-n cli"))
        assert result.code == 0, (command, result)

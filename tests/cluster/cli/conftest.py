"""One room for all of these tests, and the command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.cli.room import NAMESPACE, CommandResult, Gapo, Room
from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import instant_pods
from tests.cluster.operator_process import operator
from tests.cluster.s3 import REGION, S3Server

import gapo.cli


@pytest.fixture(scope="session")
def room(cluster: ControlPlane, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("cli")
    cluster.stdout_of("create", "namespace", NAMESPACE)
    config = folder / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))
    arguments = ("--namespace", NAMESPACE, "--lease-namespace", NAMESPACE)
    environment = s3.operator.environment()
    previous = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # the played pods come with the operator's keys
    try:
        with (
            instant_pods(cluster.kubeconfig, NAMESPACE) as pods,
            operator(folder, cluster.kubeconfig, config, *arguments) as process,
        ):
            process.wait_until_ready()
            yield Room(cluster, s3, pods, process)
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    cluster.run("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def gapo_(
    cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Gapo:
    """The command in this process: an interpreter each would take longer than all else."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["gapo", *shlex.split(command)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            gapo.cli.main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in captured.err
        return CommandResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run

"""A room for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import instant_pods
from tests.cluster.operator.room import Room
from tests.cluster.operator_process import operator
from tests.cluster.s3 import REGION, S3Server
from tests.unit.store.s3_servers import FaultProxy, fault_proxy


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def room(
    cluster: ControlPlane,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
) -> Iterator[Room]:
    for name, value in s3.operator.environment().items():
        monkeypatch.setenv(name, value)
    namespace = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    cluster.said("create", "namespace", namespace)
    config = tmp_path / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": proxy.url, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))
    with (
        instant_pods(cluster.kubeconfig, namespace) as pods,
        operator(tmp_path, cluster.kubeconfig, config, "--namespace", namespace) as process,
    ):
        process.wait_until_ready()
        yield Room(cluster, namespace, s3, pods, process, config, proxy)
    cluster.run("delete", "namespace", namespace, "--wait=false")

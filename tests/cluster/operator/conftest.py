"""A room for each test, on the cluster of all or on one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import instant_pods
from tests.cluster.operator.room import Enter, Room
from tests.cluster.operator_process import operator
from tests.cluster.s3 import REGION, S3Server
from tests.unit.store.s3_servers import FaultProxy, fault_proxy


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def enter(
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    proxy: FaultProxy,
) -> Enter:
    """Makes the test's namespace on a cluster, and an operator of it; its kubeconfig is an administrator's, or the one
    that is given."""
    for name, value in s3.operator.environment().items():
        monkeypatch.setenv(name, value)
    namespace = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    config = tmp_path / "operator.yaml"
    location = {"name": "local", "uri": s3.uri, "endpoint": proxy.url, "region": REGION}
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": "trainer:test"}}))

    @contextmanager
    def enter(cluster: ControlPlane, kubeconfig: Path | None = None, *arguments: str) -> Iterator[Room]:
        cluster.stdout_of("create", "namespace", namespace)
        with (
            instant_pods(cluster.kubeconfig, namespace) as pods,
            operator(
                tmp_path, kubeconfig or cluster.kubeconfig, config, "--namespace", namespace, *arguments
            ) as process,
        ):
            yield Room(cluster, namespace, s3, pods, process, config, proxy)
        # Nobody empties the namespace, and to `gapo doctor` a Lease that is left is an operator that is gone.
        cluster.run("delete", "leases", "--all", "-n", namespace)
        cluster.run("delete", "namespace", namespace, "--wait=false")

    return enter


@pytest.fixture
def room(cluster: ControlPlane, enter: Enter) -> Iterator[Room]:
    with enter(cluster) as room:
        room.operator.wait_until_ready()
        yield room

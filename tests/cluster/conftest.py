"""One control plane for all tests marked `cluster`, one whole cluster for all marked `node`; both with the CRD installed
as a user would. An S3 server beside each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane, control_plane, install_crd
from tests.cluster.node import Node
from tests.cluster.node import node as one_node
from tests.cluster.s3 import S3Server, s3_server

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI") or os.environ.get("GAPO_TEST_CLUSTER"):
        return
    off = pytest.mark.skip(
        reason="GAPO_TEST_CLUSTER=1 runs it: it starts an API server (make cluster-tools first)"
    )
    for item in items:
        if any(item.get_closest_marker(name) for name in ("cluster", "node")):
            item.add_marker(off)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server alone, on loopback."""
    with control_plane(tmp_path_factory.mktemp("control-plane")) as running:
        install_crd(running)
        yield running


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server on loopback."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A cluster that runs pods."""
    began = time.monotonic()
    with one_node(tmp_path_factory.mktemp("node")) as running:
        install_crd(running)
        _say(request, f"images looked at and cluster up in {time.monotonic() - began:.1f} s")
        yield running
        began = time.monotonic()
    _say(request, f"cluster down in {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="session")
def node_s3(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that this process and the node's pods reach at the same endpoint."""
    with s3_server(tmp_path_factory.mktemp("node-s3"), node.host) as running:
        yield running


def _say(request: pytest.FixtureRequest, what: str) -> None:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{what}")  # noqa: T201

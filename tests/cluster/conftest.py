"""One control plane for all tests here, with the CRD installed as a user would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane, control_plane

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "gapo.dev_gaporuns.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI") or os.environ.get("GAPO_TEST_CLUSTER"):
        return
    off = pytest.mark.skip(
        reason="GAPO_TEST_CLUSTER=1 runs it: it starts an API server (make cluster-tools first)"
    )
    for item in items:
        if "cluster" in item.keywords:
            item.add_marker(off)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("control-plane")) as running:
        running.said("apply", "--server-side", "-f", str(CRD))
        running.said("wait", "--for=condition=Established", "crd/gaporuns.gapo.dev", "--timeout=60s")
        yield running

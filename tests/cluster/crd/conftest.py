"""A GapoRun of each test that asks for one, on a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd.gaporuns import changed


@pytest.fixture
def applied(cluster: ControlPlane, request: pytest.FixtureRequest):
    """Applies a manifest under the test's own name and deletes it afterwards."""
    name = request.node.name.replace("_", "-")[:40].strip("-")

    def apply(change: dict[str, Any], **metadata: Any) -> str:
        document = changed(change, name)
        document["metadata"] |= metadata
        cluster.stdout_of("apply", "-f", "-", stdin=json.dumps(document))
        return name

    yield apply
    cluster.run("delete", "gaporun", name, "--ignore-not-found")

"""The operator over an API server and an S3 server, as its benchmarks have it, and the run that they start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.s3 import REGION, S3Server

ROOT = Path(__file__).parents[2]
NAMESPACE = "bench"


def manifest(name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": 2},
            "storage": {"location": "local"},
        },
    }


@contextmanager
def running_operator(
    cluster: ControlPlane, s3: S3Server, folder: Path, image: str
) -> Iterator[tuple[OperatorProcess, float]]:
    """The operator, and after how many seconds it was ready."""
    cluster.stdout_of("apply", "--server-side", "-f", str(ROOT / "crds" / "gapo.dev_gaporuns.yaml"))
    cluster.established()
    cluster.stdout_of("create", "namespace", NAMESPACE)
    os.environ.update(s3.operator.environment())
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    path = folder / "operator.yaml"
    path.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": image}}))
    began = time.monotonic()
    with operator(folder, cluster.kubeconfig, path, "--log-level", "INFO") as process:
        process.wait_until_ready()
        yield process, time.monotonic() - began

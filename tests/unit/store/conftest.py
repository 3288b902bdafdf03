"""The same suite over every backend: folder, memory, an S3 double, and a real S3 server where one is named.

For a real server set GAPO_TEST_S3_ENDPOINT and GAPO_TEST_S3_BUCKET, and credentials as AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.store.s3_servers import FaultProxy, fault_proxy
from tests.unit.store.support import NOW, RUN_ID, TASK, s3_objects

from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import Manifest

BACKENDS = ["file", "memory", "s3", *(["real-s3"] if "GAPO_TEST_S3_ENDPOINT" in os.environ else [])]


@pytest.fixture(params=BACKENDS)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty run prefix on each backend."""
    prefix = f"team/run/{uuid.uuid4().hex[:12]}"
    match request.param:
        case "file":
            return Objects(open_location(f"file://{tmp_path}/runs"), prefix, where=f"{tmp_path}/runs")
        case "memory":
            return Objects(open_location("memory://"), prefix, where="memory://")
        case "s3":
            return s3_objects(request.getfixturevalue("moto_endpoint"), prefix)
        case _:
            store = open_location(
                f"s3://{os.environ['GAPO_TEST_S3_BUCKET']}/gapo-unit-tests",
                endpoint=os.environ["GAPO_TEST_S3_ENDPOINT"],
                region=os.environ.get("AWS_REGION", "us-east-1"),
            )
            return Objects(store, prefix)


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(moto_endpoint) as running:
        yield running


@pytest.fixture
def behind(proxy: FaultProxy) -> Objects:
    """A run prefix that is reached through the fault proxy."""
    return s3_objects(proxy.url, f"team/run/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    def make(writer: str = "writer-1", **changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "run_id": RUN_ID,
            "stage": 2,
            "kind": "ppo",
            "generation": 0,
            "attempt": 0,
            "writer": writer,
            "task_digest": TASK,
            "started_at": NOW,
            "finished_at": NOW + timedelta(hours=1),
            "metrics": {"generator/satisfaction": 0.5},
        }
        return Manifest(**{**fields, **changes})

    return make

"""An S3 service, a proxy before it that can be made to fail, and keys for it as the operator has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.operator.storage_room import Room
from tests.unit.store.s3_servers import FaultProxy, fault_proxy

from gapo_operator import storage_pool as stores


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="runs")
    yield url
    server.stop()


@pytest.fixture
def proxy(endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(endpoint) as running:
        yield running


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """As a mounted Secret looks."""
    folder = tmp_path / "red"
    (folder / "..data").mkdir(parents=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text("a\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text("b")
    return tmp_path


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "RETRY_FOR", timedelta(milliseconds=300))


@pytest.fixture
def room() -> Room:
    return Room()

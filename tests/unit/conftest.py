"""Fixtures that several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.store.s3_servers import moto_server
from tests.unit.store.support import BUCKET


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """An S3 server double on loopback, with one bucket."""
    with moto_server(BUCKET) as endpoint:
        yield endpoint


@pytest.fixture
def threads():
    """Sets the calling thread's number of intra-op threads for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

"""Fixtures that several folders of tests share."""

from __future__ import annotations

import pytest


@pytest.fixture
def threads():
    """Sets the calling thread's number of intra-op threads for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

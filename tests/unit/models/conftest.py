"""Fixtures that several files here share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.models.made_models import (
    chat_model,
    encoder,
)
from tests.unit.models.run_folder import ROW, write_rows


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a chat model, an encoder and data that fit together."""
    chat_model(tmp_path / "generator")
    encoder(tmp_path / "encoder")
    write_rows(tmp_path, [ROW])
    return tmp_path

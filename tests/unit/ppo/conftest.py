"""Stages of the ppo task that several files of tests run, or read."""

from __future__ import annotations

import pytest
from tests.unit.ppo.ppo_stages import adaptive, scored, stage_once


@pytest.fixture
def world(tmp_path, monkeypatch):
    return scored(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def first(tmp_path_factory):
    """Stage 1 of the defaults. Read only."""
    return stage_once(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def through(tmp_path_factory):
    """Stage 1 with a KL coefficient that moves and rewards that are normalised. Read only."""
    return stage_once(tmp_path_factory.mktemp("through"), **adaptive(normalise="runningStd"))

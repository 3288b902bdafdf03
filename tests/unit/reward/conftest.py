"""Fixtures that several files here share."""

from __future__ import annotations

import pytest
from tests.unit.reward.small_runs import RM
from tests.unit.reward.tiny_reward import context, micro

from gapo.tasks import Kind
from gapo_trainer.tasks.reward_model import run_warmup


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory, data):
    """A warmed-up reward model's artifact."""
    ctx = context(tmp_path_factory.mktemp("warm"), Kind.RM_WARMUP, {"rewardModel": RM}, {"data": data})
    run_warmup(ctx)
    return ctx.out

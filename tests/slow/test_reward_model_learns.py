"""The quickstart's reward model on the micro grammar: it leaves ln 2."""

from __future__ import annotations

import math

import pytest
from tests.unit.reward.tiny_reward import context, micro

from gapo.api.load import load_run
from gapo.tasks import Kind
from gapo_trainer.tasks.reward_model import run_warmup

pytestmark = pytest.mark.slow


def test_the_quickstarts_reward_model_leaves_ln_2_within_300_steps(tmp_path, pytestconfig):
    run = load_run(pytestconfig.rootpath / "examples" / "quickstart.yaml")
    rm = run.spec.reward_model.model_dump(mode="json", by_alias=True, exclude_none=True)
    rm["warmup"] |= {"steps": 300, "gate": {"onFail": "warn"}}
    data = micro(tmp_path / "data", size=8000)
    metrics = run_warmup(context(tmp_path, Kind.RM_WARMUP, {"rewardModel": rm}, {"data": data}))
    assert metrics["rm/loss"] < math.log(2) - 0.05
    assert metrics["rm/pair_accuracy"] > 0.65

"""The comparison's harness with real, tiny runs: pieces, result files, and arms made again."""

from __future__ import annotations

import json

import pytest
from tests.bench.method import __main__ as bench
from tests.bench.method import plan, result
from tests.bench.method.plan import Setting
from tests.bench.method.trial import Trial, begin

pytestmark = pytest.mark.slow
ARMS = [plan.SFT, plan.FROZEN, "gapo-zero"]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A setting of seconds, with folders of its own."""
    changes = {
        "stages": {"max": 2, "iterations": 2},
        "sft": {"steps": 60},
        "rewardModel": {"warmup": {"steps": 40}},
        "roles": {role: {"threads": 1} for role in ("data", "generator", "rewardModel", "evaluation")},
    }
    monkeypatch.setitem(
        plan.SETTINGS, "tiny", Setting("examples/smoke.yaml", "a setting of seconds", changes)
    )
    monkeypatch.setattr(bench, "OUT", tmp_path / "out")
    monkeypatch.setattr(result, "FOLDER", tmp_path / "results")
    return tmp_path


def test_arms_are_made_once_from_one_start_and_can_be_made_again(tiny, capsys):
    assert bench.run_all("tiny", ARMS[:2], [0], jobs=2) == 0
    assert bench.run_all("tiny", ARMS, [0], jobs=1) == 0
    assert "2 of 3 arms are done" in capsys.readouterr().err
    results = {r.arm: r for r in bench.current("tiny")}
    assert list(results) == ARMS
    assert len({r.start for r in results.values()}) == 1
    gapo, frozen, start = results["gapo-zero"], results[plan.FROZEN], results[plan.SFT]
    assert [stage["stage"] for stage in gapo.stages] == [0, 1, 2]
    assert gapo.stages[1] == frozen.stages[1]  # until the reward model has changed
    assert gapo.stages[2] != frozen.stages[2]
    assert [rm["stage"] for rm in gapo.reward_model] == [1]
    assert [rm["stage"] for rm in start.reward_model] == [0]
    assert gapo.test["start_satisfaction"] == frozen.test["start_satisfaction"]
    assert gapo.ledger["completions"] == frozen.ledger["completions"] == 2 * (2 * 64 + 128)
    assert gapo.ledger["flopsByStage"][2] > frozen.ledger["flopsByStage"][2]
    assert gapo.clocks["cpu"] > 0

    assert bench.again("tiny", "gapo-zero", 0, adopt=False) == 0
    path = result.path_of("tiny", "gapo-zero", 0)
    changed = json.loads(path.read_text())
    changed["stages"][2]["satisfaction"] += 0.001
    path.write_text(json.dumps(changed))
    assert bench.again("tiny", "gapo-zero", 0, adopt=False) == 1
    assert "NOT reproduced: 1 figures differ" in capsys.readouterr().err


def test_a_start_that_fails_keeps_its_seeds_arms_from_running_and_is_told(tiny, monkeypatch, capsys):
    failing = {"rewardModel": {"warmup": {"gate": {"minPairAccuracy": 1.0, "onFail": "stop"}}}}
    setting = plan.SETTINGS["tiny"]
    monkeypatch.setitem(
        plan.SETTINGS, "tiny", Setting(setting.manifest, setting.about, {**setting.changes, **failing})
    )
    assert bench.run_all("tiny", ["gapo-zero"], [1], jobs=1) == 1
    assert "failed: start-1: exit 73" in capsys.readouterr().err
    assert bench.current("tiny") == []


def test_another_process_that_wants_the_same_start_reads_it(tiny):
    trial = Trial("tiny", plan.SFT, 2, tiny / "runs")
    first = begin(trial)
    log = (tiny / "runs" / "start-2.log").stat().st_mtime_ns
    assert begin(trial).run_id == first.run_id
    assert (tiny / "runs" / "start-2.log").stat().st_mtime_ns == log

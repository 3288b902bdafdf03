from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.telemetry.story import START, Story

import gapo.cli
from gapo.api.load import load_run
from gapo.run.record import freeze
from gapo.store import layout
from gapo.tasks import Kind, TaskKey

SPEC: dict[str, Any] = {
    "method": "GAPO",
    "data": {"generate": {"grammar": "micro", "size": 100}},
    "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
    "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
    "stages": {"max": 2},
}


def status(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    command = ["gapo", "status", str(folder / "run.yaml"), "--location", f"local={folder / 'store'}", *more]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        gapo.cli.main()
    assert ended.value.code in (0, None)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run whose export is still to come: 2 + 2 + 8 + 5, 21 + 5 + 8 and 22 + 5 seconds are done."""
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "world"},
        "spec": {"runID": "r1", **SPEC},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(document))
    root = tmp_path / "store" / "default" / "world" / "r1"
    story = Story(root, **SPEC)
    freeze(story.objects, load_run(tmp_path / "run.yaml"), version="0.1.0", now=START)
    story.run()
    shutil.rmtree(root / layout.task_prefix(2, "export"))
    return tmp_path


def test_status_of_a_file_tells_how_much_is_done_and_what_is_left(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status(run_folder, monkeypatch, "-o", "json")
    said = json.loads(capsys.readouterr().out)
    weights = (0.3 + 2 + 3 + 0.7) + (2 + 0.7 + 0.8) + (2 + 0.7)
    export = 0.7 * 78 / weights
    assert said["state"] == "Running"
    assert said["estimatedRemainingSeconds"] == int(export) == 4
    assert said["progressPercentage"] == int(100 * 78 / (78 + export)) == 94
    status(run_folder, monkeypatch)
    shown = " ".join(capsys.readouterr().out.split())
    assert "94 % of the run is done, by expected times; its other tasks take about 0:04" in shown


def test_status_says_what_qualifies_the_figures_and_when_no_time_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    head = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "world"}}
    file.write_text(json.dumps({**head, "spec": {"runID": "r1", **SPEC}}))
    root = tmp_path / "store" / "default" / "world" / "r1"

    def short(key: TaskKey) -> dict[str, float]:
        gate = {"rm/pair_accuracy": 0.5, "rm/gate_passed": 0.0} if key.kind is Kind.RM_WARMUP else {}
        few = {"eval/prompts": 90.0, "eval/prompts_asked": 500.0} if key.kind is Kind.EVALUATE else {}
        return {"eval/satisfaction": 0.4, **gate, **few, "wall/seconds": 0.3}

    story = Story(root, short, **SPEC)
    freeze(story.objects, load_run(file), version="0.1.0", now=START)
    story.run()
    for key in ("1/ppo", "1/evaluate", "1/rm", "2/ppo", "2/evaluate", "2/rm", "2/export"):
        shutil.rmtree(root / layout.task_prefix(int(key[0]), key[2:]), ignore_errors=True)
    shutil.rmtree(root / "decisions")
    status(tmp_path, monkeypatch)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "warning: the reward model did not pass rewardModel.warmup.gate, and PPO goes on against it (onFail: warn): "
        "pair accuracy 0.50 (0.75 needed)" in shown
    )
    assert "warning: the validation split has 90 prompts, fewer than the 500 of evaluation.prompts" in shown
    assert "% of the run is done, by expected times; time left unknown yet" in shown
    status(tmp_path, monkeypatch, "-o", "json")
    assert json.loads(capsys.readouterr().out)["estimatedRemainingSeconds"] is None


def test_status_of_a_finished_run_has_nothing_left_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    Story(run_folder / "store" / "default" / "world" / "r1", **SPEC).run()
    status(run_folder, monkeypatch, "-o", "json")
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["progressPercentage"], said["estimatedRemainingSeconds"]) == (
        "Succeeded",
        100,
        0,
    )
    status(run_folder, monkeypatch)
    assert "% of the run" not in capsys.readouterr().out

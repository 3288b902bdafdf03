from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.telemetry.story import Story, measured

from gapo.api.status import GapoRunStatus
from gapo.metrics.figures import RunFigures
from gapo.metrics.samples import Sample, run_samples
from gapo.planning.plan import State, Status
from gapo.store import layout
from gapo.store.records import Revoked
from gapo.tasks import Kind, TaskKey
from gapo.telemetry.from_observation import figures_of
from gapo.telemetry.from_records import figures_at_rest


def status_of(status: Status, **more: Any) -> GapoRunStatus:
    """What the cluster keeps of an ended run."""
    return GapoRunStatus.model_validate(
        {
            "runID": "r1",
            "state": status.state.value,
            "stage": status.stage,
            "bestStage": status.best_stage,
            "usage": {},
            **more,
        }
    )


def told(figures: RunFigures | None, prefix: str = "gapo_stage_") -> list[Sample]:
    assert figures is not None
    return [s for s in run_samples(figures) if s.name.startswith(prefix)]


def kl_too_far_at(*stages: int) -> Any:
    def metrics(key: TaskKey) -> dict[str, float]:
        found = measured(key)
        if key.kind is Kind.EVALUATE and key.stage in stages:
            found["eval/kl_sft"] = 0.9
        return found

    return metrics


ROLLBACK = {"guards": {"kl": {"action": "rollback", "natsPerToken": 0.5}}}


@pytest.mark.parametrize(
    ("sections", "metrics"),
    [
        ({"stages": {"max": 3}}, measured),
        ({"stages": {"max": 5}, **ROLLBACK}, kl_too_far_at(1, 2)),
        ({"stages": {"max": 3}, "adversarial": {"finalRm": True}}, measured),
        ({"stages": {"max": 4}, "budget": {"rollouts": 1000}}, measured),
        ({"stages": {"max": 14}}, measured),
    ],
    ids=["plain", "rolled back", "reward model trained once more", "stopped by its budget", "many stages"],
)
def test_a_finished_runs_stage_series_are_those_of_a_full_scan(
    sections: dict[str, Any], metrics: Any, tmp_path: Path
) -> None:
    story = Story(tmp_path / "store", metrics, **sections)
    status = story.run()
    assert status.state is State.SUCCEEDED
    scanned = figures_of("red", "lamp", story.spec, story.seen(), status, progress=1.0)
    rested = figures_at_rest(story.objects, "red", "lamp", story.spec, status_of(status))
    assert told(rested) == told(scanned)
    assert {int(s.labels["stage"]) for s in told(rested)} == set(range(status.stage + 1))
    withheld = "gapo_run_withheld_stages"
    assert told(rested, withheld) == told(scanned, withheld)


def test_a_finished_run_is_told_from_two_objects_and_one_look(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 3})
    status = story.run()
    story.requests.clear()
    figures_at_rest(story.objects, "red", "lamp", story.spec, status_of(status))
    assert sorted(story.requests) == ["get", "get", "head"]


def test_an_abandoned_stage_is_told_too(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", kl_too_far_at(1, 2), stages={"max": 5}, **ROLLBACK)
    status = story.run()
    rested = figures_at_rest(story.objects, "red", "lamp", story.spec, status_of(status))
    assert rested is not None
    assert story.seen().decisions[2].verdict == "rolled-back"
    assert rested.stages[2]["eval/kl_sft"] == 0.9
    assert rested.stages[2]["wall/seconds"] == 22.0 + 5.0


def test_the_run_itself_is_told_as_by_a_scan_with_the_statuss_word_for_what_records_do_not_say(
    tmp_path: Path,
) -> None:
    story = Story(tmp_path / "store", kl_too_far_at(1, 2), stages={"max": 4}, **ROLLBACK)
    status = story.run()
    usage = {
        "attempts": {"committed": 15},
        "gpuSeconds": {"generator": 140.0},
        "rollbacks": 1,
        "guardHits": {"kl": 0},
        "stageStartTime": "2026-03-01T09:02:10Z",
    }
    condition = {
        "type": "Succeeded",
        "status": "True",
        "reason": "StagesCompleted",
        "lastTransitionTime": "2026-03-01T09:10:00Z",
    }
    kept = status_of(status, usage=usage, conditions=[condition])
    rested = figures_at_rest(story.objects, "red", "lamp", story.spec, kept)
    scanned = figures_of(
        "red", "lamp", story.spec, story.seen(), status, progress=1.0, conditions={"Succeeded": "True"}
    )
    assert rested is not None
    facts = ("state", "stage", "stages_max", "best_stage", "progress", "last_commit", "kl_limit", "rollbacks")
    for fact in (*facts, "test", "conditions"):
        assert getattr(rested, fact) == getattr(scanned, fact), fact
    assert rested.attempts_ended == {"committed": 15}
    assert rested.gpu_seconds == {"generator": 140.0}
    assert rested.guard_hits == {"kl": 0}
    assert rested.stage_started == 1_772_355_730.0


def test_a_revoked_export_gives_way_to_the_one_that_replaced_it(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 2})
    status = story.run()
    void = Revoked(generation=0, evidence={"why": "test"}, by="test")
    story.objects.create(layout.revoked(2, "export", 0), void.to_bytes())
    again = Story(tmp_path / "store", stages={"max": 2})
    again.metrics = lambda key: {**measured(key), "test/gain": 0.01}
    assert again.run().state is State.SUCCEEDED
    rested = figures_at_rest(again.objects, "red", "lamp", again.spec, status_of(status))
    assert rested is not None
    assert rested.test["test/gain"] == 0.01


def test_only_a_scan_tells_of_a_run_that_ended_otherwise(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 0})
    status = story.run()
    assert status.state is State.SUCCEEDED
    assert figures_at_rest(story.objects, "red", "lamp", story.spec, status_of(status)) is None
    failed = status_of(replace(status, state=State.FAILED, stage=1))
    assert figures_at_rest(story.objects, "red", "lamp", story.spec, failed) is None


def test_a_status_of_an_earlier_release_says_too_little(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 1})
    status = status_of(story.run(), usage=None)
    assert figures_at_rest(story.objects, "red", "lamp", story.spec, status) is None


def test_a_decision_of_an_earlier_release_says_too_little(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 2})
    status = story.run()
    path = tmp_path / "store" / "decisions" / "2.json"
    record = json.loads(path.read_text())
    record["metrics"] = {
        k: {"eval/satisfaction": m["eval/satisfaction"]} for k, m in record["metrics"].items()
    }
    path.write_text(json.dumps(record))
    assert figures_at_rest(story.objects, "red", "lamp", story.spec, status_of(status)) is None
    assert story.seen().decisions[2].verdict == "continue"

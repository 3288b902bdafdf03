from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.unit.telemetry.story import Story, measured

from gapo.digest import canonical_json
from gapo.metrics.figures import RunFigures
from gapo.metrics.samples import Sample, run_samples
from gapo.planning.observation import Committed, Observation
from gapo.planning.stage_decision import listed_metrics, stage_metrics
from gapo.store.records import DECISION_METRICS_LIMIT, Decision, ManifestRef
from gapo.tasks import Kind, TaskKey

REF = ManifestRef(key="stages/0/ppo/manifest-0.json", sha256="0" * 64)


def long_run(stages: int, families: int, seed: int = 0) -> Observation:
    """Each stage with everything that a run commits, in numbers as long as they come."""
    rng = Random(seed)
    committed = {}
    for k in range(stages):
        single = [*measured(TaskKey(k, Kind.PPO)), *measured(TaskKey(k, Kind.RM))]
        single += ["ppo/entropy", "ppo/clip_fraction", "critic/explained_variance", "rm/prompt_swap_gap"]
        wide = [f"eval/family/a_family_of_constraints.number_{i}" for i in range(families)]
        names = [*single, *(name for name in measured(TaskKey(k, Kind.EVALUATE))), *wide]
        metrics = {name: rng.uniform(-1, 1) * 1e-5 for name in names}
        committed[TaskKey(k, Kind.EVALUATE)] = Committed(REF, 0, "", {}, metrics)
    return Observation(committed=committed)


def size(metrics: dict[int, dict[str, float]]) -> int:
    return len(canonical_json({str(stage): values for stage, values in metrics.items()}))


@pytest.mark.parametrize(("stages", "families"), [(50, 25), (51, 0), (201, 25), (3, 900), (1, 5000)])
def test_however_long_a_run_its_decision_stays_within_its_bounds(stages: int, families: int) -> None:
    listed = listed_metrics(long_run(stages, families))
    assert set(listed) == set(range(stages))
    assert size(listed) <= DECISION_METRICS_LIMIT
    assert all("eval/satisfaction" in metrics for metrics in listed.values())
    Decision(stage=stages, verdict="continue", reason="", metrics=listed, by="test")


def test_fifty_stages_keep_all_single_figures_and_lose_the_oldest_stages_families() -> None:
    seen = long_run(50, 25)
    listed = listed_metrics(seen)
    assert all(
        {"ppo/entropy", "wall/seconds", "rm/prompt_swap_gap"} <= set(metrics) for metrics in listed.values()
    )
    with_families = [k for k in listed if any(name.startswith("eval/family/") for name in listed[k])]
    assert sorted(with_families) == list(range(50 - len(with_families), 50))
    assert 2 <= len(with_families) < 50
    for k in with_families:
        assert sum(name.startswith("eval/family/a_family") for name in listed[k]) == 25
        assert sum(name.startswith("crossplay/") for name in listed[k]) == k + 1
    assert DECISION_METRICS_LIMIT - size(listed) < 6000, "another stage's would have found room"


def served(stages: dict[int, dict[str, float]]) -> list[Sample]:
    samples = run_samples(RunFigures("red", "lamp", "Running", stages=stages))
    return [s for s in samples if s.name.startswith("gapo_stage_") or s.name == "gapo_run_withheld_stages"]


@pytest.mark.parametrize(("stages", "families"), [(12, 25), (30, 25), (60, 25), (201, 5)])
def test_what_a_decision_leaves_out_is_served_in_no_case(stages: int, families: int) -> None:
    seen = long_run(stages, families)
    whole = {k: stage_metrics(seen, k) for k in range(stages)}
    one, other = (served(whole), served(listed_metrics(seen)))
    assert one == other
    assert any(s.name == "gapo_stage_satisfaction_ratio" for s in one)


def test_a_decision_embeds_what_is_shown_and_nothing_else(tmp_path: Path) -> None:
    story = Story(tmp_path / "store", stages={"max": 2})
    story.run()
    decision = story.seen().decisions[1]
    assert set(decision.metrics) == {0, 1}
    own = decision.metrics[1]
    assert own["rm/score_generated"] == 0.51
    assert own["wall/seconds"] == 26.0, "the reward model trains after the decision"
    assert own["scores/generated/le_0.4"] == 0.399
    assert own["crossplay/auc/0/1"] == 0.709
    assert own["eval/family/length.words"] == 0.61
    assert not {"eval/family/length.words_n", "ppo/rollouts", "eval/satisfaction_n"} & set(own)
    assert decision.metrics[0]["scores/accepted/le_0.2"] == 0.2


def test_a_stage_that_a_rollback_left_behind_is_embedded_too() -> None:
    seen = long_run(4, 1)
    assert set(listed_metrics(seen)) == {0, 1, 2, 3}


def test_equal_facts_give_equal_bytes_in_whatever_order_they_were_read() -> None:
    seen = long_run(20, 10)
    turned = Observation(
        committed={
            key: replace(c, metrics=dict(reversed(list(c.metrics.items()))))
            for key, c in reversed(list(seen.committed.items()))
        }
    )
    one, other = (
        Decision(stage=19, verdict="continue", reason="", metrics=listed_metrics(s), by="test").to_bytes()
        for s in (seen, turned)
    )
    assert one == other


def test_a_decision_of_an_earlier_release_is_read_as_it_is() -> None:
    old = {
        "schemaVersion": 1,
        "stage": 1,
        "verdict": "continue",
        "reason": "evaluated stages: 1",
        "evidence": {"window": 4},
        "metrics": {
            "0": {"eval/satisfaction": 0.4, "eval/satisfaction_n": 2000.0},
            "1": {"eval/satisfaction": 0.5, "ppo/response_length": 9.0, "rm/score_generated": 0.5},
        },
        "parent": None,
        "change": None,
        "by": "r1",
    }
    decision = Decision.from_bytes(json.dumps(old).encode(), "decisions/1.json")
    assert decision.metrics[1]["ppo/response_length"] == 9.0

"""Retention (docs/contracts/storage.md#retention)."""

from __future__ import annotations

import random

import pytest

from gapo.decision_rules.retention import (
    Part,
    RetentionSettings,
    StoredObject,
    stages_to_keep,
    to_retire,
)


def stage(k: int) -> list[StoredObject]:
    return [
        StoredObject(f"stages/{k}/ppo/0/w/model.safetensors", k, "ppo", Part.GENERATOR),
        StoredObject(f"stages/{k}/ppo/0/w/state.safetensors", k, "ppo", Part.STATE),
        StoredObject(f"stages/{k}/ppo/0/w/samples.jsonl", k, "ppo", Part.KEPT),
        StoredObject(f"stages/{k}/rm/0/w/rm.safetensors", k, "rm", Part.KEPT),
    ]


def run(last: int) -> list[StoredObject]:
    return [item for k in range(last + 1) for item in stage(k)]


def names(retired: dict[int, tuple[str, ...]]) -> dict[int, list[str]]:
    return {k: [key.rsplit("/", 1)[1].split(".")[0] for key in keys] for k, keys in retired.items()}


def test_what_is_kept_after_seven_stages() -> None:
    retired = to_retire(run(7), range(8), best=3, decided=range(8))
    assert names(retired) == {
        0: ["state"],
        1: ["model", "state"],
        2: ["model", "state"],
        3: ["state"],  # the best generator stays
        4: ["model", "state"],
        5: ["model", "state"],
    }


def test_a_stage_that_a_guard_may_go_back_to_stays_whole() -> None:
    keep = stages_to_keep(range(8), best=3, rollback_targets={2})
    assert keep.generators == {0, 2, 3, 6, 7}
    assert keep.states == {2, 6, 7}


def test_more_generators_may_be_kept_than_states() -> None:
    keep = stages_to_keep(range(8), best=3, settings=RetentionSettings(last_stages=4))
    assert keep.generators == {0, 3, 4, 5, 6, 7}
    assert keep.states == {6, 7}
    assert stages_to_keep(range(8), best=None, settings=RetentionSettings(last_stages=1)).generators == {
        0,
        6,
        7,
    }


def test_after_a_rollback_the_newest_stages_are_those_of_the_lineage() -> None:
    # 4 and 5 were abandoned; 6 comes from 3.
    retired = to_retire(run(6), (0, 1, 2, 3, 6), best=3, decided=range(7))
    assert names(retired) == {
        0: ["state"],
        1: ["model", "state"],
        2: ["model", "state"],
        4: ["model", "state"],
        5: ["model", "state"],
    }


def test_a_stage_without_a_decision_is_not_touched() -> None:
    assert names(to_retire(run(7), range(8), best=7, decided=(0, 1, 2, 3))) == {
        0: ["state"],
        1: ["model", "state"],
        2: ["model", "state"],
        3: ["model", "state"],
    }


def test_resume_points_go_once_their_task_is_committed_and_not_before() -> None:
    resume = [
        StoredObject("stages/1/ppo/0/w/resume-0.pt", 1, "ppo", Part.RESUME),
        StoredObject("stages/2/ppo/0/w/resume-0.pt", 2, "ppo", Part.RESUME, committed=False),
    ]
    assert to_retire(resume, range(2), best=1, decided=(0, 1)) == {1: ("stages/1/ppo/0/w/resume-0.pt",)}


def test_an_object_that_a_manifest_also_names_outlives_its_resume_point() -> None:
    key = "stages/1/ppo/0/w/model.safetensors"
    objects = [*stage(1), StoredObject(key, 1, "ppo", Part.RESUME)]
    assert to_retire(objects, range(2), best=1, decided=(0, 1)) == {}
    assert to_retire(objects[::-1], range(2), best=1, decided=(0, 1)) == {}


def test_what_was_retired_before_is_not_listed_again() -> None:
    first = to_retire(run(5), range(6), best=5, decided=range(6))
    keys = [key for keys in first.values() for key in keys]
    assert to_retire(run(5), range(6), best=5, decided=range(6), already=keys) == {}


def test_switched_off_nothing_is_retired() -> None:
    settings = RetentionSettings(enabled=False)
    assert to_retire(run(9), range(10), best=1, decided=range(10), settings=settings) == {}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_course_no_record_is_lost_and_the_run_can_go_on(seed: int) -> None:
    """Stage after stage with a wandering best: what was needed next is never among what is gone."""
    rng = random.Random(seed)
    objects: list[StoredObject] = stage(0)
    gone: set[str] = set()
    lineage, best = [0], 0
    for k in range(1, 15):
        objects += stage(k)
        lineage.append(k)
        best = rng.choice([best, k])
        retired = to_retire(
            objects, lineage, best=best, rollback_targets={best}, decided=range(k + 1), already=gone
        )
        gone |= {key for keys in retired.values() for key in keys}
        left = {item.key for item in objects} - gone
        assert not any(item.key in gone for item in objects if item.part is Part.KEPT)
        for needed in {best, *lineage[-2:]} - {0}:
            assert {item.key for item in stage(needed)} <= left
        assert "stages/0/ppo/0/w/model.safetensors" in left

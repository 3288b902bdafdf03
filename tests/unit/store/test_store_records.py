from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.unit.store.support import NOW

from gapo.digest import canonical_json, digest, sha256_hex
from gapo.errors import InputArtifactError, InvariantError
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.create_once import create_once, read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision, Manifest, ObjectRef, Retired, Revoked

Make = Callable[..., Manifest]
REF = ObjectRef(key="stages/2/ppo/0/w/weights", size=3, sha256="0" * 64)


def test_canonical_json_is_sorted_tight_utf8_and_its_digest_is_known() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null,true]}'.encode()
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6), st.randoms())
def test_the_order_of_keys_changes_no_digest(value: dict[str, Any], rng: Random) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_that_json_lacks_gets_into_a_record(make_manifest: Make, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": number})
    with pytest.raises(ValidationError):
        make_manifest(metrics={"x": number})


def test_every_path_of_the_layout_is_where_the_architecture_says() -> None:
    assert layout.run_prefix("team", "poems", "0123456789ab") == "team/poems/0123456789ab"
    assert (
        layout.run_prefix("team", "poems", "0123456789ab", "drafts/2026")
        == "team/drafts/2026/poems/0123456789ab"
    )
    assert layout.RUN == "run.json"
    assert layout.claim(3) == "claims/3.json"
    assert layout.task(2, "ppo", 1) == "stages/2/ppo/1/task.json"
    assert layout.ended(2, "ppo", 1) == "stages/2/ppo/1/ended.json"
    assert layout.writer_prefix(2, "rm-warmup", 1, "uid") == "stages/2/rm-warmup/1/uid"
    assert layout.progress(2, "ppo", 1, "uid") == "stages/2/ppo/1/uid/progress.json"
    assert layout.manifest(0, "sft", 4) == "stages/0/sft/manifest-4.json"
    assert layout.revoked(0, "sft", 4) == "stages/0/sft/revoked-4.json"
    assert layout.resume(0, "sft", 12) == "stages/0/sft/resume-12.json"
    assert layout.decision(7) == "decisions/7.json"
    assert layout.retired(7) == "retired/7.json"


@pytest.mark.parametrize(
    "build",
    [
        lambda: layout.run_prefix("team/../other", "run", "id"),
        lambda: layout.run_prefix("..", "run", "id"),
        lambda: layout.run_prefix("team", "run", "id", "../other"),
        lambda: layout.manifest(-1, "ppo", 0),
        lambda: layout.manifest(1, "ppo/..", 0),
        lambda: layout.manifest(1, "", 0),
        lambda: layout.writer_prefix(1, "ppo", 0, ".."),
        lambda: layout.writer_prefix(1, "ppo", 0, "a/b"),
        lambda: layout.writer_prefix(1, "ppo", 0, "task.json"),
    ],
)
def test_names_that_would_leave_their_folder_build_no_key(build: Callable[[], str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something of its own
        build()


@pytest.mark.parametrize(
    "changes",
    [
        {"objects": {"weights": REF.model_copy(update={"key": "stages/1/ppo/0/w/weights"})}},
        {"objects": {"weights": REF.model_copy(update={"key": "stages/2/ppo/manifest-0.json"})}},
        {"objects": {"../../etc/cron": REF}},
        {"metrics": {f"metric/{n}": 0.123456789 for n in range(1000)}},
        {"metrics": {"rate": True}},
        {"run_id": "UPPER"},
        {"task_digest": "short"},
        {"writer": "a/b"},
        {"stage": -1},
        {"stage": "2"},
        {"started_at": datetime(2026, 1, 1)},
        {"notes": ["x" * 5000]},
        {"environment": {"image": ["a"]}},
    ],
)
def test_a_manifest_with_one_wrong_field_cannot_be_made(make_manifest: Make, changes: dict[str, Any]) -> None:
    make_manifest(objects={"weights": REF})
    with pytest.raises(ValidationError):
        make_manifest(**changes)


def test_a_whole_number_is_a_metric_too(make_manifest: Make) -> None:
    manifest = make_manifest(metrics={"n": 500})
    assert Manifest.from_bytes(manifest.to_bytes(), "k").metrics == {"n": 500.0}


def test_a_decision_keeps_stages_as_numbers_over_a_round_trip() -> None:
    decision = Decision(
        stage=5,
        verdict="rolled-back",
        reason="diversity fell",
        evidence={"distinct3": 0.1, "over": ["a", {"b": None}]},
        metrics={0: {"satisfaction": 0.25}, 5: {"satisfaction": 0.5}},
        parent=3,
        change={"actorLrScale": 0.5, "seedOffset": 1},
        by="guard",
    )
    again = Decision.from_bytes(decision.to_bytes(), "decisions/5.json")
    assert again == decision
    assert again.metrics[5] == {"satisfaction": 0.5}
    assert again.evidence["over"] == ["a", {"b": None}]


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "perhaps"},
        {"verdict": "rolled-back"},
        {"verdict": "rolled-back", "parent": 6},
        {"metrics": {stage: {f"m{n}": 0.123456 for n in range(100)} for stage in range(60)}},
    ],
)
def test_a_decision_that_makes_no_sense_cannot_be_made(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"stage": 5, "verdict": "continue", "reason": "", "by": "planner"}
    Decision(**fields)
    with pytest.raises(ValidationError):
        Decision(**{**fields, **changes})


def test_what_was_created_first_is_what_every_later_creator_reads(objects: Objects) -> None:
    first = Revoked(generation=0, evidence={"sha256": "x"}, by="a")
    second = Revoked(generation=0, evidence={}, by="b")
    key = layout.revoked(1, "rm", 0)
    assert create_once(objects, key, first) == first
    assert create_once(objects, key, second) == first
    assert create_once(objects, key, first) == first
    assert read_record(objects, key, Revoked) == first
    assert read_record(objects, layout.revoked(1, "rm", 1), Revoked) is None
    with pytest.raises(InputArtifactError, match=r"revoked-0\.json is no valid AttemptEnd"):
        read_record(objects, key, AttemptEnd)


def test_a_record_too_long_or_spoilt_after_it_was_made_is_not_written(objects: Objects) -> None:
    long = Retired(stage=1, keys=[f"stages/1/ppo/0/w/{n:0190d}" for n in range(1500)])
    with pytest.raises(InvariantError, match="at most 262144"):
        create_once(objects, layout.retired(1), long)
    revoked = Revoked(generation=0, evidence={}, by="a")
    revoked.evidence["x"] = math.nan
    with pytest.raises(InvariantError, match="not valid"):
        create_once(objects, layout.revoked(1, "ppo", 0), revoked)
    retired = Retired(stage=1, keys=[])
    retired.keys.append("stages/1/ppo/manifest-0.json")
    with pytest.raises(InvariantError, match="never retired"):
        create_once(objects, layout.retired(1), retired)
    assert objects.get(layout.retired(1)) is None
    assert objects.get(layout.revoked(1, "ppo", 0)) is None


def test_how_an_attempt_ended_reads_back(objects: Objects) -> None:
    ended = AttemptEnd(
        attempt=2,
        cause="preempted",
        charged=False,
        exit_code=143,
        started_at=NOW,
        ended_at=NOW,
        gpus=8,
        last_resume=4,
    )
    create_once(objects, layout.ended(2, "ppo", 2), ended)
    assert read_record(objects, "stages/2/ppo/2/ended.json", AttemptEnd) == ended


def test_a_cause_of_a_later_release_counts_as_a_failure() -> None:
    data = b"""{"attempt": 0, "cause": "meltdown", "charged": true,
        "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:01:00Z"}"""
    assert AttemptEnd.from_bytes(data, "ended.json").cause is Cause.FAILED
    with pytest.raises(InputArtifactError, match="cause"):
        AttemptEnd.from_bytes(data.replace(b'"meltdown"', b"7"), "ended.json")

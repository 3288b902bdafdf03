from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.store.support import NOW, RUN_ID, TASK, stored

from gapo.errors import InputArtifactError, InvariantError
from gapo.store import layout
from gapo.store.commit import (
    Committed,
    check_objects,
    commit_manifest,
    fetch,
    find_manifest,
    last_resume_point,
    load_input,
    load_manifest,
    write_resume_point,
)
from gapo.store.create_once import create_once
from gapo.store.objects import Objects
from gapo.store.records import Manifest, ManifestRef, ResumePoint, Revoked

Make = Callable[..., Manifest]
KEY = "stages/2/ppo/manifest-0.json"


def load(objects: Objects) -> Committed | None:
    return load_manifest(objects, 2, "ppo", 0, run_id=RUN_ID, task_digest=TASK)


def test_a_committed_manifest_reads_back_equal_with_the_digest_of_its_bytes(
    objects: Objects, make_manifest: Make
) -> None:
    manifest = make_manifest(inputs={"rm": ManifestRef(key="stages/1/rm/manifest-0.json", sha256="b" * 64)})
    result = commit_manifest(objects, manifest)
    assert result.won
    loaded = load_manifest(objects, 2, "ppo", 0, run_id=RUN_ID, task_digest=TASK)
    assert loaded is not None
    assert loaded.manifest == manifest
    raw = objects.get(KEY)
    assert raw is not None
    assert loaded.ref == ManifestRef(key=KEY, sha256=hashlib.sha256(raw).hexdigest())
    assert loaded == result.committed
    assert json.loads(raw)["taskDigest"] == TASK
    assert json.loads(raw)["runID"] == RUN_ID


def test_of_eight_racing_writers_exactly_one_wins_and_the_others_see_the_winner(
    objects: Objects, make_manifest: Make
) -> None:
    start = threading.Barrier(8)

    def race(number: int) -> tuple[str, bool, str]:
        manifest = make_manifest(writer=f"writer-{number}")
        start.wait()
        result = commit_manifest(objects, manifest)
        return manifest.writer, result.won, result.committed.manifest.writer

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(race, range(8)))
    winners = [writer for writer, won, _ in outcomes if won]
    assert len(winners) == 1
    assert {seen for _, _, seen in outcomes} == set(winners)
    assert Manifest.from_bytes(objects.get(KEY) or b"", KEY).writer == winners[0]


def test_a_late_second_commit_loses_and_deletes_nothing(
    objects: Objects, make_manifest: Make, tmp_path: Path
) -> None:
    first = stored(objects, "weights", b"first", tmp_path, "writer-1")
    late = stored(objects, "weights", b"late", tmp_path, "writer-2")
    commit_manifest(objects, make_manifest(objects={"weights": first}))
    before = objects.get(KEY)
    result = commit_manifest(objects, make_manifest(writer="writer-2", attempt=1, objects={"weights": late}))
    assert not result.won
    assert result.committed.manifest.writer == "writer-1"
    assert objects.get(KEY) == before
    assert objects.get(first.key) == b"first"
    assert objects.get(late.key) == b"late"


def test_a_writer_that_commits_again_has_still_won(objects: Objects, make_manifest: Make) -> None:
    assert commit_manifest(objects, make_manifest()).won
    assert commit_manifest(objects, make_manifest()).won


def test_nothing_committed_is_none_and_no_error(objects: Objects) -> None:
    assert load(objects) is None
    assert find_manifest(objects, 2, "ppo", run_id=RUN_ID).committed is None


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("torn", lambda data: data[:-20], "Invalid JSON"),
        ("empty", lambda data: b"", "Invalid JSON"),
        ("garbage", lambda data: b"\x00\xff" * 50, "Invalid JSON"),
        ("oversized", lambda data: data[:-1] + b" " * 300_000 + b"}", "at most 262144"),
        ("unknown field", lambda data: data[:-1] + b',"surprise":1}', "surprise"),
        ("foreign run", lambda data: data.replace(RUN_ID.encode(), b"ffffffffffff"), "runID"),
        ("another stage", lambda data: data.replace(b'"stage":2', b'"stage":3'), "stage"),
        ("another generation", lambda data: data.replace(b'"generation":0', b'"generation":1'), "generation"),
        ("another task", lambda data: data.replace(b"a" * 64, b"c" * 64), "task"),
        (
            "later schema",
            lambda data: data.replace(b'"schemaVersion":1', b'"schemaVersion":2'),
            "schemaVersion",
        ),
        ("no number", lambda data: data.replace(b"0.5", b"NaN"), "metrics.generator/satisfaction"),
        ("number as text", lambda data: data.replace(b"0.5", b'"0.5"'), "metrics.generator/satisfaction"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_manifest_that_cannot_be_believed_never_loads(
    objects: Objects, make_manifest: Make, name: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    data = make_manifest().to_bytes()
    spoilt = spoil(data)
    assert spoilt != data
    objects.put(KEY, spoilt)
    with pytest.raises(InputArtifactError, match=said) as caught:
        load(objects)
    assert caught.value.manifest == KEY
    assert KEY in str(caught.value)
    with pytest.raises(InputArtifactError):
        find_manifest(objects, 2, "ppo", run_id=RUN_ID, task_digest=TASK)


def test_a_commit_onto_garbage_is_reported_and_never_counts_as_won(
    objects: Objects, make_manifest: Make
) -> None:
    objects.put(KEY, b"{}")
    with pytest.raises(InputArtifactError) as caught:
        commit_manifest(objects, make_manifest())
    assert caught.value.manifest == KEY
    assert objects.get(KEY) == b"{}"


def test_a_commit_onto_another_runs_manifest_is_reported_and_never_counts_as_lost(
    objects: Objects, make_manifest: Make
) -> None:
    objects.put(KEY, make_manifest(run_id="ffffffffffff").to_bytes())
    with pytest.raises(InputArtifactError, match="runID") as caught:
        commit_manifest(objects, make_manifest())
    assert caught.value.manifest == KEY


def test_a_manifest_too_long_for_its_readers_is_refused_before_it_is_written(
    objects: Objects, make_manifest: Make
) -> None:
    with pytest.raises(InvariantError, match="at most 262144"):
        commit_manifest(objects, make_manifest(notes=["x" * 4000] * 80))
    assert objects.get(KEY) is None


def test_a_revoked_generation_is_passed_over(objects: Objects, make_manifest: Make) -> None:
    commit_manifest(objects, make_manifest())
    assert find_manifest(objects, 2, "ppo", run_id=RUN_ID).generation == 0
    revoked = Revoked(generation=0, evidence={"object": "stages/2/ppo/0/w/weights"}, by="executor")
    create_once(objects, layout.revoked(2, "ppo", 0), revoked)
    found = find_manifest(objects, 2, "ppo", run_id=RUN_ID)
    assert (found.generation, found.committed) == (1, None)
    assert commit_manifest(objects, make_manifest(writer="writer-2", generation=1, attempt=1)).won
    found = find_manifest(objects, 2, "ppo", run_id=RUN_ID)
    assert found.generation == 1
    assert found.committed is not None
    assert found.committed.manifest.writer == "writer-2"


def test_a_torn_manifest_that_was_revoked_no_longer_stops_the_run(objects: Objects) -> None:
    objects.put(KEY, b"{")
    create_once(objects, layout.revoked(2, "ppo", 0), Revoked(generation=0, evidence={}, by="executor"))
    found = find_manifest(objects, 2, "ppo", run_id=RUN_ID)
    assert (found.generation, found.committed) == (1, None)


def test_an_input_is_accepted_only_as_exactly_the_manifest_that_was_named(
    objects: Objects, make_manifest: Make
) -> None:
    ref = commit_manifest(objects, make_manifest()).committed.ref
    assert load_input(objects, ref, run_id=RUN_ID).manifest == make_manifest()
    objects.put(KEY, make_manifest(writer="writer-2").to_bytes())
    with pytest.raises(InputArtifactError, match="sha256") as caught:
        load_input(objects, ref, run_id=RUN_ID)
    assert caught.value.manifest == KEY
    objects.delete(KEY)
    with pytest.raises(InputArtifactError, match="absent"):
        load_input(objects, ref, run_id=RUN_ID)


def test_an_input_copied_to_another_place_is_refused(objects: Objects, make_manifest: Make) -> None:
    data = make_manifest().to_bytes()
    elsewhere = "stages/3/ppo/manifest-0.json"
    objects.put(elsewhere, data)
    ref = ManifestRef(key=elsewhere, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(InputArtifactError, match="another place"):
        load_input(objects, ref, run_id=RUN_ID)


def test_fetch_gives_the_named_files_and_whole_folders(
    objects: Objects, make_manifest: Make, tmp_path: Path
) -> None:
    refs = {
        "generator/config.json": stored(objects, "g/config.json", b"{}", tmp_path),
        "generator/model.safetensors": stored(objects, "g/model", b"weights", tmp_path),
        "critic.safetensors": stored(objects, "critic", b"critic", tmp_path),
    }
    committed = commit_manifest(objects, make_manifest(objects=refs)).committed
    check_objects(objects, committed)
    got = fetch(objects, committed, ["generator/"], tmp_path / "a")
    assert {name: path.read_bytes() for name, path in got.items()} == {
        "generator/config.json": b"{}",
        "generator/model.safetensors": b"weights",
    }
    assert got["generator/config.json"] == tmp_path / "a" / "generator" / "config.json"
    assert set(fetch(objects, committed, None, tmp_path / "b")) == set(refs)
    with pytest.raises(InputArtifactError, match=r"reward\.bin"):
        fetch(objects, committed, ["reward.bin"], tmp_path / "c")


def test_a_flipped_byte_in_an_object_is_found_at_fetch_and_names_the_manifest(
    objects: Objects, make_manifest: Make, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 40
    ref = stored(objects, "weights", content, tmp_path)
    committed = commit_manifest(objects, make_manifest(objects={"weights": ref})).committed
    objects.put(ref.key, content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    check_objects(objects, committed)  # the size is right; only who reads the bytes can tell
    with pytest.raises(InputArtifactError, match="sha256") as caught:
        fetch(objects, committed, None, tmp_path / "out")
    assert caught.value.manifest == KEY
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("harm", ["absent", "cut short"])
def test_a_lost_or_shortened_object_is_found_by_one_head_and_by_fetch(
    objects: Objects, make_manifest: Make, tmp_path: Path, harm: str
) -> None:
    ref = stored(objects, "weights", b"0123456789", tmp_path)
    committed = commit_manifest(objects, make_manifest(objects={"weights": ref})).committed
    objects.delete(ref.key)
    if harm == "cut short":
        objects.put(ref.key, b"01234")
    reads: list[Callable[[], object]] = [
        lambda: check_objects(objects, committed),
        lambda: fetch(objects, committed, None, tmp_path / "out"),
    ]
    for read in reads:
        with pytest.raises(InputArtifactError, match=r"absent|5 bytes instead of 10") as caught:
            read()
        assert caught.value.manifest == KEY
        assert ref.key in str(caught.value)


def point(number: int, iteration: int, *, task: str = TASK, attempt: int = 0) -> ResumePoint:
    return ResumePoint(
        run_id=RUN_ID,
        stage=2,
        kind="ppo",
        number=number,
        task_digest=task,
        iteration=iteration,
        objects={},
        writer=f"writer-{attempt}",
        attempt=attempt,
    )


def last(objects: Objects, from_n: int = 0) -> ResumePoint | None:
    return last_resume_point(objects, 2, "ppo", run_id=RUN_ID, task_digest=TASK, from_n=from_n)


def test_the_last_resume_point_is_found_by_probing_up(objects: Objects) -> None:
    assert last(objects) is None
    for number in range(4):
        assert write_resume_point(objects, point(number, 10 * number)) == point(number, 10 * number)
    assert last(objects) == point(3, 30)
    assert last(objects, from_n=2) == point(3, 30)
    assert last(objects, from_n=4) is None


def test_a_resume_point_of_another_task_or_unreadable_is_ignored_and_probing_goes_on(
    objects: Objects,
) -> None:
    write_resume_point(objects, point(0, 10))
    write_resume_point(objects, point(1, 99, task="b" * 64))
    assert last(objects) == point(0, 10)
    objects.put("stages/2/ppo/resume-2.json", b"{torn")
    objects.put("stages/2/ppo/resume-3.json", point(7, 99).to_bytes())
    write_resume_point(objects, point(4, 20))
    assert last(objects) == point(4, 20)


def test_two_attempts_that_take_the_same_number_keep_both_points_and_the_furthest_counts(
    objects: Objects,
) -> None:
    write_resume_point(objects, point(0, 30, attempt=1))
    late = write_resume_point(objects, point(0, 20, attempt=0))
    assert late.number == 1
    assert last(objects) == point(0, 30, attempt=1)


def test_a_resume_point_is_fetched_with_its_digests_verified(objects: Objects, tmp_path: Path) -> None:
    ref = stored(objects, "state", b"optimizer", tmp_path)
    saved = write_resume_point(objects, point(0, 5).model_copy(update={"objects": {"state.bin": ref}}))
    got = fetch(objects, saved, ["state.bin"], tmp_path / "out")
    assert got["state.bin"].read_bytes() == b"optimizer"
    objects.put(ref.key, b"optimizeR")
    with pytest.raises(InputArtifactError) as caught:
        fetch(objects, saved, None, tmp_path / "again")
    assert caught.value.manifest == "stages/2/ppo/resume-0.json"


def test_times_keep_their_offset_and_precision(objects: Objects, make_manifest: Make) -> None:
    commit_manifest(objects, make_manifest())
    raw = json.loads(objects.get(KEY) or b"")
    assert raw["startedAt"] == "2026-03-01T12:00:00Z"
    loaded = load_manifest(objects, 2, "ppo", 0, run_id=RUN_ID)
    assert loaded is not None
    assert loaded.manifest.started_at == NOW

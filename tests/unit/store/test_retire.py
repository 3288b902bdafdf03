"""What a stage's end removes: how much of it one record can name, and which resume points may still have objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from obstore.store import LocalStore, MemoryStore
from tests.unit.planner.world import spec_of
from tests.unit.store.support import NOW, RUN_ID, stored

from gapo.planning.observation import Committed, Observation
from gapo.run.retention import fitting, left_over, retire_at
from gapo.store.commit import commit_manifest, write_resume_point
from gapo.store.objects import Objects
from gapo.store.records import Decision, Manifest, ManifestRef, ObjectRef, ResumePoint, Retired
from gapo.store.retention import read_retired, retire
from gapo.tasks import Kind, TaskKey

SHA = "0" * 64


def point(number: int, attempt: int = 0, writer: str = "w") -> ResumePoint:
    return ResumePoint(
        run_id="0123456789ab",
        stage=1,
        kind="ppo",
        number=number,
        task_digest=SHA,
        iteration=number,
        objects={"state": ObjectRef(key=f"stages/1/ppo/{attempt}/{writer}/r-{number}/s", size=1, sha256=SHA)},
        writer=writer,
        attempt=attempt,
    )


def numbers(points: Iterable[ResumePoint]) -> list[int]:
    return [one.number for one in points]


def test_of_a_thousand_resume_points_only_a_writers_last_few_are_looked_after() -> None:
    assert numbers(left_over(point(n) for n in range(1000))) == [999, 998, 997, 996]


def test_each_writer_may_have_left_some() -> None:
    first = [point(n) for n in range(6)]
    second = [point(n, attempt=1, writer="v") for n in range(6, 9)]
    other = [point(9, attempt=1, writer="u")]
    assert numbers(left_over([*first, *second, *other])) == [9, 8, 7, 6, 5, 4, 3, 2]


def test_a_task_without_resume_points_has_left_none() -> None:
    assert numbers(left_over([])) == []


def test_a_record_names_as_many_keys_as_it_can_hold_from_the_first(tmp_path: Path) -> None:
    objects = Objects(LocalStore(tmp_path))
    keys = [f"stages/1/ppo/0/w/resume-{n}/weights.safetensors" for n in range(10_000)]
    named = fitting(keys)
    assert 3_000 < len(named) < len(keys)
    assert named == keys[: len(named)]
    retire(objects, Retired(stage=1, keys=named))
    assert read_retired(objects, 1) == Retired(stage=1, keys=named)


def test_few_keys_are_named_whole() -> None:
    assert fitting(["a", "b"]) == ["a", "b"]
    assert fitting([]) == []


def test_a_task_with_hundreds_of_resume_points_leaves_none_of_their_objects(
    tmp_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    """Their keys, most of which name nothing any more, are more than one record can hold."""
    objects = Objects(MemoryStore())
    weights = stored(objects, "generator/weights", b"w", tmp_path)
    manifest = make_manifest(objects={"generator/weights": weights})
    commit_manifest(objects, manifest)
    left: list[ObjectRef] = []
    for number in range(500):
        refs = {
            f"model-{part:05d}-of-00010.safetensors": ObjectRef(
                key=f"stages/2/ppo/0/writer-1/resume-{number}/model-{part:05d}-of-00010.safetensors",
                size=1,
                sha256=SHA,
            )
            for part in range(10)
        }
        if number >= 498:
            left = [stored(objects, f"resume-{number}/{name}", b"r", tmp_path) for name in refs]
        point = ResumePoint(
            run_id=RUN_ID, stage=2, kind="ppo", number=number, task_digest=SHA, iteration=number,
            objects=refs, writer="writer-1", attempt=0,
        )  # fmt: skip
        write_resume_point(objects, point)
    committed = Committed(ManifestRef(key="stages/2/ppo/manifest-0.json", sha256=SHA), 0, SHA, {}, {}, NOW)
    seen = Observation(
        committed={TaskKey(2, Kind.PPO): committed},
        decisions={2: Decision(stage=2, verdict="continue", reason="more", by="w")},
    )
    assert all(objects.exists(ref.key) for ref in left)
    retire_at(objects, RUN_ID, spec_of(), seen)
    assert not any(objects.exists(ref.key) for ref in left)
    assert objects.exists(weights.key)

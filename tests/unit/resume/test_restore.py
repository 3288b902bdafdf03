"""Which resume point a new attempt goes on from, where not all that is in storage is whole."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import ResumePoint
from gapo.tasks import Kind, Task
from gapo_trainer.runtime.resume import ResumePoints

TASK = Task(run_id="r1", stage=2, kind=Kind.PPO, params={}, seed=0, attempt=1)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(open_location(f"file://{tmp_path}/runs"), "team/run", where=f"{tmp_path}/runs")


def attempt(objects: Objects, tmp_path: Path, name: str) -> ResumePoints:
    spool = tmp_path / name
    spool.mkdir()
    return ResumePoints(objects, TASK, name, spool, None, threading.Event(), lambda: None)


def save(points: ResumePoints, folder: Path, *iterations: int) -> None:
    """Points with a state of two files each."""
    for iteration in iterations:
        for file in ("a.txt", "b.txt"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(f"state {iteration}")
        points.save(folder, iteration)
    points.close()


def damage(objects: Objects, number: int) -> None:
    """The second file of a point is changed, so that the first has been fetched when this shows."""
    key = f"stages/2/ppo/resume-{number}.json"
    point = ResumePoint.from_bytes(objects.get(key) or b"", key)
    objects.put(point.objects["b.txt"].key, b"STATE 0")


def state(into: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in into.iterdir()}


def test_where_the_newest_resume_point_is_damaged_the_one_before_it_is_gone_on_from(
    objects: Objects, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(attempt(objects, tmp_path, "first"), tmp_path / "state", 4, 5)
    damage(objects, 1)
    into = tmp_path / "into"
    into.mkdir()
    with caplog.at_level(logging.INFO):
        assert attempt(objects, tmp_path, "second").restore(into) == 4
    assert state(into) == {"a.txt": "state 4", "b.txt": "state 4"}
    assert "resume point 1 not used: " in caplog.text
    assert "resuming after iteration 4, from resume point 0" in caplog.text


def test_what_is_saved_after_that_is_numbered_on_and_found(objects: Objects, tmp_path: Path) -> None:
    save(attempt(objects, tmp_path, "first"), tmp_path / "state", 4, 5)
    damage(objects, 1)
    second = attempt(objects, tmp_path, "second")
    second.restore(tmp_path / "into")
    save(second, tmp_path / "state", 5)
    third = attempt(objects, tmp_path, "third")
    assert third.restore(tmp_path / "again") == 5
    assert state(tmp_path / "again") == {"a.txt": "state 5", "b.txt": "state 5"}
    assert objects.exists("stages/2/ppo/resume-2.json")


def test_where_no_resume_point_is_whole_the_task_starts_afresh_with_nothing_left_of_them(
    objects: Objects, tmp_path: Path
) -> None:
    save(attempt(objects, tmp_path, "first"), tmp_path / "state", 4, 5)
    damage(objects, 0)
    damage(objects, 1)
    assert attempt(objects, tmp_path, "second").restore(tmp_path / "into") is None
    assert state(tmp_path / "into") == {}

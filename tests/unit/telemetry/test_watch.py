from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.telemetry.story import START, Story

from gapo.cli.view import RunView
from gapo.local.executor import Launched
from gapo.local.watch import RunWatch, Scrapes
from gapo.planner import State, Status
from gapo.preview import planned_keys
from gapo.store import layout
from gapo.tasks import Kind, TaskKey
from gapo.telemetry.series import Sample

LABELS = {"namespace": "red", "run": "lamp", "stage": "2", "role": "generator"}
STATUS = Status(State.RUNNING, 2, "Running", "waiting for 2/ppo")


class Midway:
    """A run whose second stage is being trained: what came after is taken away again."""

    def __init__(self, folder: Path) -> None:
        self.story = Story(folder / "store", stages={"max": 2})
        self.story.run()
        seen = self.story.seen()
        self.task = self.story.driver.handed_over(_first(TaskKey(2, Kind.PPO)))
        for key in [key for key in seen.committed if key.stage == 2]:
            prefix = folder / "store" / layout.task_prefix(2, key.kind.value)
            (prefix / "manifest-0.json").unlink()
        (folder / "store" / "decisions" / "2.json").unlink()
        self.story.driver.observer.__init__(self.story.objects, "r1")  # type: ignore[misc]
        self.story.driver.observer.scan()
        planned = planned_keys(self.story.spec)
        self.watch = RunWatch(self.story.facts, "red", "lamp", self.story.driver.observer, planned)
        self.launched = Launched(self.task, "writer", folder, START, None)

    def says(self, **document: Any) -> None:
        self.says_bytes(json.dumps({"runID": "r1", "taskDigest": self.task.digest, **document}).encode())

    def says_bytes(self, data: bytes) -> None:
        task = self.task
        self.story.objects.put(layout.progress(task.stage, task.kind.value, task.attempt, "writer"), data)

    def task_series(self) -> dict[str, float]:
        found = [s for s in self.watch.samples() if s.name.startswith("gapo_task_")]
        assert all(s.labels == LABELS for s in found)
        return {s.name: s.value for s in found}


def _first(key: TaskKey) -> Any:
    from gapo.seen import AttemptKey

    return AttemptKey(key, 0)


@pytest.fixture
def midway(tmp_path: Path) -> Midway:
    return Midway(tmp_path)


def value(samples: list[Sample], name: str) -> float:
    (found,) = [s.value for s in samples if s.name == name]
    return found


def test_a_look_tells_the_run_its_stages_and_its_running_task(midway: Midway) -> None:
    midway.says(
        progressPercentage=40,
        estimatedRemainingSeconds=90,
        metrics=[{"name": "ppo/kl", "value": "0.0125"}, {"name": "ppo/reward", "value": "5.5e-1"}],
        checkpointTime="2026-03-01T09:05:00Z",
    )
    midway.watch.look(STATUS, [midway.launched])
    assert midway.task_series() == {
        "gapo_task_progress_ratio": 0.4,
        "gapo_task_remaining_seconds": 90.0,
        "gapo_task_kl_nats": 0.0125,
        "gapo_task_reward_mean": 0.55,
        "gapo_task_nonfinite_total": 0.0,
        "gapo_task_start_timestamp_seconds": START.timestamp(),
        "gapo_task_checkpoint_timestamp_seconds": START.timestamp() + 300,
    }
    samples = midway.watch.samples()
    satisfied = {s.labels["stage"]: s.value for s in samples if s.name == "gapo_stage_satisfaction_ratio"}
    assert satisfied == {"0": 0.4, "1": pytest.approx(0.41)}
    assert value(samples, "gapo_run_stage_started_timestamp_seconds") == START.timestamp()
    # 90 s of ppo, 5 s of evaluate as twice before; to export nothing else compares, so it is worth 0.7 of a unit.
    # Stage 0 took 2 + 2 + 8 + 5, stage 1 21 + 5 + 8: 51 s for weights 0.3 + 2 + 3 + 0.7 + 2 + 0.7 + 0.8.
    assert value(samples, "gapo_run_remaining_seconds") == pytest.approx(90 + 5 + 0.7 * 51 / 9.5)
    assert value(samples, "gapo_run_progress_ratio") == pytest.approx(51 / (51 + 95 + 0.7 * 51 / 9.5))


def test_the_terminal_shows_what_a_scrape_tells(midway: Midway) -> None:
    midway.says(
        progressPercentage=40,
        estimatedRemainingSeconds=90,
        metrics=[{"name": "ppo/kl", "value": "0.0125"}, {"name": "ppo/reward", "value": "0.55"}],
    )
    moment = midway.watch.look(STATUS, [midway.launched])
    screen = io.StringIO()
    console = Console(file=screen, width=160)
    console.print(RunView(console, midway.watch, "lamp").render(moment))
    shown = screen.getvalue()
    assert "A2 ppo" in shown
    assert "40 %, 1:30 left, ppo/reward 0.550, ppo/kl 0.013" in shown
    samples = midway.watch.samples()
    assert f"{int(100 * value(samples, 'gapo_run_progress_ratio'))} % of the run" in shown
    left = int(value(samples, "gapo_run_remaining_seconds"))
    assert f"about {left // 60}:{left % 60:02d} left" in shown
    assert "0.410" in shown, "satisfaction of stage 1"


@pytest.mark.parametrize(
    "later",
    [b"{", b'{"runID": "r1", "taskDigest": "another", "progressPercentage": 90}', b" " * 100_000],
    ids=["torn", "another task's", "too long"],
)
def test_what_is_no_word_of_this_task_changes_nothing(midway: Midway, later: bytes) -> None:
    midway.says(progressPercentage=40)
    midway.watch.look(STATUS, [midway.launched])
    midway.says_bytes(later)
    midway.watch.look(STATUS, [midway.launched])
    assert midway.task_series()["gapo_task_progress_ratio"] == 0.4


def test_a_task_that_has_ended_is_gone_at_the_next_look(midway: Midway) -> None:
    midway.says(progressPercentage=40)
    midway.watch.look(STATUS, [midway.launched])
    midway.watch.look(STATUS, [])
    assert midway.task_series() == {}
    names = {s.name for s in midway.watch.samples()}
    assert "gapo_run_remaining_seconds" not in names, "nothing runs"


def test_before_the_first_look_there_is_nothing_to_tell(midway: Midway) -> None:
    assert midway.watch.samples() == []


def test_without_terminal_and_scrapes_nobody_looks(midway: Midway) -> None:
    console = Console(file=io.StringIO())
    for scraped in (False, True):
        view = RunView(console, midway.watch, "lamp", scraped=scraped)
        view.status = STATUS
        view.tick([midway.launched])
        assert (midway.watch.moment is not None) == scraped


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nobody_is_waited_for_who_asked_once_or_not_at_all() -> None:
    scrapes = Scrapes(Hands())
    assert not scrapes.regular
    scrapes.note()
    assert not scrapes.regular
    assert not scrapes.await_next()


@pytest.mark.parametrize(("interval", "wait"), [(0.5, 2), (15, 30), (45, 60)])
def test_whoever_asks_regularly_is_waited_for_twice_as_long_within_bounds(
    interval: float, wait: float
) -> None:
    clock = Hands()
    scrapes = Scrapes(clock)
    scrapes.note()
    clock.now += interval
    scrapes.note()
    clock.now += wait - 0.1
    assert scrapes.regular
    clock.now += 0.2
    assert not scrapes.regular
    assert not scrapes.await_next()


def test_the_wait_ends_with_the_next_question() -> None:
    scrapes = Scrapes(Hands())
    scrapes.note()
    scrapes.note()
    asking = threading.Timer(0.05, scrapes.note)
    asking.start()
    assert scrapes.await_next()
    asking.join()

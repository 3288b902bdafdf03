"""What running tasks tell, as the operator reads it: seldom, within bounds, and only as theirs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from obstore.store import MemoryStore

from gapo.planning.observation import AttemptKey
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task, TaskKey
from gapo_operator.run_metrics.task_progress import ProgressReader

PPO = AttemptKey(TaskKey(3, Kind.PPO), 1)
TASK = Task(run_id="abc", stage=3, kind=Kind.PPO, generation=0, inputs={}, params={}, seed=1, attempt=1)
KEY = "stages/3/ppo/1/pod-1/progress.json"


class Desk:
    """A reader with a clock that the test moves, and all requests that it made."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.requests: list[tuple[str, str]] = []
        self.objects = Objects(
            MemoryStore(), listener=lambda op, result, _: self.requests.append((op, result))
        )
        self.reader = ProgressReader(lambda: self.seconds)

    def write(self, **fields: Any) -> None:
        body = {"runID": "abc", "taskDigest": TASK.digest, "progressPercentage": 45, **fields}
        self.objects.put(KEY, json.dumps(body).encode())
        self.requests.clear()

    def look(self, writer: str = "pod-1") -> Any:
        return self.reader.look(self.objects, {PPO: writer}, lambda _: TASK).get(PPO)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_task_is_asked_at_most_every_half_minute_and_sends_nothing_that_is_known(desk: Desk) -> None:
    desk.write(metrics=[{"name": "ppo/kl", "value": "0.02"}], estimatedRemainingSeconds=90)
    first = desk.look()
    assert (first.progress_percentage, first.estimated_remaining_seconds) == (45, 90)
    assert first.metrics == {"ppo/kl": 0.02}
    for _ in range(23):
        desk.seconds += 1  # the jitter may take a fifth of the 30 s away
        assert desk.look() == first
    assert desk.requests == [("get", "ok")]
    desk.seconds += 13
    assert desk.look() == first
    assert desk.requests == [("get", "ok"), ("get", "unchanged")]
    desk.write(progressPercentage=46)
    desk.seconds += 36
    assert desk.look().progress_percentage == 46


@pytest.mark.parametrize(
    "fields",
    [
        {"taskDigest": "0" * 64},
        {"runID": "another"},
        {"progressPercentage": 101},
        {"progressPercentage": "45"},
        {"estimatedRemainingSeconds": -1},
        {"metrics": [{"name": "ppo/kl", "value": "NaN"}]},
        {"metrics": [{"name": "n" * 201, "value": "1"}]},
        {"metrics": [{"name": "x", "value": "1"}] * 257},
        {"lastUpdatedTime": "yesterday"},
        {"padding": "x" * 70_000},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_not_this_tasks_or_no_progress_is_not_shown(desk: Desk, fields: dict[str, Any]) -> None:
    desk.write(**fields)
    assert desk.look() is None
    desk.write()
    desk.seconds += 36
    assert desk.look().progress_percentage == 45


def test_what_a_pod_told_is_forgotten_with_the_pod(desk: Desk) -> None:
    desk.write()
    assert desk.look() is not None
    assert desk.look("pod-2") is None
    assert desk.reader.look(desk.objects, {}, lambda _: TASK) == {}


def test_storage_that_fails_shows_nothing_and_stops_nothing(desk: Desk) -> None:
    desk.write()
    desk.reader = ProgressReader(lambda: desk.seconds)
    assert desk.look("no/plain/name") is None
    assert desk.requests == []

"""What `gapo run` prints where nobody watches: one line an event."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.telemetry.story import START, Story, measured

from gapo.cli.live_view import RunView
from gapo.local.executor import Launched
from gapo.local.run_monitor import RunWatch
from gapo.planning.observation import AttemptKey
from gapo.planning.preview import planned_keys
from gapo.store.attempt_end import AttemptEnd
from gapo.tasks import Kind, TaskKey

WARMUP = TaskKey(0, Kind.RM_WARMUP)


@pytest.mark.parametrize("passed", [0.0, 1.0])
def test_a_gate_that_only_warned_is_said_as_soon_as_the_warm_up_is_done(
    tmp_path: Path, passed: float
) -> None:
    def metrics(key: TaskKey) -> dict[str, float]:
        if key != WARMUP:
            return measured(key)
        return {"rm/pair_accuracy": 0.61, "rm/gate_passed": passed, "rm/pair_family/length": 0.9}

    story = Story(tmp_path / "store", metrics, stages={"max": 1})
    story.run()
    story.storage.observer.scan()
    screen = io.StringIO()
    watch = RunWatch(story.facts, "red", "lamp", story.storage.observer, planned_keys(story.spec))
    view = RunView(Console(file=screen, width=300), watch, "lamp")
    launched = Launched(story.storage.handed_over(AttemptKey(WARMUP, 0)), "writer", tmp_path, START, None)
    ended = AttemptEnd(attempt=0, cause="committed", charged=False, started_at=START, ended_at=START)
    view.ended(launched, ended)
    lines = screen.getvalue().splitlines()
    assert "0 rm-warmup done" in lines[0]
    assert lines[1:] == (
        []
        if passed
        else [
            "0:00 warning: the reward model did not pass rewardModel.warmup.gate, and PPO goes on against it "
            "(onFail: warn): pair accuracy 0.61 (0.75 needed)"
        ]
    )

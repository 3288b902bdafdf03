from __future__ import annotations

import dataclasses
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.telemetry.story import START, Story

from gapo.cli.live_view import RunView
from gapo.local.executor import Launched
from gapo.local.run_monitor import RunWatch, Scrapes
from gapo.metrics.samples import Sample
from gapo.planning.plan import State, Status
from gapo.planning.preview import planned_keys
from gapo.store import layout
from gapo.tasks import Kind, TaskKey

LABELS = {"namespace": "red", "run": "lamp", "stage": "2", "role": "generator"}
STATUS = Status(State.RUNNING, 2, "Running", "waiting for 2/ppo")


class Midway:
    """A run whose second stage is being trained: what came after is taken away again."""

    def __init__(self, folder: Path) -> None:
        self.story = Story(folder / "store", stages={"max": 2})
        self.story.run()
        seen = self.story.seen()
        self.task = self.story.storage.handed_over(_first(TaskKey(2, Kind.PPO)))
        for key in [key for key in seen.committed if key.stage == 2]:
            prefix = folder / "store" / layout.task_prefix(2, key.kind.value)
            (prefix / "manifest-0.json").unlink()
        (folder / "store" / "decisions" / "2.json").unlink()
        self.story.storage.observer.__init__(self.story.objects, "r1")  # type: ignore[misc]
        self.story.storage.observer.scan()
        planned = planned_keys(self.story.spec)
        self.watch = RunWatch(self.story.facts, "red", "lamp", self.story.storage.observer, planned)
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
    from gapo.planning.observation import AttemptKey

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


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def piped(midway: Midway, clock: Hands, **more: Any) -> tuple[RunView, io.StringIO]:
    """A view whose output goes to a file, and that output."""
    out = io.StringIO()
    view = RunView(Console(file=out, **more), midway.watch, "lamp", now=clock)
    view.status = STATUS
    return view, out


@pytest.mark.parametrize("coloured", [False, True], ids=["plain", "coloured for a reader of logs"])
def test_without_a_terminal_no_half_minute_passes_without_a_word(midway: Midway, coloured: bool) -> None:
    midway.says(
        progressPercentage=40,
        estimatedRemainingSeconds=90,
        metrics=[
            {"name": "task/step", "value": "8"},
            {"name": "task/steps", "value": "20"},
            {"name": "task/tokens_per_second", "value": "5231.4"},
            {"name": "ppo/kl", "value": "0.0125"},
        ],
    )
    clock = Hands()
    view, out = piped(midway, clock, force_terminal=coloured, color_system=None)
    longest, heard, length = 0.0, clock.now, 0
    with view:
        for _ in range(4 * 65):  # the executor's ticks of a quarter of a second
            clock.now += 0.25
            view.tick([midway.launched])
            if len(out.getvalue()) > length:
                heard, length = clock.now, len(out.getvalue())
            longest = max(longest, clock.now - heard)
    assert longest < 30
    first, *_ = lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "A2 ppo: 40 %, step 8 of 20, 1:30 left, ppo/kl 0.013, 5,231 tokens/s" in first
    assert "34 % of the run, about 1:38 left" in first


def test_events_count_as_a_word_and_nobody_looks_for_nothing(midway: Midway) -> None:
    clock = Hands()
    view, out = piped(midway, clock)
    for _ in range(6):
        clock.now += 15
        view.tick([midway.launched])
        view.say("an event")
    assert out.getvalue().splitlines() == ["an event"] * 6
    assert midway.watch.moment is None


def test_a_run_that_waits_says_for_what(midway: Midway) -> None:
    clock = Hands()
    view, out = piped(midway, clock)
    view.status = Status(State.WAITING, 2, "BackOff", "next attempt of 2/ppo in 120 s [link]")
    clock.now += 25
    view.tick([])
    assert "0:25 waiting: next attempt of 2/ppo in 120 s [link] · " in out.getvalue()


def test_a_task_that_has_told_nothing_yet_is_named(midway: Midway) -> None:
    clock = Hands()
    view, out = piped(midway, clock)
    clock.now += 25
    view.tick([midway.launched])
    assert "A2 ppo: has told nothing yet" in out.getvalue()


def test_while_samples_are_served_every_second_is_looked_at(midway: Midway) -> None:
    view = RunView(Console(file=io.StringIO()), midway.watch, "lamp", scraped=True)
    view.status = STATUS
    view.tick([midway.launched])
    assert midway.watch.moment is not None


def ended_with(midway: Midway, key: TaskKey, times: int = 1, **metrics: float) -> list[str]:
    """What is said of a task's end that committed these figures."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    seen = midway.watch.observer.observation()
    committed = dataclasses.replace(seen.committed[key], metrics=named)
    midway.watch.observer.observation = lambda: dataclasses.replace(  # type: ignore[method-assign]
        seen, committed={**seen.committed, key: committed}
    )
    view, out = piped(midway, Hands())
    task = midway.story.storage.handed_over(_first(key))
    record = next(a.ended for a in seen.attempts[key] if a.ended is not None)
    for _ in range(times):
        view.ended(Launched(task, "writer", Path(), START, None), record)
    return out.getvalue().splitlines()


def test_a_gate_that_was_not_passed_and_stops_nothing_is_said(midway: Midway) -> None:
    figures = {"rm__pair_accuracy": 0.56, "rm__pair_family/length.words": 0.41, "rm__gate_passed": 0.0}
    done, warning = ended_with(midway, TaskKey(0, Kind.RM_WARMUP), **figures)
    assert "0 rm-warmup done" in done
    assert (
        "warning: the reward model did not pass rewardModel.warmup.gate, and PPO goes on against it (onFail: warn): "
        "pair accuracy 0.56 (0.75 needed); family length.words is at 0.41 (0.60 needed)"
    ) in warning


def test_a_gate_that_was_passed_is_not_worth_a_word(midway: Midway) -> None:
    figures = {"rm__pair_accuracy": 0.96, "rm__gate_passed": 1.0}
    assert len(ended_with(midway, TaskKey(0, Kind.RM_WARMUP), **figures)) == 1


def test_an_evaluation_with_fewer_prompts_than_asked_says_so_once(midway: Midway) -> None:
    figures = {"eval__satisfaction": 0.5, "eval__prompts": 96.0, "eval__prompts_asked": 500.0}
    lines = ended_with(midway, TaskKey(1, Kind.EVALUATE), times=2, **figures)
    warnings = [line for line in lines if "warning" in line]
    assert len(warnings) == 1
    assert "the validation split has 96 prompts, fewer than the 500 of evaluation.prompts" in warnings[0]


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

"""What `gapo status --cluster` shows of a run, and when it says something new."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from tests.unit.operator.shown_runs import condition, run_with

from gapo.cli.options import Output
from gapo.errors import GapoError
from gapo_operator.cli import run_view as show
from gapo_operator.cli.run_view import summary_line as show_summary_line
from gapo_operator.cli.status import Screen


@pytest.mark.parametrize(
    ("state", "kind", "reason", "code"),
    [
        ("Failed", "Stalled", "PermanentFailure", 1),
        ("Failed", "Stalled", "InvalidData", 65),
        ("Stalled", "Stalled", "InvalidSpec", 64),
        ("Stalled", "Stalled", "InputCorrupt", 66),
        ("Stalled", "Stalled", "UnsupportedByOperator", 69),
    ],
)
def test_the_code_of_a_run_that_is_over_is_that_of_what_went_wrong(
    state: str, kind: str, reason: str, code: int
) -> None:
    snapshot = run_with(condition(kind, "True", reason, "line 3"), state=state)
    error = show.failure(snapshot)
    assert show.over(snapshot)
    assert isinstance(error, GapoError)
    assert (error.code, str(error)) == (code, f"red/smoke: {reason}: line 3")


def test_whoever_waits_without_a_terminal_hears_something_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = [0.0]
    trainer = {"progressPercentage": 41, "metrics": [{"name": "ppo/kl", "value": "0.0125"}]}
    snapshot = run_with(
        state="Running", progress="A3/12 ppo 45 %", progressPercentage=20, trainerStatus=trainer
    )
    screen = Screen(Output.TEXT, now=lambda: clock[0])
    heard, length, longest = 0.0, 0, 0.0
    with screen as show:
        show(snapshot)
        first = len(capsys.readouterr().out.splitlines())
        for _ in range(65):
            clock[0] += 1.0
            screen.still()
            lines = capsys.readouterr().out.splitlines()
            length += len(lines)
            heard = clock[0] if lines else heard
            longest = max(longest, clock[0] - heard)
    assert (first, length) == (1, 3)
    assert longest < 30
    assert show_summary_line(snapshot) == "Running, A3/12 ppo 45 %, 20 % of the run, ppo/kl 0.0125"


def test_programs_that_read_json_are_not_told_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    screen = Screen(Output.JSON, now=lambda: clock[0])
    with screen as show:
        show(run_with(state="Running"))
        clock[0] += 100.0
        screen.still()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_status_from_before_a_change_says_nothing_of_the_run_as_it_is_now() -> None:
    stale = run_with(condition("Succeeded", "True"), generation=2, state="Succeeded")
    assert not show.over(stale)
    assert stale.message == "changed; the operator has not looked at it since"
    fresh = run_with(condition("Succeeded", "True"), state="Succeeded")
    assert show.over(fresh)
    assert show.failure(fresh) is None


def test_a_state_of_a_newer_operator_is_shown_as_it_is() -> None:
    snapshot = run_with(
        condition("Dreaming", "True"), state="Dreaming", stages=[{"stage": 0, "mood": "good"}]
    )
    assert not show.over(snapshot)
    assert show.headline(snapshot).plain == "red/smoke: Dreaming"
    assert show.stage_table(snapshot).row_count == 1


TELLING: dict[str, Any] = {
    "state": "Running",
    "progress": "A3/12 ppo 45 %",
    "progressPercentage": 27,
    "estimatedRemainingSeconds": 11220,
    "tasks": [
        {"name": "job", "kind": "ppo", "attempt": 0, "state": "Running", "progressPercentage": 45},
    ],
    "trainerStatus": {
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 540,
        "metrics": [
            {"name": "rm/memorisation_gap", "value": "0.01"},
            {"name": "ppo/kl", "value": "0.0123456"},
            {"name": "ppo/satisfaction", "value": "0.7"},
        ],
        "lastUpdatedTime": "2026-01-01T12:00:00Z",
    },
}


def printed(snapshot: show.RunSnapshot) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(show.page(snapshot))
    return console.export_text()


def test_a_running_tasks_progress_its_figures_and_the_time_that_is_left_are_shown() -> None:
    text = printed(run_with(condition("Succeeded", "Unknown"), **TELLING))
    assert "Running, A3/12 ppo 45 %" in text
    assert "27 % of the run, about 3 h 07 min left" in text
    assert re.search(r"ppo +0 +Running +45 % +job", text)
    assert "task: about 9 min left · ppo/satisfaction 0.7 · ppo/kl 0.01235 · rm/memorisation_gap 0.01" in text


def test_of_a_run_that_is_over_nothing_is_expected() -> None:
    over = run_with(
        condition("Succeeded", "True"), **{**TELLING, "state": "Succeeded", "trainerStatus": None}
    )
    assert "left" not in printed(over)


def test_elsewhere_than_on_a_terminal_progress_is_a_line_whenever_the_task_tells_more() -> None:
    before = run_with(condition("Succeeded", "Unknown"), **TELLING)
    trainer = {**TELLING["trainerStatus"], "lastUpdatedTime": "2026-01-01T12:00:30Z"}
    after = run_with(
        condition("Succeeded", "Unknown"),
        **{**TELLING, "progress": "A3/12 ppo 46 %", "trainerStatus": trainer},
    )
    (line,) = show.changes(before, after)
    assert line.startswith("A3/12 ppo 46 %, 27 % of the run, about 3 h 07 min left, task: about 9 min left")
    assert list(show.changes(before, before)) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"), (190_000, "2 d 4 h")],
)
def test_durations_are_said_as_people_say_them(seconds: int, words: str) -> None:
    assert show.duration(seconds) == words

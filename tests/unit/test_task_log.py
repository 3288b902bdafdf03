"""What a task's log tells while it runs."""

from __future__ import annotations

import logging
import threading

import pytest

from gapo_trainer.runtime.log import ProgressLog, log_progress
from gapo_trainer.runtime.progress import TaskProgress


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spoken(clock: Clock) -> tuple[TaskProgress, ProgressLog, list[str]]:
    account, lines = TaskProgress(clock), list[str]()
    return account, ProgressLog(account, lines.append, clock), lines


def step(done: int, *, of: int = 200, tokens: int = 0, **figures: float) -> dict[str, object]:
    running = {name.replace("__", "/"): value for name, value in figures.items()}
    return {
        "fraction": done / of,
        "metrics": {},
        "running": running,
        "step": done,
        "steps": of,
        "tokens": tokens,
    }


def test_a_line_tells_step_loss_throughput_and_time_left(clock: Clock) -> None:
    account, talk, lines = spoken(clock)
    account.report(step(0))
    clock.now += 10
    account.report(step(20, tokens=40_000, sft__loss=2.5))
    talk.look()
    # A tenth in 10 s, so nine tenths in 90; 40,000 tokens in 10 s.
    assert lines == ["10 %, step 20 of 200, 1:30 left, sft/loss 2.500, 4,000 tokens/s"]


def test_what_steps_tell_stays_beside_what_the_last_look_told(clock: Clock) -> None:
    account, talk, lines = spoken(clock)
    look = {"sft/loss": 3.0, "sft/val_loss": 2.75, "sft/lr": 1e-5, "sft/grad_norm": 1.5}
    account.report({**step(20, of=100), "metrics": look})
    account.report(step(21, of=100, sft__loss=2.0))
    talk.look()
    assert lines == [
        "21 %, step 21 of 100, sft/loss 2.000, sft/val_loss 2.750, sft/lr 1e-05, sft/grad_norm 1.500"
    ]


def test_the_pace_of_a_resumed_task_is_of_this_attempt_alone(clock: Clock) -> None:
    account, _, _ = spoken(clock)
    account.report(step(100, tokens=1_000_000))
    clock.now += 5
    account.report(step(101, tokens=1_005_000))
    assert account.figures().metrics["task/tokens_per_second"] == 1000.0


def test_a_task_that_is_long_at_one_step_says_that_it_still_is(clock: Clock) -> None:
    account, talk, lines = spoken(clock)
    account.report(step(3, of=40))
    talk.look()
    heard, longest = clock.now, 0.0
    for _ in range(20):
        clock.now += 5
        before = len(lines)
        talk.look()
        longest = max(longest, clock.now - heard)
        heard = clock.now if len(lines) > before else heard
    assert longest < 30
    assert lines[1] == "still at 8 %, step 3 of 40, 0:25 after the start"


def test_a_task_that_only_prepares_says_so(clock: Clock) -> None:
    _, talk, lines = spoken(clock)
    talk.look()
    clock.now += 30
    talk.look()
    assert lines == ["no figures yet, 0:30 after the start"]


def test_nothing_is_said_twice(clock: Clock) -> None:
    account, talk, lines = spoken(clock)
    account.report(step(3, of=40))
    for _ in range(4):
        clock.now += 1
        talk.look()
    assert len(lines) == 1


def test_the_last_word_of_a_short_task_is_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    account = TaskProgress()
    with caplog.at_level(logging.INFO), log_progress(account, every=3600):
        account.report(step(200, rm__loss=0.5))
    assert "100 %, step 200 of 200, rm/loss 0.500" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "talk"]


def test_mere_steps_write_progress_far_less_often_than_new_figures(clock: Clock) -> None:
    account, _, _ = spoken(clock)
    written = 0
    for done in range(1, 101):  # ten steps a second
        clock.now += 0.1
        account.report(step(done, sft__loss=1.0))
        written += account.changed.is_set()
        account.changed.clear()
    assert written == 2
    account.report({**step(101), "metrics": {"sft/val_loss": 1.0}})
    assert account.changed.is_set()

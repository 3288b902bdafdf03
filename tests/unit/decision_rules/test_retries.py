"""Retries (docs/contracts/tasks.md#free-and-charged-attempts)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gapo.decision_rules.attempts import Exit
from gapo.decision_rules.retries import (
    Fail,
    RetrySettings,
    Start,
    Wait,
    classify,
    free_ends,
    next_attempt,
)
from gapo.store.attempt_end import AttemptEnd, Cause

T0 = datetime(2025, 1, 1, 12, tzinfo=UTC)
LATER = T0 + timedelta(days=1)


@pytest.mark.parametrize(
    ("ended", "before", "after", "cause", "charged"),
    [
        (Exit(0, committed=True), None, None, "committed", False),
        (Exit(137, committed=True), None, None, "committed", False),  # a manifest beats a status
        (Exit(143, stopped=True), None, None, "stopped", False),
        (Exit(-9, stopped=True), 4, 4, "stopped", False),
        (Exit(130, stopped=True), None, None, "stopped", False),
        (Exit(executor_lost=True), None, None, "executorLost", False),
        (Exit(None), None, None, "executorLost", False),
        (Exit(143), 4, 5, "preempted", False),
        (Exit(-15), None, 0, "preempted", False),
        (Exit(143), 4, 4, "preempted", True),
        (Exit(143), None, None, "preempted", True),
        (Exit(137), 4, 5, "killed", True),
        (Exit(-9), None, None, "killed", True),
        (Exit(139), None, None, "killed", True),
        (Exit(137, oom_killed=True), 1, 2, "outOfMemory", True),
        (Exit(75, reason="OutOfMemory"), None, None, "outOfMemory", True),
        (Exit(75, reason="StoreUnavailable"), None, None, "retryable", True),
        (Exit(75), None, None, "retryable", True),
        (Exit(75, reason="Fenced"), None, None, "fenced", False),
        (Exit(75, reason="StorageNotAllowed"), None, None, "noAccess", False),
        (Exit(75, reason="SourceNotAllowed"), None, None, "noAccess", False),
        (Exit(75, reason="BucketNotFound"), 1, 1, "noAccess", False),
        (Exit(64, reason="LocationInvalid"), None, None, "noAccess", False),
        (Exit(75, reason="StorageNotAllowed", stopped=True), None, None, "stopped", False),
        (Exit(64, reason="LocationInvalid", stopped=True), None, None, "stopped", False),
        (Exit(128, never_ran=True), None, None, "notStarted", False),
        (Exit(None, never_ran=True), None, None, "notStarted", False),
        (Exit(64), None, None, "permanent", True),
        (Exit(73), None, None, "permanent", True),
        (Exit(66, stopped=True), None, None, "permanent", True),
        (Exit(63), None, None, "failed", True),
        (Exit(74), None, None, "failed", True),
        (Exit(1), 1, 2, "failed", True),
        (Exit(255), None, None, "failed", True),
        (Exit(0), None, None, "noCommit", True),
    ],
)
def test_every_end_has_a_cause_and_a_price(
    ended: Exit, before: int | None, after: int | None, cause: str, charged: bool
) -> None:
    got = classify(ended, resume_before=before, resume_after=after)
    assert (got.cause, got.charged) == (cause, charged)


def end(attempt: int, cause: Cause, charged: bool = False, **details: Any) -> AttemptEnd:
    """An attempt that ended at T0."""
    began = T0 - timedelta(minutes=5)
    return AttemptEnd(attempt=attempt, cause=cause, charged=charged, started_at=began, ended_at=T0, **details)


def ends(*specs: tuple[str, bool], **common: Any) -> list[AttemptEnd]:
    """Attempts 0, 1, … that ended at T0, each (cause, charged)."""
    return [end(n, Cause(cause), charged, **common) for n, (cause, charged) in enumerate(specs)]


CHARGED = ("failed", True)
FREE = ("preempted", False)
LOST = ("executorLost", False)
STOPPED = ("stopped", False)
FENCED = ("fenced", False)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [STOPPED],
        [STOPPED] * 50,
        [FENCED] * 50,
        [FREE] * 20,
        [LOST] * 20,
        [CHARGED] * 3,
        [FREE] * 20 + [CHARGED] * 3,
        [FREE] * 23,  # three beyond the limit are charged: three are allowed
    ],
)
def test_a_task_within_its_allowance_is_started_again(history: list[tuple[str, bool]]) -> None:
    assert next_attempt(ends(*history), kind="ppo", now=LATER) == Start()


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([CHARGED] * 4, "ppo failed 4 times, 3 are allowed; the last end was failed"),
        ([CHARGED, STOPPED, CHARGED, FREE, CHARGED, LOST, CHARGED], "failed 4 times"),
        ([FREE] * 24, "preempted (free ends beyond 20 a stage are charged)"),
        ([FREE] * 10 + [LOST] * 14, "executorLost (free ends beyond 20 a stage are charged)"),
    ],
)
def test_a_task_beyond_its_allowance_fails(history: list[tuple[str, bool]], words: str) -> None:
    verdict = next_attempt(ends(*history), kind="ppo", now=LATER)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "TooManyFailures"
    assert words in verdict.message
    assert "scheduling.maxFailures" in verdict.message


def test_raising_the_allowance_tries_a_failed_task_again() -> None:
    history = ends(*[CHARGED] * 4)
    assert next_attempt(history, RetrySettings(max_failures=4), kind="rm", now=LATER) == Start()


def test_with_no_failure_allowed_the_first_one_ends_the_task() -> None:
    assert isinstance(next_attempt(ends(CHARGED), RetrySettings(max_failures=0), kind="rm", now=LATER), Fail)


def test_free_ends_of_the_stages_other_tasks_count_to_the_same_limit() -> None:
    history = ends(*[FREE] * 4)
    assert isinstance(next_attempt(history, kind="rm", now=LATER, free_elsewhere=20), Fail)
    assert next_attempt(history, kind="rm", now=LATER, free_elsewhere=16) == Start()


def test_only_preemptions_and_lost_executors_count_as_free_ends() -> None:
    assert free_ends(ends(FREE, LOST, STOPPED, FENCED, CHARGED, ("preempted", True))) == 2


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (9, 300), (60, 300)]
)
def test_charged_failures_back_off_twice_as_long_each_time_up_to_five_minutes(
    failures: int, seconds: int
) -> None:
    settings = RetrySettings(max_failures=100)
    history = ends(*[CHARGED] * failures)
    until = T0 + timedelta(seconds=seconds)
    just_before = next_attempt(history, settings, kind="ppo", now=until - timedelta(milliseconds=1))
    assert isinstance(just_before, Wait)
    assert just_before.until == until
    assert next_attempt(history, settings, kind="ppo", now=until) == Start()


@pytest.mark.parametrize("cause", ["noAccess", "notStarted"])
@pytest.mark.parametrize(("times", "seconds"), [(1, 30), (2, 60), (5, 480), (6, 600), (1000, 600)])
def test_what_a_person_has_to_put_right_is_waited_for_without_end_and_looked_at_rarely(
    cause: str, times: int, seconds: int
) -> None:
    history = ends(*[CHARGED] * 3, *[(cause, False)] * times, message="keys are wrong")
    until = T0 + timedelta(seconds=seconds)
    waiting = next_attempt(history, kind="data", now=until - timedelta(milliseconds=1))
    assert waiting == Wait(until, "data waits until somebody acts: keys are wrong")
    assert next_attempt(history, kind="data", now=until) == Start()


def test_what_was_put_right_once_is_waited_for_anew_at_first_shortly() -> None:
    history = ends(*[("noAccess", False)] * 8, FREE, ("noAccess", False))
    waiting = next_attempt(history, kind="data", now=T0)
    assert isinstance(waiting, Wait)
    assert waiting.until == T0 + timedelta(seconds=30)


def test_ends_that_got_on_before_they_had_to_wait_are_no_row() -> None:
    for resumes, seconds in (([1, 2, 3, 4], 30), ([1, 1, 1, 2, 2], 60), ([2, 2, 2], 120), ([None, 0, 0], 60)):
        history = [
            one.model_copy(update={"last_resume": resume})
            for one, resume in zip(ends(*[("noAccess", False)] * len(resumes)), resumes, strict=True)
        ]
        waiting = next_attempt(history, kind="ppo", now=T0)
        assert isinstance(waiting, Wait)
        assert waiting.until == T0 + timedelta(seconds=seconds)


def test_a_changed_manifest_ends_the_wait_for_a_person_and_no_back_off() -> None:
    waiting = ends(*[("notStarted", False)] * 8)
    assert next_attempt(waiting, kind="sft", now=T0, asked_anew=True) == Start()
    assert isinstance(next_attempt(ends(CHARGED), kind="sft", now=T0, asked_anew=True), Wait)


@pytest.mark.parametrize("end", [FREE, LOST, STOPPED, FENCED])
def test_after_a_free_end_there_is_no_wait(end: tuple[str, bool]) -> None:
    assert next_attempt(ends(CHARGED, end), kind="ppo", now=T0) == Start()


def test_ends_count_by_their_numbers_whatever_the_order_in_which_they_are_given() -> None:
    free_last = [end(0, Cause.FAILED, True), end(1, Cause.PREEMPTED)]
    assert next_attempt(free_last[::-1], kind="ppo", now=T0) == Start()
    charged_last = [end(0, Cause.PREEMPTED), end(1, Cause.FAILED, True)]
    assert isinstance(next_attempt(charged_last[::-1], kind="ppo", now=T0), Wait)


def test_a_permanent_end_is_final_whatever_came_with_it() -> None:
    history = [
        end(0, Cause.PERMANENT, True, exit_code=73, message="families length and forbidden are at chance"),
        end(1, Cause.STOPPED),
    ]
    verdict = next_attempt(history, RetrySettings(max_failures=20), kind="rm-warmup", now=LATER)
    assert verdict == Fail(
        "PermanentFailure",
        "rm-warmup failed for good with exit 73: families length and forbidden are at chance",
    )


def oom(attempt: int, step: int | None, device: bool = True) -> AttemptEnd:
    return end(attempt, Cause.OUT_OF_MEMORY, True, step=step, device_memory=device)


@pytest.mark.parametrize(
    ("kind", "device", "act"),
    [
        ("ppo", True, "lower ppo.tokensPerMicroBatch"),
        ("rm", True, "lower rewardModel.batch"),
        ("ppo", False, "raise roles.generator.resources.limits.memory"),
        ("rm-warmup", False, "raise roles.rewardModel.resources.limits.memory"),
        ("evaluate", False, "raise roles.evaluation.resources.limits.memory"),
    ],
)
def test_out_of_memory_twice_at_the_same_step_names_the_field_to_change(
    kind: str, device: bool, act: str
) -> None:
    verdict = next_attempt([oom(0, 7, device), oom(1, 7, device)], kind=kind, now=LATER)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "OutOfMemory"
    assert verdict.message.endswith(f"twice at step 7; {act}")


@pytest.mark.parametrize(
    "history",
    [
        [oom(0, 7)],
        [oom(0, 7), oom(1, 8)],  # it got further: another chance
        [oom(0, 7, device=True), oom(1, 7, device=False)],
        [oom(0, None), oom(1, None)],
    ],
)
def test_out_of_memory_that_is_not_twice_the_same_is_tried_again(history: list[AttemptEnd]) -> None:
    assert next_attempt(history, kind="ppo", now=LATER) == Start()


def test_an_out_of_memory_in_between_makes_no_difference() -> None:
    history = [oom(0, 7), end(1, Cause.PREEMPTED), oom(2, 9), oom(3, 7)]
    verdict = next_attempt(history, RetrySettings(max_failures=20), kind="ppo", now=LATER)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "OutOfMemory"


def test_attempts_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attempts \[0, 2\] of ppo have a gap"):
        next_attempt([oom(0, 1), oom(2, 1)], kind="ppo", now=LATER)

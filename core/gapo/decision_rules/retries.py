"""Whether and when a task is tried again (docs/contracts/tasks.md#free-and-charged-attempts): all retry state is
in `ended.json` objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gapo.decision_rules.attempts import FOR_A_PERSON, NEVER_COUNTED, Exit
from gapo.errors import ACCESS_ERRORS, FencedError
from gapo.reasons import Reason
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.tasks import KINDS, Kind

MAX_FREE_PER_STAGE = 20
PERMANENT_CODES = range(64, 74)
RETRYABLE_CODE = 75
SIGTERM_CODES = (143, -15)

NO_ACCESS = frozenset(error.reason for error in ACCESS_ERRORS)


@dataclass(frozen=True)
class RetrySettings:
    """`scheduling.maxFailures`, and how long to wait after a charged failure."""

    max_failures: int = 3
    """Charged failures that a task may have and still be tried again."""
    backoff: timedelta = timedelta(seconds=10)
    """Wait after the first charged failure; it doubles with each further one."""
    backoff_limit: timedelta = timedelta(minutes=5)
    patience: timedelta = timedelta(seconds=30)
    """Wait after an end that a person has to do something about; doubled while nobody has."""
    patience_limit: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Classified:
    cause: Cause
    charged: bool


@dataclass(frozen=True)
class Start:
    """Start the next attempt; it finds the resume point to go on from by itself."""


@dataclass(frozen=True)
class Wait:
    until: datetime
    reason: str


@dataclass(frozen=True)
class Fail:
    """No further attempt: `reason` is the CamelCase word for conditions, `message` says what to do."""

    reason: str
    message: str


def classify(ended: Exit, *, resume_before: int | None, resume_after: int | None) -> Classified:
    """Names the cause of an attempt's end and whether it is charged.

    `resume_before` is the newest resume point's number when the attempt started, `resume_after` when it ended.
    A preemption is free only between them: one that never gets on would otherwise go round for ever. What ended
    with its executor is free; the limit on free ends bounds it.
    """
    advanced = resume_after is not None and (resume_before is None or resume_after > resume_before)
    code = ended.code
    if ended.committed:
        return Classified(Cause.COMMITTED, charged=False)
    if ended.reason in NO_ACCESS:
        return Classified(Cause.STOPPED if ended.stopped else Cause.NO_ACCESS, charged=False)
    # A task that found its input corrupt stays permanent although the user pressed Ctrl-C meanwhile.
    if code in PERMANENT_CODES:
        return Classified(Cause.PERMANENT, charged=True)
    if ended.stopped:
        return Classified(Cause.STOPPED, charged=False)
    if ended.never_ran:
        return Classified(Cause.NOT_STARTED, charged=False)
    if ended.oom_killed or (code == RETRYABLE_CODE and ended.reason == Reason.OUT_OF_MEMORY):
        return Classified(Cause.OUT_OF_MEMORY, charged=True)
    if code == RETRYABLE_CODE and ended.reason == FencedError.reason:
        return Classified(Cause.FENCED, charged=False)
    if ended.executor_lost or code is None:
        return Classified(Cause.EXECUTOR_LOST, charged=False)
    if code in SIGTERM_CODES:
        return Classified(Cause.PREEMPTED, charged=not advanced)
    if code == RETRYABLE_CODE:
        return Classified(Cause.RETRYABLE, charged=True)
    if code == 0:
        return Classified(Cause.NO_COMMIT, charged=True)
    return Classified(Cause.KILLED if code < 0 or 128 < code < 160 else Cause.FAILED, charged=True)


def free_ends(ended: Sequence[AttemptEnd]) -> int:
    """Ends that were free but count towards a stage's limit of free ends."""
    return sum(not e.charged and e.cause not in NEVER_COUNTED for e in ended)


def next_attempt(
    ended: Sequence[AttemptEnd],
    settings: RetrySettings | None = None,
    *,
    kind: str,
    now: datetime,
    free_elsewhere: int = 0,
    asked_anew: bool = False,
) -> Start | Wait | Fail:
    """Says what to do about a task that is not committed and has no running attempt.

    `ended` are the ended attempts of this very task (same digest) in any order; `kind` is its kind;
    `free_elsewhere` is `free_ends` of the stage's other tasks. Free ends beyond the stage's limit are charged.
    `asked_anew`: somebody has just changed the manifest, perhaps what an attempt waits for.
    Raises ValueError where the attempts' numbers are not 0, 1, 2, …
    """
    settings = settings or RetrySettings()
    history = sorted(ended, key=lambda e: e.attempt)
    if [e.attempt for e in history] != list(range(len(history))):
        raise ValueError(f"attempts {[e.attempt for e in history]} of {kind} have a gap or a double")
    if not history:
        return Start()
    for end in history:
        if end.cause is Cause.PERMANENT:
            return Fail(
                Reason.PERMANENT_FAILURE,
                f"{kind} failed for good with exit {end.exit_code}: {end.message or ''}",
            )
    failure = _out_of_memory_again(history, kind)
    if failure is not None:
        return failure

    charged = _charged(history, free_elsewhere)
    if len(charged) > settings.max_failures:
        return Fail(Reason.TOO_MANY_FAILURES, _too_many(charged, settings, kind))
    last = history[-1]
    if last.cause in FOR_A_PERSON:
        until = last.ended_at + _patience(history, settings)
        if now < until and not asked_anew:
            return Wait(until, f"{kind} waits until somebody acts: {last.message or ''}")
    elif charged and charged[-1] is last:
        wait = settings.backoff * 2 ** min(len(charged) - 1, 30)
        until = last.ended_at + min(wait, settings.backoff_limit)
        if now < until:
            return Wait(
                until, f"{kind} failed ({last.cause}), {len(charged)} of {settings.max_failures} allowed"
            )
    return Start()


def _patience(history: Sequence[AttemptEnd], settings: RetrySettings) -> timedelta:
    """Doubled by each end of the kind in a row; one that got on before it had to wait begins another row."""
    in_a_row, furthest = 0, -1
    for end in history:
        resume = -1 if end.last_resume is None else end.last_resume
        if end.cause not in FOR_A_PERSON:
            in_a_row = 0
        elif resume > furthest:
            in_a_row = 1
        else:
            in_a_row += 1
        furthest = max(furthest, resume)
    wait: timedelta = settings.patience * 2 ** min(in_a_row - 1, 30)
    return min(wait, settings.patience_limit)


def _charged(history: Sequence[AttemptEnd], free_elsewhere: int) -> list[AttemptEnd]:
    charged, free = [], free_elsewhere
    for end in history:
        if end.cause in NEVER_COUNTED:
            continue
        if not end.charged:
            free += 1
        if end.charged or free > MAX_FREE_PER_STAGE:
            charged.append(end)
    return charged


def _out_of_memory_again(history: Sequence[AttemptEnd], kind: str) -> Fail | None:
    """Twice at the same step, and on the same side: a third time would not differ."""
    earlier: set[tuple[int, bool]] = set()
    for end in history:
        if end.cause is not Cause.OUT_OF_MEMORY or end.step is None:
            continue
        at = (end.step, end.device_memory)
        if at in earlier:
            if end.device_memory:
                act = f"lower {KINDS[Kind(kind)].memory_field}"
            else:
                act = f"raise roles.{KINDS[Kind(kind)].role}.resources.limits.memory"
            where = "device" if end.device_memory else "host"
            return Fail(
                Reason.OUT_OF_MEMORY, f"{kind} ran out of {where} memory twice at step {end.step}; {act}"
            )
        earlier.add(at)
    return None


def _too_many(charged: Sequence[AttemptEnd], settings: RetrySettings, kind: str) -> str:
    last = charged[-1]
    beyond = "" if last.charged else f" (free ends beyond {MAX_FREE_PER_STAGE} a stage are charged)"
    detail = f": {last.message}" if last.message else ""
    return (
        f"{kind} failed {len(charged)} times, {settings.max_failures} are allowed; the last end was "
        f"{last.cause}{beyond}{detail}; raise scheduling.maxFailures to try again"
    )

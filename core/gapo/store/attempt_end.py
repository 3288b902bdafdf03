"""How one attempt of a task ended: the record `ended.json`, which planner, operator and report read alike."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BeforeValidator

from gapo.store.records import Count, Key, Record, Text, Word


class Cause(StrEnum):
    """Why an attempt ended; the values are those of `ended.json`."""

    COMMITTED = "committed"
    STOPPED = "stopped"
    """The user suspended or interrupted the run, or changed what the attempt was to run with before it had begun."""
    FENCED = "fenced"
    """Another executor has claimed the run."""
    EXECUTOR_LOST = "executorLost"
    """The attempt ended with its executor, which left no record; the next executor writes this one."""
    PREEMPTED = "preempted"
    """Exit 143: a signal from outside, with time to finish."""
    KILLED = "killed"
    """A signal without warning, 128 + n or −n, that was no lack of memory."""
    OUT_OF_MEMORY = "outOfMemory"
    """The host's (OOMKilled) or the device's memory ran out."""
    NO_COMMIT = "noCommit"
    """Exit 0, yet there is no manifest."""
    NO_ACCESS = "noAccess"
    """Storage refused it, or its keys or the location's address are no such thing: a person has to put that right."""
    NOT_STARTED = "notStarted"
    """No container of its pod ever ran, for want of something that a person has to put right, such as its image."""
    RETRYABLE = "retryable"
    """Exit 75: store, disk or another service was unavailable."""
    PERMANENT = "permanent"
    """Exit 64–73: the same inputs would fail in the same way."""
    FAILED = "failed"
    """Any other exit."""


def _cause(word: object) -> object:
    """A cause of a later release counts as a failure."""
    if not isinstance(word, str):
        return word
    return Cause(word) if word in {cause.value for cause in Cause} else Cause.FAILED


class AttemptEnd(Record):
    """How one attempt ended. Retry budgets and GPU-hours are computed from these."""

    schema_version: Literal[1] = 1
    attempt: Count
    cause: Annotated[Cause, BeforeValidator(_cause)]
    charged: bool
    """False where the attempt counts against no retry budget."""
    exit_code: int | None = None
    reason: Word | None = None
    """CamelCase word that the task left, or that its executor found."""
    message: Text | None = None
    started_at: AwareDatetime
    ended_at: AwareDatetime
    gpus: Count = 0
    last_resume: Count | None = None
    """Number of the last resume point that was there at the end: the search for the next starts here."""
    step: Count | None = None
    """Iteration of the last resume point that it saved or began from; None before the first."""
    device_memory: bool = False
    """With `outOfMemory`: the device's memory ran out, not the host's."""
    bad_input: Key | None = None
    """Exit 66: the manifest that the attempt found corrupt."""

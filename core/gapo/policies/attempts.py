"""How attempts of a task end: the causes, and what each costs (docs/contracts/tasks.md#free-and-charged-attempts)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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


FOR_A_PERSON = frozenset({Cause.NO_ACCESS, Cause.NOT_STARTED})
"""Ends whose cause lies outside the run and stays until somebody removes it: the task waits, however long, and is looked
at again from time to time."""
NEVER_COUNTED = frozenset({Cause.COMMITTED, Cause.STOPPED, Cause.FENCED}) | FOR_A_PERSON
"""Ends that say nothing about the task."""


@dataclass(frozen=True)
class Exit:
    """What an executor saw of an attempt's end."""

    code: int | None = None
    """The process's exit code as a shell gives it (128 + n for signal n) or as Python does (−n); None where no
    process was seen to end."""
    reason: str | None = None
    """`reason` of the termination message: OutOfMemory and Fenced are told apart from other exits 75. Where the task
    left none, what its executor found, such as Evicted."""
    stopped: bool = False
    """The executor ended it because the user suspended or interrupted the run."""
    oom_killed: bool = False
    """The kernel's out-of-memory killer ended it (Kubernetes: OOMKilled)."""
    never_ran: bool = False
    """No container of its pod ran (Kubernetes: the image has no such program, say)."""
    executor_lost: bool = False
    """A predecessor's attempt without a record of its end."""
    committed: bool = False
    """The task's manifest is there: it outweighs every status."""


@dataclass(frozen=True)
class Ended:
    """One `ended.json`: how an attempt of a task ended. Times are timezone-aware, from one clock."""

    attempt: int
    cause: Cause
    charged: bool
    started_at: datetime
    ended_at: datetime
    code: int | None = None
    message: str = ""
    reason: str | None = None
    """CamelCase word that the task left, or that its executor found."""
    resume: int | None = None
    """Number of the last resume point that was there at the end; None where there is none."""
    step: int | None = None
    """Iteration of the last resume point that it saved or began from; None before the first."""
    gpus: float = 0.0
    device_memory: bool = False
    """With `outOfMemory`: the device's memory ran out, not the host's."""

"""Ends of attempts: what an executor saw of them, and which of them cost nothing
(docs/contracts/tasks.md#free-and-charged-attempts)."""

from __future__ import annotations

from dataclasses import dataclass

from gapo.store.attempt_end import Cause

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

"""What the planner gets: facts read from storage and from the executor's own processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from gapo.store.attempt_end import AttemptEnd
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import TaskKey


class AttemptKey(NamedTuple):
    """One attempt of one task."""

    task: TaskKey
    attempt: int


@dataclass(frozen=True)
class Committed:
    """A verified manifest: the newest generation that is not revoked."""

    ref: ManifestRef
    generation: int
    task_digest: str
    inputs: Mapping[str, ManifestRef]
    metrics: Mapping[str, float]
    finished_at: datetime | None = None
    """None for one that is only pretended."""


@dataclass(frozen=True)
class ObservedAttempt:
    """An attempt whose hand-over exists. Neither ended nor running: its executor is gone."""

    number: int
    running: bool = False
    ended: AttemptEnd | None = None
    forgiven: bool = False
    """It ended before a person started the run again: a failure then says nothing about now."""

    @property
    def bad_input(self) -> str | None:
        """Key of the manifest that the attempt found corrupt (exit 66)."""
        return None if self.ended is None else self.ended.bad_input


@dataclass(frozen=True)
class Observation:
    """Everything that the planner knows about a run. It may be stale; it is never ahead of storage."""

    committed: Mapping[TaskKey, Committed] = field(default_factory=dict)
    revoked: Mapping[TaskKey, int] = field(default_factory=dict)
    """How many generations of a task are revoked."""
    attempts: Mapping[TaskKey, tuple[ObservedAttempt, ...]] = field(default_factory=dict)
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    problems: Mapping[TaskKey, str] = field(default_factory=dict)
    """Why a task's manifest, though present, is not to be trusted (torn, foreign, oversized)."""

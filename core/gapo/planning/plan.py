"""What the planner is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.digest import digest
from gapo.planning.observation import AttemptKey
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import Kind, Task, TaskKey, task_params


class State(StrEnum):
    """A run's state in one word."""

    RUNNING = "Running"
    WAITING = "Waiting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STALLED = "Stalled"


@dataclass(frozen=True)
class Status:
    """Where a run stands, in words that a user reads."""

    state: State
    stage: int
    reason: str
    message: str
    best_stage: int | None = None
    waiting_for: tuple[TaskKey, ...] = ()


@dataclass(frozen=True)
class Revocation:
    """A manifest to void: it, or what it was made from, is corrupt."""

    task: TaskKey
    generation: int
    evidence: str


@dataclass(frozen=True)
class RolloutServers:
    """vLLM servers that a run wants now. Their life is in no digest: what they sample is said by who asks."""

    replicas: int
    generator: ManifestRef
    """A generator of the run; they have its architecture and vocabulary, and are given weights by each task."""


@dataclass(frozen=True)
class Plan:
    """What to do now. Every part may be carried out twice, or not at all, without harm."""

    status: Status
    start: tuple[Task, ...] = ()
    stop: tuple[AttemptKey, ...] = ()
    lost: tuple[AttemptKey, ...] = ()
    """Attempts that ended with an earlier executor: record their end."""
    decide: Decision | None = None
    revoke: tuple[Revocation, ...] = ()
    wake_at: datetime | None = None
    rollout: RolloutServers | None = None
    """The servers to be had; without them, those that are there are ended. A task that samples is started once they
    serve."""


@dataclass(frozen=True)
class RunFacts:
    """What the planner must know of a run beside what was observed."""

    run_id: str
    spec: GapoRunSpec

    @cached_property
    def params(self) -> Mapping[Kind, Mapping[str, Any]]:
        """What each kind of task reads of the spec; the same for every plan of the run."""
        return {kind: task_params(self.spec, kind) for kind in Kind}

    @cached_property
    def params_digests(self) -> Mapping[Kind, str]:
        return {kind: digest(params) for kind, params in self.params.items()}

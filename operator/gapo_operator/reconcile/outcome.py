"""What one look at a run's storage hands to the part of a pass that talks to the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.planning.observation import AttemptKey, Observation
from gapo.planning.plan import Plan
from gapo.run.record import RunRecord
from gapo.store.attempt_end import AttemptEnd
from gapo.store.records import Decision
from gapo.tasks import Task


@dataclass
class Outcome:
    """What storage and the planner say, and which Jobs are to be created and deleted."""

    plan: Plan
    observation: Observation
    record: RunRecord
    claim: int
    figures: RunFigures | None = None
    task_figures: Mapping[AttemptKey, TaskFigures] = field(default_factory=dict)
    """What running tasks have written last of themselves."""
    create: list[Task] = field(default_factory=list)
    """Attempts whose Job must be there and is not."""
    stop: list[AttemptKey] = field(default_factory=list)
    """Attempts whose Job must go."""
    ended: list[tuple[AttemptKey, AttemptEnd]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    adopted: bool = False
    """The first pass over a run that was there before this GapoRun."""
    again_after: float | None = None
    """Seconds after which something is to be looked at that no event tells of."""
    polls: bool = False
    """Something may be committed any moment; otherwise the cluster tells of all that can happen."""

    def look_again(self, after: float) -> None:
        self.again_after = after if self.again_after is None else min(after, self.again_after)

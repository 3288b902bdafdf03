"""What earlier passes saw of an attempt whose end is not recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gapo_operator.kube.job_states import AttemptJob


@dataclass
class AttemptMemory:
    """After a restart of the operator it is seen anew, or not missed."""

    started_at: datetime | None = None
    has_job: bool = False
    begun: bool = False
    deletion_requested: bool = False
    """Its Job's deletion was asked for."""
    superseded: bool = False
    """It had not begun when what is asked of it changed: another attempt takes its place, even where its pod begins
    meanwhile."""
    doubtful_since: float | None = None
    """Since when its Job is over and what became of it is not clear."""
    committed_since: float | None = None

    def observe(self, attempt_job: AttemptJob) -> None:
        """Keeps what the cluster shows now, for a pass in which it shows less."""
        self.has_job = self.has_job or attempt_job.uid is not None
        self.begun = self.begun or attempt_job.begun
        self.started_at = attempt_job.started_at or self.started_at
        self.superseded = self.superseded or attempt_job.superseded

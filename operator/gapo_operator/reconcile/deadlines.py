"""Time limits of a run on a cluster: how long pods may wait for room, and how long tasks may run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from gapo.decision_rules.budget import spent
from gapo.planning.observation import AttemptKey, Observation
from gapo.reasons import Reason
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo_operator.kube.job_states import AttemptJob, JobState, Problem
from gapo_operator.kube.message_changes import GIVEN_BACK

REST_SECONDS, LONGEST_REST_SECONDS = 60.0, 1800.0
"""How long a run whose pods found no room holds back: doubled from time to time."""
MARGIN_SECONDS = 0.1
"""So that whoever looks again when a time is over does not look a moment early."""
FOR_WANT_OF_ROOM = (Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED, "SchedulerError", "SchedulingGated")
"""Problems of pods that time may solve."""


def overdue(
    attempt_jobs: Mapping[AttemptKey, AttemptJob], waited: Mapping[str, float], timeout: float
) -> list[AttemptJob]:
    """Those whose pods have not started for `timeout` seconds. `waited`: Job name → seconds since it was seen first."""
    late = (
        attempt_job
        for attempt_job in attempt_jobs.values()
        if attempt_job.state is JobState.PENDING and waited.get(attempt_job.name, 0.0) > timeout
    )
    return sorted(late, key=lambda attempt_job: attempt_job.name)


def time_for_room(
    attempt_jobs: Mapping[AttemptKey, AttemptJob], waited: Mapping[str, float], timeout: float
) -> list[float]:
    """Seconds until each Job whose pod has not started counts as without room."""
    pending = [
        attempt_job.name for attempt_job in attempt_jobs.values() if attempt_job.state is JobState.PENDING
    ]
    return [max(0.0, timeout - waited.get(job, 0.0)) + MARGIN_SECONDS for job in pending]


def why_given_back(attempt_job: AttemptJob, timeout: float) -> Problem:
    """Why a pod did not start in time, and that what the run holds is given back for that: for want of room, or of what
    a person has to put right, which no room helps."""
    after = f"after {timeout:.0f} s (scheduling.pendingTimeout) {GIVEN_BACK}"
    problem = attempt_job.problem
    if problem is None and attempt_job.started_at is not None:
        text = (
            f"{attempt_job.name}: its pod has a node and no container of it runs, as when a volume, ConfigMap or Secret is "
            f"not there; kubectl describe pods -l batch.kubernetes.io/job-name={attempt_job.name} says why"
        )
        return Problem(Reason.CONTAINER_NOT_STARTED, f"{text}; {after}")
    if problem is None or problem.reason in FOR_WANT_OF_ROOM:
        words = "" if problem is None else f": {problem.reason}: {problem.message}"
        return Problem(Reason.CAPACITY_TIMEOUT, f"no room{words}; {after}")
    return Problem(problem.reason, f"{attempt_job.name}: {problem.message}; {after}")


def rest(reason: str, times: int) -> float:
    """Seconds to hold back after this many times in a row, from 1; jitter is the caller's. Only room is waited for ever
    longer: what a person puts right may be put right at any time."""
    if reason != Reason.CAPACITY_TIMEOUT:
        return REST_SECONDS
    return min(LONGEST_REST_SECONDS, REST_SECONDS * 2.0 ** (min(times, 20) - 1))


def active_seconds(observation: Observation, running_since: Iterable[datetime], now: datetime) -> float:
    """Seconds during which at least one task of the run ran; `running_since` are the starts of attempts whose end is
    not recorded."""
    spans = [a.ended for attempts in observation.attempts.values() for a in attempts if a.ended is not None]
    spans += [
        AttemptEnd(attempt=0, cause=Cause.STOPPED, charged=False, started_at=start, ended_at=max(now, start))
        for start in running_since
    ]
    return spent([], spans).wall_clock

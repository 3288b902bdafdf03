"""Runs that have ended: whether anything is left to do about one, and for how long it stays. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gapo.api.load import LoadedRun
from gapo.planning.observation import AttemptKey
from gapo_operator.kube.job_states import AttemptJob
from gapo_operator.kube.objects import Body

ENDED = ("Succeeded", "Failed")
"""States of a status after which nothing more is done for a run."""


def has_ended(run: Body) -> bool:
    """Whether its status says how it ended, by the manifest as it is now: nothing that befalls its folder or its location
    later changes that."""
    status = run.get("status") or {}
    return status.get("state") in ENDED and status.get("observedGeneration") == run["metadata"].get(
        "generation"
    )


def at_rest(run: Body, loaded: LoadedRun, attempt_jobs: Mapping[AttemptKey, AttemptJob]) -> bool:
    """A run that ended under an earlier process of ours: there is nothing to read and nothing to do."""
    return (
        has_ended(run)
        and run["status"].get("runID") == loaded.run_id
        and all(attempt_job.over for attempt_job in attempt_jobs.values())
    )


def time_to_live(loaded: LoadedRun, run: Body, now: datetime) -> float | None:
    """Seconds until a finished run is to be deleted; None where it is not finished, or never to be."""
    ttl = loaded.spec.scheduling.ttl_seconds_after_finished
    status = run.get("status") or {}
    if ttl is None or status.get("state") not in ENDED:
        return None
    ended = condition_of(status, "Succeeded")
    if ended is None:
        return None
    return ttl - (now - datetime.fromisoformat(ended["lastTransitionTime"])).total_seconds()


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), None)

"""Runs that have ended: whether anything is left to do about one, and for how long it stays. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gapo.api.load import LoadedRun
from gapo.seen import AttemptKey
from gapo_operator.children import Child
from gapo_operator.view import Body


def at_rest(run: Body, loaded: LoadedRun, children: Mapping[AttemptKey, Child]) -> bool:
    """A run that ended under an earlier process of ours: there is nothing to read and nothing to do. Tasks in its status
    are of an earlier release, which listed what was on its way out: they go with one more pass."""
    status = run.get("status") or {}
    return (
        not status.get("tasks")
        and status.get("state") in ("Succeeded", "Failed")
        and status.get("observedGeneration") == run["metadata"].get("generation")
        and status.get("runID") == loaded.run_id
        and all(child.over for child in children.values())
    )


def time_to_live(loaded: LoadedRun, run: Body, now: datetime) -> float | None:
    """Seconds until a finished run is to be deleted; None where it is not finished, or never to be."""
    ttl = loaded.spec.scheduling.ttl_seconds_after_finished
    status = run.get("status") or {}
    if ttl is None or status.get("state") not in ("Succeeded", "Failed"):
        return None
    ended = condition_of(status, "Succeeded")
    if ended is None:
        return None
    return ttl - (now - datetime.fromisoformat(ended["lastTransitionTime"])).total_seconds()


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next((c for c in status.get("conditions") or [] if c.get("type") == kind), None)

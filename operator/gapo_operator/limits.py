"""Time limits of a run on a cluster: how long pods may wait for room, and how long tasks may run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from gapo.policies.attempts import Cause, Ended
from gapo.policies.deadlines import spent
from gapo.seen import AttemptKey, Seen
from gapo_operator.children import Child, ChildState

REST_SECONDS, LONGEST_REST_SECONDS = 60.0, 1800.0
"""How long a run whose pods found no room holds back: doubled from time to time."""
MARGIN_SECONDS = 0.1
"""So that whoever looks again when a time is over does not look a moment early."""


def without_room(
    children: Mapping[AttemptKey, Child], waited: Mapping[str, float], timeout: float
) -> list[str]:
    """Jobs whose pods have not started for `timeout` seconds. `waited`: Job name → seconds since it was seen first."""
    return sorted(
        child.job
        for child in children.values()
        if child.state is ChildState.PENDING and waited.get(child.job, 0.0) > timeout
    )


def time_for_room(
    children: Mapping[AttemptKey, Child], waited: Mapping[str, float], timeout: float
) -> list[float]:
    """Seconds until each Job whose pod has not started counts as without room."""
    pending = [child.job for child in children.values() if child.state is ChildState.PENDING]
    return [max(0.0, timeout - waited.get(job, 0.0)) + MARGIN_SECONDS for job in pending]


def rest(times: int) -> float:
    """Seconds to hold back after this many times in a row without room, from 1; jitter is the caller's."""
    return min(LONGEST_REST_SECONDS, REST_SECONDS * 2.0 ** (min(times, 20) - 1))


def active_seconds(seen: Seen, running_since: Iterable[datetime], now: datetime) -> float:
    """Seconds during which at least one task of the run ran; `running_since` are the starts of attempts whose end is
    not recorded."""
    spans = [a.ended for attempts in seen.attempts.values() for a in attempts if a.ended is not None]
    spans += [
        Ended(attempt=0, cause=Cause.STOPPED, charged=False, started_at=start, ended_at=max(now, start))
        for start in running_since
    ]
    return spent([], spans).wall_clock

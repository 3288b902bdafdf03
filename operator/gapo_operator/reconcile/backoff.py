"""Runs that the cluster refuses something that they need, such as a Job beyond a quota, and when each asks again.

No event tells when there is room: each run asks ever more rarely, and one of a namespace as soon as another there has
ended something or is gone.
"""

from __future__ import annotations

import random

from gapo_operator.kube.objects import RunKey

FIRST_SECONDS, LONGEST_SECONDS = 5.0, 150.0
FACTOR = 3.0


class Refusals:
    """Used from one event loop."""

    def __init__(self) -> None:
        self._times: dict[RunKey, int] = {}
        """How often in a row each was refused something; who has waited longest since its last try comes first."""

    def refused(self, key: RunKey) -> float:
        """Seconds until the run is to ask again."""
        times = self._times.pop(key, 0)
        self._times[key] = times + 1
        return min(LONGEST_SECONDS, FIRST_SECONDS * FACTOR ** min(times, 10)) * random.uniform(0.8, 1.2)

    def forget(self, key: RunKey) -> None:
        """It was refused nothing, or is another one now: the next refusal is the first."""
        self._times.pop(key, None)

    def next_beside(self, ended: RunKey) -> RunKey | None:
        """Who of its namespace is to ask now that something of that run has ended; after this, others come first, for
        whoever is woken to ask may not need to."""
        for key in self._times:
            if key.namespace == ended.namespace and key != ended:
                self._times[key] = self._times.pop(key)
                return key
        return None

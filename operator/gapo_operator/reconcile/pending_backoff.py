"""How long a run holds nothing of the cluster after its pods did not start in time."""

from __future__ import annotations

import random
from collections.abc import Callable

from gapo.reasons import Reason
from gapo_operator.kube.job_states import AttemptJob, Problem
from gapo_operator.reconcile.deadlines import rest, why_given_back


class PendingBackoff:
    """Of one run, between passes. What is forgotten with the process costs one more wait for room."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._times, self._until = 0, 0.0
        self.problem = Problem(Reason.CAPACITY_TIMEOUT, "")
        """Why the run holds back, or did last."""

    def seconds_left(self) -> float:
        """0 where the run may have pods."""
        return max(0.0, self._until - self._monotonic())

    def give_back(self, late: AttemptJob, timeout: float) -> None:
        """Begins a pause, for a pod that has not started within `timeout` seconds, unless one is under way."""
        if self.seconds_left() > 0:
            return
        self.problem = why_given_back(late, timeout)
        self._times += 1
        pause = rest(self.problem.reason, self._times)
        self._until = self._monotonic() + pause * random.uniform(0.8, 1.2)

    def pods_run(self) -> None:
        """There was room: the next pause is the first again."""
        self._times = 0

    def reset(self) -> None:
        """The manifest has changed: what kept pods from starting may be over."""
        self._times, self._until = 0, 0.0

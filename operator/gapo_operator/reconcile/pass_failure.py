"""What keeps a pass from going on, by the error that ended it: what the status says, and when the next pass is due. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gapo.errors import ACCESS_ERRORS, GapoError, LocationInvalidError, RunMovedError, StoreError
from gapo_operator.kube.job_states import Problem
from gapo_operator.reconcile.problems import problem_of
from gapo_operator.storage_pool import PausedError

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 60.0
"""After a storage request that failed: doubled with every pass in a row."""
REFUSED_SECONDS, LONGEST_REFUSED_SECONDS = 30.0, 300.0
"""After access to storage that a person has to give: seldom, for no time helps there. New keys are noticed at once."""
MOVED_SECONDS = 60.0
"""Until a run that is not where it should be is looked for again."""


@dataclass(frozen=True)
class PassFailure:
    """Why a pass ended before it had read the run's storage and acted on it."""

    problem: Problem
    of_storage: bool = False
    """Storage could not be used just now; otherwise somebody has to change something."""
    retry_after: float | None = None
    """Seconds; None until something about the run changes."""
    counts: bool = False
    """Storage itself has failed, as opposed to one location's pause after such a failure."""
    moved: bool = False
    """The run is not where it was; what was read of its storage was read at another place."""


def failure_of(
    error: GapoError, storage_failures: int, jitter: Callable[[float, float], float]
) -> PassFailure:
    """`storage_failures` are the passes in a row that failed by storage before this one; `jitter(low, high)` draws."""
    problem = problem_of(error)
    if isinstance(error, PausedError):
        return PassFailure(problem, of_storage=True, retry_after=error.retry_after + jitter(0, 1))
    if isinstance(error, RunMovedError):
        return PassFailure(problem, retry_after=MOVED_SECONDS * jitter(0.8, 1.2), moved=True)
    if isinstance(error, StoreError | LocationInvalidError):
        refused = isinstance(error, ACCESS_ERRORS)
        first, longest = (
            (REFUSED_SECONDS, LONGEST_REFUSED_SECONDS) if refused else (RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        )
        wait = min(longest, first * 2.0 ** min(storage_failures, 10)) * jitter(0.8, 1.2)
        return PassFailure(problem, of_storage=True, retry_after=wait, counts=True)
    return PassFailure(problem)

"""Errors as the reason and message of a condition. Pure."""

from __future__ import annotations

import gapo
from gapo.errors import GapoError, UnknownSpecError
from gapo.reasons import Reason
from gapo_operator.kube.client import KubeError, NoPodGroupsError
from gapo_operator.kube.job_states import Problem


def problem_of(error: GapoError) -> Problem:
    if isinstance(error, UnknownSpecError):
        # The API server took it, by a definition of another release than ours.
        hint = (
            f"the operator, gapo {gapo.__version__}, does not know it: upgrade the operator, or take it out"
        )
        return Problem(Reason.UNSUPPORTED_BY_OPERATOR, f"{error}; {hint}")
    return Problem(error.reason, str(error))


def refusal_of(error: KubeError) -> Problem:
    if isinstance(error, NoPodGroupsError):
        return Problem(Reason.VOLCANO_UNAVAILABLE, str(error))
    if "exceeded quota" in str(error):
        return Problem(Reason.QUOTA_EXCEEDED, str(error))
    unavailable = error.status in (0, 409, 429) or error.status >= 500
    return Problem(Reason.API_UNAVAILABLE if unavailable else Reason.JOB_REJECTED, str(error))

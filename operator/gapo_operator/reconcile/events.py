"""Kubernetes events of what one pass did with a run. Pure; each has a key, so that none is written twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gapo.api.load import LoadedRun
from gapo.decision_rules.attempts import FOR_A_PERSON, NEVER_COUNTED
from gapo.planning.plan import State
from gapo.reasons import Reason
from gapo.store.attempt_end import Cause
from gapo_operator.reconcile.outcome import Outcome


@dataclass(frozen=True)
class Event:
    kind: Literal["Normal", "Warning"]
    reason: str
    message: str
    about: str
    """What it is about, in the run: the same fact gives the same key."""


def events_of(outcome: Outcome, loaded: LoadedRun, before: object) -> Iterator[Event]:
    """Told after the status was written, so that no event is ahead of what can be read. `before`: the status' state
    until now; an end has its event when it comes about, not at every pass."""
    if outcome.adopted:
        yield Event(
            "Normal",
            Reason.ADOPTED,
            f"run {loaded.run_id} is in storage already; going on from what is committed there",
            f"claim {outcome.claim}",
        )
    for task in outcome.create:
        again = f", attempt {task.attempt}" if task.attempt else ""
        yield Event("Normal", Reason.TASK_STARTED, f"{task.key}{again}", f"{task.key}/{task.attempt}")
    for attempt, end in outcome.ended:
        about = f"{attempt.task}/{attempt.attempt}"
        if end.cause is Cause.COMMITTED:
            yield Event("Normal", Reason.TASK_COMMITTED, str(attempt.task), about)
        elif end.reason == Reason.TASK_REPLACED:
            text = f"attempt {attempt.attempt} of {attempt.task} (free of charge): {end.message}; another follows"
            yield Event("Normal", Reason.TASK_REPLACED, text, about)
        elif end.cause in NEVER_COUNTED - FOR_A_PERSON:
            yield Event("Normal", Reason.TASK_STOPPED, f"{attempt.task}: {end.cause}", about)
        else:
            cost = "charged" if end.charged else "free of charge"
            text = f"attempt {attempt.attempt} of {attempt.task}: {end.cause} ({cost}): {end.message}"
            yield Event("Warning", Reason.TASK_FAILED, text, about)
    for decision in outcome.decisions:
        kind: Literal["Normal", "Warning"] = "Warning" if decision.verdict == "rolled-back" else "Normal"
        text = f"stage {decision.stage}: {decision.verdict}: {decision.reason}"
        yield Event(kind, Reason.STAGE_DECIDED, text, f"decision {decision.stage}")
    for revocation in outcome.plan.revoke:
        yield Event(
            "Warning",
            Reason.MANIFEST_REVOKED,
            f"{revocation.task}: {revocation.evidence}; it is made anew",
            f"{revocation.task}/{revocation.generation}",
        )
    status = outcome.plan.status
    if status.state.value == before:
        return
    if status.state is State.SUCCEEDED:
        yield Event("Normal", Reason.SUCCEEDED, status.message, f"succeeded at {status.stage}")
    elif status.state in (State.FAILED, State.STALLED):
        yield Event("Warning", status.reason, status.message, f"{status.reason} {status.message}")

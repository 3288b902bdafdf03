"""What a GapoRun's status says, from a pass's findings. Pure: the time comes in.

Conditions follow Kubernetes' API conventions, and `Reconciling` and `Stalled` those of kstatus, so that tools which
wait for any resource can wait for a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from gapo.api.run import GapoRunSpec
from gapo.api.status import Condition, GapoRunStatus, StageStatus, TaskStatus
from gapo.decision_rules.attempts import FOR_A_PERSON
from gapo.errors import SourceRefusedError
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.planning.observation import AttemptKey, Observation
from gapo.planning.plan import State, Status
from gapo.planning.stage_decision import stage_metrics
from gapo.reasons import Reason
from gapo.store.attempt_end import Cause
from gapo.tasks import KINDS, TaskKey
from gapo_operator.kube.job_states import AttemptJob, JobState, Problem
from gapo_operator.kube.message_changes import is_news
from gapo_operator.run_metrics.status_usage import summary_of, trainer_status

MAX_STAGES = 50
SATISFACTION, PAIR_ACCURACY = "eval/satisfaction", "rm/pair_accuracy"
ENDED = (State.SUCCEEDED, State.FAILED)
NOT_STALLED: Mapping[State | None, str] = {
    State.SUCCEEDED: Reason.SUCCEEDED,
    State.SUSPENDED: Reason.SUSPENDED,
}
"""Why nobody need act; beside these, because something is being done."""
CRD_OUTDATED = "CRDOutdated"


@dataclass(frozen=True)
class Findings:
    """What one pass knows of a run."""

    generation: int
    run_id: str | None = None
    location: str | None = None
    spec: GapoRunSpec | None = None
    status: Status | None = None
    """The planner's; None where it could not be asked."""
    observation: Observation = field(default_factory=Observation)
    attempt_jobs: Mapping[AttemptKey, AttemptJob] = field(default_factory=dict)
    figures: RunFigures | None = None
    """The run's, where its storage was read."""
    task_figures: Mapping[AttemptKey, TaskFigures] = field(default_factory=dict)
    """What running tasks have written last of themselves."""
    access: str | None = None
    """Where the run's pods have their credentials from."""
    refused: Problem | None = None
    """Why the run cannot go on until somebody changes something."""
    storage: Problem | None = None
    """Why storage could not be used just now."""
    cluster: Problem | None = None
    """Why the cluster took a Job not, or has no room for it."""
    unkept: Sequence[str] | None = None
    """Fields of the status that the cluster's CRD does not keep; None where that is not known yet."""


def status_of(findings: Findings, before: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """The status to write. `before` is the one that is stored: what this pass could not find out stays."""
    before = _readable(before or {})
    status_fields = dict(before)
    status_fields["observedGeneration"] = findings.generation
    if findings.run_id is not None:
        status_fields |= {"runID": findings.run_id, "location": findings.location}
    if findings.status is not None and findings.spec is not None:
        status_fields |= _figures(findings, findings.spec, findings.status)
        status_fields["trainerStatus"] = trainer_status(findings.task_figures, before.get("trainerStatus"))
    if findings.figures is not None:
        status_fields |= summary_of(findings.figures)
    status_fields["state"] = _state(findings, _state_before(findings, before))
    previous = {c.get("type"): c for c in before.get("conditions") or [] if isinstance(c, Mapping)}
    status_fields["conditions"] = [
        _condition(parts, previous.get(parts[0]), findings.generation, now)
        for parts in (*_conditions(findings), *_crd_outdated(findings, previous.get(CRD_OUTDATED)))
    ]
    status = GapoRunStatus.model_validate(status_fields)
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _readable(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what a later release has written there in words that are none of this one's."""
    try:
        GapoRunStatus.model_validate(status)
    except ValidationError as error:
        strange = {detail["loc"][0] for detail in error.errors()}
        return {key: value for key, value in status.items() if key not in strange}
    return status


def _figures(findings: Findings, spec: GapoRunSpec, status: Status) -> dict[str, Any]:
    observation = findings.observation
    stages = sorted({key.stage for key in observation.committed} | set(observation.decisions))
    rows = [_stage(findings, stage) for stage in stages][-MAX_STAGES:]
    satisfied = [row.satisfaction for row in rows if row.satisfaction is not None]
    accurate = [row.pair_accuracy for row in rows if row.pair_accuracy is not None]
    return {
        "stage": status.stage,
        "progress": _progress(findings, spec, status),
        "satisfaction": satisfied[-1] if satisfied else None,
        "pairAccuracy": accurate[-1] if accurate else None,
        "bestStage": status.best_stage,
        "stages": rows,
        "tasks": _tasks(findings),
    }


def _stage(findings: Findings, stage: int) -> StageStatus:
    metrics, decision = stage_metrics(findings.observation, stage), findings.observation.decisions.get(stage)
    before = findings.observation.decisions.get(stage - 1)
    generator = next(
        (
            key
            for key in findings.observation.committed
            if key.stage == stage and KINDS[key.kind].commits_generator
        ),
        None,
    )
    return StageStatus(
        stage=stage,
        parent=None if stage == 0 else (before.parent if before and before.parent is not None else stage - 1),
        verdict=decision.verdict if decision else None,
        satisfaction=_share(metrics.get(SATISFACTION)),
        pair_accuracy=_share(metrics.get(PAIR_ACCURACY)),
        checkpoint=None
        if generator is None
        else f"{findings.location}/{findings.observation.committed[generator].ref.key}",
    )


def _share(value: float | None) -> float | None:
    """Four digits: enough for people, and no write for a change that nobody can see."""
    return None if value is None else round(min(1.0, max(0.0, value)), 4)


def _tasks(findings: Findings) -> list[TaskStatus]:
    """What runs or waits; a process that lives on for a moment after its commit does neither. Nothing is left of a run
    that has ended, which no later pass may look at."""
    if findings.status is not None and findings.status.state in ENDED:
        return []
    shown = {JobState.QUEUED: "Queued", JobState.PENDING: "Pending", JobState.RUNNING: "Running"}
    return [
        TaskStatus.model_validate(
            {
                "name": attempt_job.name,
                "kind": attempt.task.kind.value,
                "attempt": attempt.attempt,
                "state": shown[attempt_job.state],
                "progressPercentage": _percentage(findings, attempt),
            }
        )
        for attempt, attempt_job in sorted(findings.attempt_jobs.items())
        if attempt_job.state in shown and attempt.task not in findings.observation.committed
    ][:8]


def _progress(findings: Findings, spec: GapoRunSpec, status: Status) -> str:
    """Such as `A3/12 ppo 45 %`."""
    where = f"{'A' if status.stage else ''}{status.stage}/{spec.stages.max}"
    if status.state in ENDED:
        return where
    live = {}
    for attempt, attempt_job in sorted(findings.attempt_jobs.items()):
        if not attempt_job.over:
            done = _percentage(findings, attempt)
            live[attempt.task.kind.value] = "" if done is None else f" {done} %"
    return " ".join([where, *(f"{kind}{done}" for kind, done in sorted(live.items()))])[:128]


def _percentage(findings: Findings, attempt: AttemptKey) -> int | None:
    """Whole ones: no write for what nobody can see."""
    figures = findings.task_figures.get(attempt)
    return (
        None if figures is None or figures.progress_percentage is None else int(figures.progress_percentage)
    )


def _state_before(findings: Findings, before: Mapping[str, Any]) -> str:
    """What ended by an earlier manifest may go on by this one; until that is known it has not ended."""
    state = str(before.get("state") or "Pending")
    changed = before.get("observedGeneration") != findings.generation
    return "Pending" if changed and state in [ended.value for ended in ENDED] else state


def _state(findings: Findings, before: str) -> str:
    if findings.refused is not None:
        return "Stalled"
    if findings.status is None:
        return before
    live = [attempt_job for attempt_job in findings.attempt_jobs.values() if not attempt_job.over]
    match findings.status.state:
        case State.SUCCEEDED | State.FAILED | State.STALLED | State.SUSPENDED:
            return findings.status.state.value
        case _ if any(attempt_job.state is JobState.RUNNING for attempt_job in live):
            return "Running"
        case _ if any(attempt_job.state is JobState.QUEUED for attempt_job in live):
            return "Queued"
        case _ if any(attempt_job.state is JobState.PENDING for attempt_job in live):
            return "Pending"
        case _:
            return "Running" if before == "Running" else "Pending"


_ConditionParts = tuple[str, str, str, str]
"""type, status, reason, message"""


def _conditions(findings: Findings) -> Sequence[_ConditionParts]:
    return [
        _succeeded(findings),
        _reconciling(findings),
        _stalled(findings),
        _suspended(findings),
        _tasks_healthy(findings),
        _storage_ready(findings),
    ]


def _succeeded(findings: Findings) -> _ConditionParts:
    status = findings.status
    if findings.refused is not None:
        return "Succeeded", "False", findings.refused.reason, findings.refused.message
    if status is None:
        return "Succeeded", "Unknown", Reason.NOT_OBSERVED, "the run's storage has not been read yet"
    if status.state is State.SUCCEEDED:
        return "Succeeded", "True", status.reason, status.message
    if status.state in (State.FAILED, State.STALLED):
        return "Succeeded", "False", status.reason, status.message
    return "Succeeded", "Unknown", status.reason, status.message


def _reconciling(findings: Findings) -> _ConditionParts:
    status = findings.status
    if findings.refused is not None:
        return "Reconciling", "False", findings.refused.reason, "nothing is done until that is put right"
    if status is None or status.state in (State.RUNNING, State.WAITING):
        problem = findings.storage or _trouble(findings)
        reason = problem.reason if problem else (status.reason if status else Reason.STARTING)
        message = problem.message if problem else (status.message if status else "reading the run's storage")
        return "Reconciling", "True", reason, message
    return "Reconciling", "False", status.reason, status.message


def _stalled(findings: Findings) -> _ConditionParts:
    if findings.refused is not None:
        return "Stalled", "True", findings.refused.reason, findings.refused.message
    status = findings.status
    if status is not None and status.state in (State.FAILED, State.STALLED):
        return "Stalled", "True", status.reason, status.message
    state = None if status is None else status.state
    return "Stalled", "False", NOT_STALLED.get(state, Reason.PROGRESSING), ""


def _suspended(findings: Findings) -> _ConditionParts:
    asked = findings.spec is not None and findings.spec.suspend
    left = [attempt_job.name for attempt_job in findings.attempt_jobs.values() if not attempt_job.over]
    if asked and left:
        return "Suspended", "False", Reason.STOPPING, f"waiting for {', '.join(sorted(left))} to save and end"
    if asked:
        return "Suspended", "True", Reason.SUSPENDED, "spec.suspend is true; nothing runs"
    return "Suspended", "False", Reason.NOT_SUSPENDED, ""


def _tasks_healthy(findings: Findings) -> _ConditionParts:
    problem = _trouble(findings)
    if problem is not None:
        return "TasksHealthy", "False", problem.reason, problem.message
    return "TasksHealthy", "True", Reason.AS_EXPECTED, ""


def _trouble(findings: Findings) -> Problem | None:
    """What keeps a live attempt from starting, else the last failure of a task that is being tried again."""
    if findings.cluster is not None:
        return findings.cluster
    for _, attempt_job in sorted(findings.attempt_jobs.items()):
        if attempt_job.problem is not None:
            return Problem(attempt_job.problem.reason, f"{attempt_job.name}: {attempt_job.problem.message}")
    for key, attempts in sorted(findings.observation.attempts.items()):
        last = attempts[-2:] if attempts and attempts[-1].ended is None else attempts[-1:]
        ended = last[0].ended if last else None
        if key in findings.observation.committed or ended is None:
            continue
        if not (ended.charged or (ended.cause in FOR_A_PERSON and not _runs(findings, key))):
            continue
        reason = ended.reason or f"{ended.cause.value[:1].upper()}{ended.cause.value[1:]}"
        message = f"attempt {ended.attempt} of {key} ended: {ended.message or ''}"
        if ended.cause is Cause.NO_ACCESS and ended.reason != SourceRefusedError.reason and findings.access:
            message += f"; {findings.access}"
        return Problem(reason, message)
    return None


def _runs(findings: Findings, key: TaskKey) -> bool:
    """What kept a task from running is over once it runs."""
    running = (
        one for one, attempt_job in findings.attempt_jobs.items() if attempt_job.state is JobState.RUNNING
    )
    return any(attempt.task == key for attempt in running)


def _storage_ready(findings: Findings) -> _ConditionParts:
    if findings.storage is not None:
        return "StorageReady", "False", findings.storage.reason, findings.storage.message
    if findings.status is None:
        return "StorageReady", "Unknown", Reason.NOT_OBSERVED, ""
    return "StorageReady", "True", Reason.AVAILABLE, ""


def _crd_outdated(findings: Findings, before: Mapping[str, Any] | None) -> Iterator[_ConditionParts]:
    """Only where it is so, or was and nothing is known yet: a definition of the right release is nothing to tell of."""
    if findings.unkept:
        message = (
            f"the definition of GapoRun in this cluster does not keep {', '.join(findings.unkept)}: it is of another release; "
            "kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml"
        )
        yield CRD_OUTDATED, "True", Reason.FIELDS_DROPPED, message
    elif findings.unkept is None and before is not None:
        yield CRD_OUTDATED, str(before.get("status")), str(before.get("reason")), str(before.get("message"))


def _condition(
    parts: _ConditionParts, before: Mapping[str, Any] | None, generation: int, now: datetime
) -> Condition:
    kind, status, reason, message = parts
    since = str(before["lastTransitionTime"]) if before and before.get("status") == status else stamp(now)
    current = (status, reason, generation)
    if before and current == tuple(before.get(key) for key in ("status", "reason", "observedGeneration")):
        stored_message = str(before.get("message") or "")
        message = message if is_news(stored_message, message) else stored_message
    return Condition(
        type=kind,
        status=status,
        reason=reason[:128],
        message=message[:4096],
        last_transition_time=since,
        observed_generation=generation,
    )


def stamp(when: datetime) -> str:
    """RFC 3339 in seconds, as Kubernetes writes times."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

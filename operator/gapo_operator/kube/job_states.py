"""What the cluster shows of a run's attempts: a Job and its pods, read into one small fact each. Pure.

Everything here is untrusted input from an API: absent and unknown fields are no errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from gapo.decision_rules.attempts import Exit
from gapo.planning.observation import AttemptKey
from gapo.reasons import Reason
from gapo.tasks import Kind, TaskKey
from gapo_operator.kube.pod_end import MESSAGE_LIMIT, PREEMPTED_CODE, ending_of, is_terminal
from gapo_operator.render.names import ASKED_ANNOTATION, PREFIX
from gapo_operator.render.pod_group import GROUP_ANNOTATION

Body = Mapping[str, Any]

GROUP_NOT_ADMITTED = "as the podgroup phase is Pending"
"""Words of Volcano's webhook, which in some releases lets no pod be created before its group has left the queue."""

WAITING_REASONS = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG_INVALID,
    "CreateContainerError": Reason.CONTAINER_NOT_CREATED,
    "RunContainerError": Reason.CONTAINER_NOT_STARTED,
    "CrashLoopBackOff": Reason.CONTAINER_NOT_STARTED,
}
"""Why a container waits (kubelet's words) → our condition reason."""


BEGUN = ("Running", "Succeeded", "Failed")
"""Phases of a pod whose container runs or has run."""


class JobState(StrEnum):
    """How far an attempt's Job is."""

    QUEUED = "Queued"
    """A queue holds it: its Job is suspended, or its pod is in a group of Volcano's and has no node."""
    PENDING = "Pending"
    """No container of it runs yet."""
    RUNNING = "Running"
    STOPPING = "Stopping"
    """Its Job is being deleted, or is gone while a pod is not."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class Problem:
    """Why an attempt does not get on, for a condition."""

    reason: str
    message: str


@dataclass(frozen=True)
class AttemptJob:
    """One attempt as the cluster shows it: its Job, or what is left of that, and the Job's newest pod."""

    attempt: AttemptKey
    name: str
    state: JobState
    uid: str | None = None
    """Its Job's, where that is there and belongs to the GapoRun."""
    pod: str | None = None
    """UID of its newest pod, under which its task writes."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    """None until its pod has found a node."""
    ended_at: datetime | None = None
    exit: Exit | None = None
    """Where it failed: the code and what stands behind it."""
    termination_message: Mapping[str, Any] = field(default_factory=dict)
    """What the task left there of its end: reason, message, badInput."""
    message: str | None = None
    problem: Problem | None = None
    begun: bool = False
    """Its pod has run, as far as events show."""
    asked: str | None = None
    """What its Job was asked for (`gapo_operator.kube.job_revision`)."""
    superseded: bool = False
    """It has not begun, and something else is asked for by now."""

    @property
    def over(self) -> bool:
        return self.state in (JobState.SUCCEEDED, JobState.FAILED)


def attempt_jobs_of(
    uid: str,
    run_id: str,
    jobs: Iterable[Body],
    pods: Iterable[Body],
    warnings: Mapping[str, str],
    lost: Collection[str] = (),
) -> dict[AttemptKey, AttemptJob]:
    """The attempts of the GapoRun with this uid. `warnings`: Job name → why its pod could not be created; `lost`:
    pods that should have ended long ago.

    A Job of an earlier GapoRun with the same identity, and a pod whose Job is gone, are on their way out: an attempt
    waits for them.
    """
    of_job: dict[str, list[Body]] = {}
    for pod in pods:
        if _label(pod, "run-id") == run_id and _controller(pod, "Job"):
            of_job.setdefault(_controller(pod, "Job"), []).append(pod)
    attempt_jobs: dict[AttemptKey, AttemptJob] = {}
    for job in jobs:
        attempt = _attempt(job)
        if attempt is None or _label(job, "run-id") != run_id:
            continue
        own = of_job.pop(str(_meta(job).get("uid", "")), [])
        if _controller(job, "GapoRun") == uid:
            attempt_jobs[attempt] = _attempt_job(attempt, job, own, warnings, lost)
        else:
            attempt_jobs.setdefault(attempt, _foreign(attempt, job))
    for left in of_job.values():
        for pod in left:
            attempt = _attempt(pod)
            gone = is_terminal(pod) or _meta(pod).get("name") in lost
            if attempt is not None and attempt not in attempt_jobs and not gone:
                name = str((_meta(pod).get("labels") or {}).get("batch.kubernetes.io/job-name", ""))
                started = _since(pod, "PodScheduled")
                attempt_jobs[attempt] = AttemptJob(attempt, name, JobState.STOPPING, started_at=started)
    return attempt_jobs


def is_unfinished_job_of(uid: str, job: Body) -> bool:
    """A Job of the GapoRun with this uid that is neither over nor on its way out."""
    conditions = (job.get("status") or {}).get("conditions") or []
    over = any(c.get("type") in ("Complete", "Failed") and c.get("status") == "True" for c in conditions)
    return _controller(job, "GapoRun") == uid and not over and not _meta(job).get("deletionTimestamp")


def waits_in_group(pod: Body) -> bool:
    """Whether a pod is in a group of Volcano's and has no node: when it gets one is for its queue to say."""
    return GROUP_ANNOTATION in (_meta(pod).get("annotations") or {}) and _since(pod, "PodScheduled") is None


def _foreign(attempt: AttemptKey, job: Body) -> AttemptJob:
    """A Job of ours by its labels that this GapoRun does not own: an earlier one's that is on its way out, or an
    orphan that somebody has to delete."""
    name = str(_meta(job).get("name", ""))
    if _meta(job).get("deletionTimestamp"):
        return AttemptJob(attempt, name, JobState.STOPPING)
    text = f"a Job of that name is there and belongs to no GapoRun that is: kubectl delete job {name}"
    return AttemptJob(attempt, name, JobState.STOPPING, problem=Problem(Reason.JOB_CONFLICT, text))


def _attempt_job(
    attempt: AttemptKey, job: Body, pods: list[Body], warnings: Mapping[str, str], lost: Collection[str]
) -> AttemptJob:
    name = str(_meta(job).get("name", ""))
    status = job.get("status") or {}
    created = _time(_meta(job).get("creationTimestamp"))
    started = _time(status.get("startTime"))
    uid = str(_meta(job).get("uid", ""))
    newest = max(pods, key=lambda pod: str(_meta(pod).get("creationTimestamp", "")), default=None)
    scheduled = _since(newest, "PodScheduled")
    if started is not None:
        # Time in which a pod waits for room is not time in which it runs.
        over = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
        started = (
            max(started, scheduled) if scheduled else (started if over & {"Complete", "Failed"} else None)
        )
    conditions = {c.get("type"): c for c in status.get("conditions") or [] if c.get("status") == "True"}

    pod = None if newest is None else str(_meta(newest).get("uid", "")) or None
    begun = newest is not None and (newest.get("status") or {}).get("phase") in BEGUN
    asked = (_meta(job).get("annotations") or {}).get(ASKED_ANNOTATION)

    def attempt_job(state: JobState, **more: Any) -> AttemptJob:
        return AttemptJob(attempt, name, state, uid, pod, created, started, begun=begun, asked=asked, **more)

    if "Complete" in conditions:
        ended = _time(status.get("completionTime")) or _time(conditions["Complete"].get("lastTransitionTime"))
        return attempt_job(JobState.SUCCEEDED, ended_at=ended)
    if "Failed" in conditions:
        failed = conditions["Failed"]
        ending = ending_of(attempt.task.kind, newest, failed)
        return attempt_job(
            JobState.FAILED,
            ended_at=_time(failed.get("lastTransitionTime")),
            exit=ending.exit,
            termination_message=ending.termination_message,
            message=ending.message,
        )
    if newest is not None and _meta(newest).get("name") in lost:
        return attempt_job(
            JobState.FAILED,
            exit=Exit(code=PREEMPTED_CODE),
            message=f"NodeLost: pod {_meta(newest)['name']} has not ended; its node does not answer",
        )
    if _meta(job).get("deletionTimestamp"):
        return attempt_job(JobState.STOPPING)
    if (job.get("spec") or {}).get("suspend"):
        return attempt_job(JobState.QUEUED)
    if newest is None:
        refused = warnings.get(name)
        if refused and GROUP_NOT_ADMITTED in refused:
            return attempt_job(JobState.QUEUED)
        return attempt_job(JobState.PENDING, problem=_refusal(refused) if refused else None)
    if begun:
        return attempt_job(JobState.RUNNING)
    waiting = JobState.QUEUED if waits_in_group(newest) else JobState.PENDING
    return attempt_job(waiting, problem=_pending(newest))


def _pending(pod: Body) -> Problem | None:
    """What keeps a pod from starting, where the cluster says so."""
    status = pod.get("status") or {}
    for group in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(group) or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = WAITING_REASONS.get(str(waiting.get("reason")))
            if reason is not None:
                text = f"{container.get('image')}: {waiting.get('message') or waiting.get('reason')}"
                return Problem(reason, text[:MESSAGE_LIMIT])
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            unplaced = str(condition.get("reason") or Reason.UNSCHEDULABLE)
            return Problem(unplaced, str(condition.get("message") or "")[:MESSAGE_LIMIT])
    return None


def _refusal(message: str) -> Problem:
    """Why no pod could be created: the API server's words, sorted by what a user has to do."""
    if "exceeded quota" in message:
        return Problem(Reason.QUOTA_EXCEEDED, message[:MESSAGE_LIMIT])
    return Problem(Reason.POD_REJECTED, message[:MESSAGE_LIMIT])


def _since(pod: Body | None, condition: str) -> datetime | None:
    """When a condition of a pod became true."""
    for one in ((pod or {}).get("status") or {}).get("conditions") or []:
        if one.get("type") == condition and one.get("status") == "True":
            return _time(one.get("lastTransitionTime"))
    return None


def _attempt(body: Body) -> AttemptKey | None:
    labels = _meta(body).get("labels") or {}
    try:
        task = TaskKey(int(labels[f"{PREFIX}/stage"]), Kind(labels[f"{PREFIX}/kind"]))
        return AttemptKey(task, int(labels[f"{PREFIX}/attempt"]))
    except (KeyError, ValueError):
        return None


def _label(body: Body, name: str) -> str | None:
    return (_meta(body).get("labels") or {}).get(f"{PREFIX}/{name}")


def _controller(body: Body, kind: str) -> str:
    """UID of the controller, where that is of this kind."""
    for reference in _meta(body).get("ownerReferences") or []:
        if reference.get("controller") and reference.get("kind") == kind:
            return str(reference.get("uid", ""))
    return ""


def _meta(body: Body) -> Mapping[str, Any]:
    return body.get("metadata") or {}


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None

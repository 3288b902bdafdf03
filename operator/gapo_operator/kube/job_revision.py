"""What is asked of a task's pod, as a mark on its Job: one that has not begun is made anew where that has changed.

Jobs are created once and never written to again (docs/contracts/tasks.md#jobs-are-created-once), so that what a user
corrects can reach an attempt only as another one. The marks are of what is asked, not of the Job as it is rendered: a
new release of the operator changes none, and no queue loses its order over an upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gapo.api.run import GapoRunSpec
from gapo.digest import digest
from gapo.planning.observation import AttemptKey
from gapo.tasks import KINDS, Kind, role_of
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.job_states import AttemptJob, JobState

REPLACEABLE = (JobState.PENDING, JobState.QUEUED, JobState.STOPPING)
"""The last for an operator that starts while the one before has an attempt replaced."""


def asked_of(kind: Kind, spec: GapoRunSpec, namespace: str, config: OperatorConfig) -> str:
    """`<by the manifest>.<by the administrator>`: digests of what they ask of the pod of such a task.

    The image of roles that name none is not among it: it is frozen at the run's start. Raises SpecError for a location
    or a profile that the namespace may not have.
    """
    role = role_of(spec, kind)
    manifest = {
        "role": role.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "interval": spec.checkpoint.interval,
        "queue": [spec.scheduling.scheduler, spec.scheduling.queue_name],
        "priority": spec.scheduling.priority_class_name,
    }
    field = f"spec.roles.{KINDS[kind].role}.pod.profile"
    profile = None if role.pod.profile is None else config.profile(role.pod.profile, namespace, field)
    parts = [config.location(spec.storage.location, namespace), config.trainer, profile]
    without = {"image", "namespaces"}
    administrator = [
        None if part is None else part.model_dump(mode="json", exclude=without, exclude_defaults=True)
        for part in parts
    ]
    return f"{digest(manifest)[:12]}.{digest(administrator)[:12]}"


def with_superseded(
    attempt_jobs: Mapping[AttemptKey, AttemptJob], spec: GapoRunSpec, namespace: str, config: OperatorConfig
) -> dict[AttemptKey, AttemptJob]:
    """The same Jobs, those marked that have not begun and were asked for otherwise than is asked now. A Job without a
    mark is an earlier release's: nobody can tell. What has its place from a queue keeps it, admitted or not, whatever an
    administrator changes."""
    marked = dict(attempt_jobs)
    queued = spec.scheduling.queue_name is not None or spec.scheduling.scheduler == "volcano"
    for attempt, attempt_job in attempt_jobs.items():
        if (
            attempt_job.state not in REPLACEABLE
            or attempt_job.begun
            or attempt_job.asked is None
            or attempt_job.uid is None
        ):
            continue
        now = asked_of(attempt.task.kind, spec, namespace, config)
        if queued or attempt_job.state is JobState.QUEUED:
            changed = attempt_job.asked.partition(".")[0] != now.partition(".")[0]
        else:
            changed = attempt_job.asked != now
        if changed:
            marked[attempt] = replace(attempt_job, superseded=True)
    return marked

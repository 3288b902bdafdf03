"""The words that conditions, events and records give as their reason, in one place: CamelCase, and what is so.

An error's own word stands at its class (`gapo.errors`); a task's end without one is called after its cause
(`gapo.store.attempt_end`).
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """`reason` of a condition or an event, or of an attempt's end."""

    # how the run stands
    RUNNING = "Running"
    STARTING = "Starting"
    PROGRESSING = "Progressing"
    """It is not stalled: something is done, or waited for, that needs nobody."""
    BACK_OFF = "BackOff"
    SUSPENDED = "Suspended"
    NOT_SUSPENDED = "NotSuspended"
    STOPPING = "Stopping"
    STAGES_COMPLETED = "StagesCompleted"
    CONVERGED = "Converged"
    STOPPED = "Stopped"
    TOO_MANY_FAILURES = "TooManyFailures"
    PERMANENT_FAILURE = "PermanentFailure"
    OUT_OF_MEMORY = "OutOfMemory"
    FOREIGN_MANIFEST = "ForeignManifest"
    INPUT_CORRUPT = "InputCorrupt"
    CAPACITY_TIMEOUT = "CapacityTimeout"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    UNSUPPORTED_BY_OPERATOR = "UnsupportedByOperator"

    # its storage
    AVAILABLE = "Available"
    NOT_OBSERVED = "NotObserved"

    # its tasks
    AS_EXPECTED = "AsExpected"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_INVALID = "ContainerConfigInvalid"
    """Such as a Secret or a ConfigMap that is not there."""
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    CONTAINER_NOT_STARTED = "ContainerNotStarted"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REJECTED = "PodRejected"
    """The API server lets the pod not be created, or the kubelet lets it not run."""
    JOB_REJECTED = "JobRejected"
    JOB_CONFLICT = "JobConflict"
    """A Job of that name is there and not this run's."""
    API_UNAVAILABLE = "ApiUnavailable"
    VOLCANO_UNAVAILABLE = "VolcanoUnavailable"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"

    # the cluster's definition of GapoRun
    FIELDS_DROPPED = "FieldsDropped"

    # events
    ADOPTED = "AdoptedExistingRun"
    TASK_STARTED = "TaskStarted"
    TASK_COMMITTED = "TaskCommitted"
    TASK_STOPPED = "TaskStopped"
    TASK_REPLACED = "TaskReplaced"
    """The manifest changed what an attempt runs with before it had begun: another takes its place."""
    TASK_FAILED = "TaskFailed"
    STAGE_DECIDED = "StageDecided"
    MANIFEST_REVOKED = "ManifestRevoked"
    SUCCEEDED = "Succeeded"

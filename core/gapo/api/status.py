"""`GapoRun.status`: what the operator tells. Derived from storage and pods at every pass, and never decided on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from gapo.api.base import ApiModel

Text = Annotated[str, StringConstraints(max_length=1024)]
Word = Annotated[str, StringConstraints(max_length=128)]
Time = Annotated[str, StringConstraints(max_length=32)]
"""RFC 3339, UTC."""
State = Literal["Pending", "Queued", "Running", "Suspended", "Stalled", "Succeeded", "Failed"]


class StatusModel(ApiModel):
    """Fields that this release does not know are kept out of the way: a newer operator may have written them."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Condition(StatusModel):
    """One of the conditions, by Kubernetes' API conventions."""

    type: Word
    """CamelCase, such as Succeeded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Word
    """CamelCase, for programs."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """For people: what happened, and what to do."""
    last_transition_time: Time
    """When `status` changed last."""
    observed_generation: int | None = Field(None, ge=0)
    """The generation of the spec that it was found under."""


class StageStatus(StatusModel):
    """One stage that has begun."""

    stage: int = Field(ge=0)
    """Its number; 0 is the warm-up."""
    parent: int | None = Field(None, ge=0)
    """The stage whose generator it started from; another than the one before after a rollback."""
    verdict: Word | None = None
    """What was decided at its end: continue, converged, rolled-back or stopped."""
    satisfaction: float | None = Field(None, ge=0, le=1)
    """Share of sampled responses that met all constraints."""
    pair_accuracy: float | None = Field(None, ge=0, le=1)
    """The reward model's, on held-out pairs, after this stage's retraining."""
    checkpoint: Text | None = None
    """Where the generator lies, a folder in storage."""


class TaskStatus(StatusModel):
    """A task that runs or waits."""

    name: Word
    """Its Job."""
    kind: Word
    """ppo, rm, evaluate …"""
    attempt: int = Field(ge=0)
    """Counts from 0."""
    state: Literal["Queued", "Pending", "Running"]
    """Queued: held by a queue; Pending: its pod has not started."""
    progress_percentage: int | None = Field(None, ge=0, le=100)
    """How far it says that it is."""


class TrainerMetric(StatusModel):
    """One figure of a task's last iteration."""

    name: Word
    """Flat, as in manifests: ppo/kl."""
    value: Annotated[str, StringConstraints(max_length=64)]
    """A number, written out."""


class TrainerStatus(StatusModel):
    """What the running task tells of itself, of several the one that takes longest. Looked at every 30 s."""

    progress_percentage: int | None = Field(None, ge=0, le=100)
    """How much of the task is done."""
    estimated_remaining_seconds: int | None = Field(None, ge=0)
    """Expected time to the task's end."""
    metrics: list[TrainerMetric] = Field(default_factory=list, max_length=32)
    """Figures of its last iteration."""
    last_updated_time: Time | None = None
    """When it told this."""


class Usage(StatusModel):
    """What the run has taken and met so far, by the records of its attempts and stages."""

    attempts: dict[Word, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, max_length=16)
    """Attempts that ended, by cause."""
    gpu_seconds: dict[Word, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, max_length=8)
    """GPUs times the seconds that ended attempts held them, by role."""
    rollbacks: int = Field(0, ge=0)
    """To an earlier stage."""
    guard_hits: dict[Word, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, max_length=8)
    """Stages in a row, up to the last, at which a guard's condition held."""
    stage_start_time: Time | None = None
    """When the present stage's first attempt began."""
    last_commit_time: Time | None = None
    """When a task committed last."""


class GapoRunStatus(StatusModel):
    """What the operator has seen and done."""

    observed_generation: int | None = Field(None, ge=0)
    """Generation of the spec that this status belongs to."""
    run_id: Word | None = Field(None, alias="runID")
    """Names the run's folder. Set before anything starts; from then on the run's identity cannot change."""
    location: Text | None = None
    """The run's folder in storage."""
    state: State | None = None
    """One word for people; programs read the conditions."""
    stage: int | None = Field(None, ge=0)
    """The stage that is being worked on."""
    progress: Word | None = None
    """Where the run stands, such as `A3/12 ppo 45 %`."""
    progress_percentage: int | None = Field(None, ge=0, le=100)
    """How much of the whole run is done, by expected times."""
    estimated_remaining_seconds: int | None = Field(None, ge=0)
    """Expected time to the run's end, while tasks run."""
    satisfaction: float | None = Field(None, ge=0, le=1)
    """Of the last evaluated stage."""
    pair_accuracy: float | None = Field(None, ge=0, le=1)
    """Of the newest reward model, on held-out pairs."""
    best_stage: int | None = Field(None, ge=0)
    """The stage that would be exported now."""
    stages: list[StageStatus] = Field(default_factory=list, max_length=50)
    """The newest stages."""
    tasks: list[TaskStatus] = Field(default_factory=list, max_length=8)
    """What runs or waits now."""
    trainer_status: TrainerStatus | None = None
    """What the running task tells of itself; absent while none does."""
    usage: Usage | None = None
    """What the run has taken and met so far."""
    conditions: list[Condition] = Field(default_factory=list, max_length=16)
    """Succeeded sums the run up; Progressing, Suspended, StorageReady and Stalled tell why it stands where it does."""

"""`GapoRun`: the one object a user writes, on a laptop and for a cluster alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from gapo.api.base import FIXED, IDENTITY, LIVE, NEXT_ATTEMPT, ApiModel
from gapo.api.evaluation import Budget, Convergence, Evaluation, Guards
from gapo.api.methods import SUMMARY, Method
from gapo.api.models import Critic, Generator, Reference, RewardModel
from gapo.api.placement import Checkpoint, Retention, Roles, Rollout, Scheduling, Storage
from gapo.api.training import Adversarial, Data, Generation, Ppo, Sft, Stages

API_VERSION = "gapo.dev/v1alpha1"
Name = Annotated[str, StringConstraints(max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


class ResumeFrom(ApiModel):
    """Start from another run's stage instead of from the base models; its objects are imported, not referred to."""

    run: Name
    """Name of a run in the same namespace and storage location."""
    run_id: str = Field(alias="runID", max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Its ID, as `gapo validate` and `gapo status` print it."""
    stage: Literal["best", "last"] | Annotated[int, Field(ge=0, strict=True)] = "best"
    """`best` needs that run to have finished; 0 is its supervised start with the first reward model."""
    take: Literal["weights", "state"] = "weights"
    """`state` takes critic, optimisers and KL controller too."""


class GapoRunSpec(ApiModel):
    """What to train, how, and where its checkpoints live."""

    method: Method = Field("GAPO", description=SUMMARY, json_schema_extra=IDENTITY)
    profile: Literal["tiny", "7b"] | None = Field(None, json_schema_extra=IDENTITY)
    """Tested defaults for whatever is not written; `tiny` for a generator from scratch, otherwise `7b`."""
    seed: int = Field(0, ge=0, lt=2**31, json_schema_extra=IDENTITY)
    """Of data order, initialisation, training and sampling. `data.generate` has one of its own."""
    generator: Generator = Field(json_schema_extra=IDENTITY)
    reward_model: RewardModel | None = Field(None, json_schema_extra=IDENTITY)
    """Needed by every method but SFT."""
    data: Data = Field(json_schema_extra=IDENTITY)
    sft: Sft = Field(default_factory=Sft, json_schema_extra=IDENTITY)
    stages: Stages = Field(default_factory=Stages, json_schema_extra=IDENTITY)
    ppo: Ppo = Field(default_factory=Ppo, json_schema_extra=IDENTITY)
    critic: Critic = Field(default_factory=Critic, json_schema_extra=IDENTITY)
    reference: Reference = Field(default_factory=Reference, json_schema_extra=IDENTITY)
    adversarial: Adversarial = Field(default_factory=Adversarial, json_schema_extra=IDENTITY)
    generation: Generation = Field(default_factory=Generation, json_schema_extra=IDENTITY)
    evaluation: Evaluation = Field(default_factory=Evaluation, json_schema_extra=IDENTITY)
    convergence: Convergence = Field(default_factory=Convergence, json_schema_extra=IDENTITY)
    guards: Guards = Field(default_factory=Guards, json_schema_extra=IDENTITY)
    resume_from: ResumeFrom | None = Field(None, json_schema_extra=IDENTITY)

    run_id: str | None = Field(
        None,
        alias="runID",
        max_length=63,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        json_schema_extra=FIXED,
    )
    """Names the run's folder. Unset, it is the hash of the identity fields, so that the same YAML is the same run."""
    storage: Storage = Field(default_factory=Storage, json_schema_extra=FIXED)

    checkpoint: Checkpoint = Field(default_factory=Checkpoint, json_schema_extra=NEXT_ATTEMPT)
    rollout: Rollout = Field(default_factory=Rollout, json_schema_extra=NEXT_ATTEMPT)
    scheduling: Scheduling = Field(default_factory=Scheduling, json_schema_extra=NEXT_ATTEMPT)
    roles: Roles = Field(default_factory=Roles, json_schema_extra=NEXT_ATTEMPT)

    suspend: bool = Field(False, json_schema_extra=LIVE)
    """True: nothing of the run is started, and what runs is saved and stopped."""
    budget: Budget = Field(default_factory=Budget, json_schema_extra=LIVE)
    retention: Retention = Field(default_factory=Retention, json_schema_extra=LIVE)


SERVER_SET = frozenset(
    {
        "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
        "managedFields", "ownerReferences", "resourceVersion", "selfLink",
    }
)  # fmt: skip
"""Fields of metadata that Kubernetes has beside those of Metadata; `kubectl get -o yaml` shows them."""


class Metadata(ApiModel):
    """The part of Kubernetes' object metadata that gapo reads."""

    name: Name
    namespace: str = Field("default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str | None = None
    generation: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_the_servers(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if k not in SERVER_SET} if isinstance(given, dict) else given


class GapoRun(ApiModel):
    """A run: `apiVersion: gapo.dev/v1alpha1`, `kind: GapoRun`."""

    api_version: Literal["gapo.dev/v1alpha1"]
    kind: Literal["GapoRun"]
    metadata: Metadata
    spec: GapoRunSpec
    status: dict[str, Any] | None = None
    """Written by gapo; ignored in a manifest."""

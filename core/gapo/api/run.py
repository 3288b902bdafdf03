"""`GapoRun`: the one object a user writes, on a laptop and for a cluster alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from gapo.api.base import FIXED, IDENTITY, LIVE, NEXT_ATTEMPT, ApiModel
from gapo.api.evaluation import Budget, Convergence, Evaluation, Guards
from gapo.api.methods import Method
from gapo.api.models import Critic, Generator, Reference, RewardModel
from gapo.api.placement import Checkpoint, Retention, Roles, Rollout, Scheduling, Storage
from gapo.api.training import Adversarial, Data, Generation, Ppo, Sft, Stages

API_VERSION = "gapo.dev/v1alpha1"
Name = Annotated[str, StringConstraints(max_length=40, pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


VERIFIED_GUARDS = ("fidelity", "labels")
NEVER_ACTS = "reads the verifier's verdicts and can never act without them; set its action to warn or off"


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

    method: Method = Field("GAPO", json_schema_extra=IDENTITY)
    """GAPO retrains the reward model after every stage; PPO keeps it frozen; SFT uses none."""
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

    @model_validator(mode="after")
    def _fits_together(self) -> GapoRunSpec:
        found = problems(self)
        if found:
            raise ValueError("; ".join(found))
        return self


def problems(spec: GapoRunSpec) -> list[str]:
    """What cannot be honoured although each field is valid by itself, one sentence each."""
    found = []
    reward = spec.reward_model
    if spec.method != "SFT" and reward is None:
        found.append(f"rewardModel is needed by method {spec.method}; only SFT does without")
    if spec.method == "GAPO" and reward is not None and reward.source == "verifier":
        found.append("rewardModel.source verifier has nothing to retrain; use method PPO")
    share = spec.adversarial.generated_share_of_negatives
    if 0.5 * (1 - share) < 0.1 - 1e-9:
        found.append(
            f"adversarial.generatedShareOfNegatives {share} leaves original negatives under 10 % of a batch; "
            "use 0.8 or less"
        )
    if spec.adversarial.selection == "hard" and spec.adversarial.passing_label == "zero":
        found.append(
            "adversarial.selection hard tells passing from failing samples, and passingLabel zero labels both 0; "
            "set passingLabel to drop, half or one"
        )
    if spec.evaluation.scorer == "none":
        if spec.adversarial.passing_label != "zero":
            found.append("adversarial.passingLabel other than zero needs evaluation.scorer: verifier")
        if spec.guards.hacking.action != "off":
            found.append("guards.hacking needs evaluation.scorer: verifier; set its action to off")
        found += [
            f"guards.{name} {NEVER_ACTS}"
            for name in VERIFIED_GUARDS
            if getattr(spec.guards, name).action in ("stop", "rollback")
        ]
        if reward is not None and reward.source == "verifier":
            found.append("rewardModel.source verifier needs evaluation.scorer: verifier")
        if spec.stages.max > 0 and spec.convergence.enabled:
            found.append("convergence needs evaluation.scorer: verifier; set convergence.enabled to false")
    if reward is not None and reward.pooling == "mean" and reward.global_attention == "cls":
        found.append("rewardModel.pooling mean with globalAttention cls reads each window alone; use prompt")
    scratch = spec.generator.from_scratch
    if scratch is not None and scratch.arch != "decoder":
        found.append("generator.fromScratch.arch must be decoder: the generator writes left to right")
    if scratch is not None and spec.generation.max_new_tokens >= scratch.max_positions:
        found.append(
            f"generation.maxNewTokens ({spec.generation.max_new_tokens}) must be below "
            f"generator.fromScratch.maxPositions ({scratch.max_positions}): the prompt needs room too"
        )
    if spec.generator.lora is not None or spec.critic.lora is not None:
        found.append("lora is not supported yet; leave it out to train all weights")
    if spec.stages.min > spec.stages.max:
        found.append(f"stages.min ({spec.stages.min}) is above stages.max ({spec.stages.max})")
    if spec.ppo.mini_batch > spec.stages.rollouts_per_iteration:
        found.append(
            f"ppo.miniBatch ({spec.ppo.mini_batch}) is above stages.rolloutsPerIteration "
            f"({spec.stages.rollouts_per_iteration})"
        )
    if spec.data.sources and spec.generator.from_scratch is not None:
        found.append(
            "generator.fromScratch takes its tokenizer from data.generate; with data.sources give generator.model"
        )
    if spec.data.sources and reward is not None and reward.from_scratch is not None:
        found.append(
            "rewardModel.fromScratch takes its tokenizer from data.generate; with data.sources give rewardModel.model"
        )
    if spec.stages.rollouts_per_iteration % spec.generation.samples_per_prompt:
        found.append(
            f"stages.rolloutsPerIteration ({spec.stages.rollouts_per_iteration}) must be a multiple of "
            f"generation.samplesPerPrompt ({spec.generation.samples_per_prompt})"
        )
    return found


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

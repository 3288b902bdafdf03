"""Tasks: the unit of work that reads committed artifacts and commits one new artifact.

A task is complete and serialisable: the same bytes run as a local process and in a pod
(`python -m gapo_trainer --task KEY --sha256 D`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple, cast

from pydantic import Field

from gapo.api.base import ApiModel
from gapo.api.placement import Role
from gapo.api.run import GapoRunSpec
from gapo.digest import canonical_json, digest

STOP_GRACE_SECONDS = 60
"""Between the signal to stop a task and its end by force, on a cluster (unless its administrator sets
`trainer.graceSeconds`) and on one machine. A person at a terminal decides instead, by a second Ctrl-C."""


class Kind(StrEnum):
    """What a task does. The values are folder names in storage."""

    DATA = "data"
    """Rows, prompts, splits and from-scratch tokenizers."""
    IMPORT = "import"
    """Another run's stage, copied and verified."""
    SFT = "sft"
    """Supervised training of the generator."""
    RM_WARMUP = "rm-warmup"
    """The first reward model, and its gate."""
    PPO = "ppo"
    """The generator against the frozen reward model; ends with fresh samples."""
    EVALUATE = "evaluate"
    """Verified satisfaction, fidelity, guards' inputs and cross-play."""
    RM = "rm"
    """The reward model on fresh samples."""
    EXPORT = "export"
    """The best stage's generator with its model card and figures on the test split."""


class TaskKey(NamedTuple):
    """Which task of a run: at most one manifest is ever valid for a key."""

    stage: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.stage}/{self.kind.value}"


class InputRef(ApiModel):
    """A committed artifact that a task reads, by its manifest."""

    key: str
    """Key of the manifest, relative to the run."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Task(ApiModel):
    """One attempt of one task."""

    schema_version: int = 1
    run_id: str = Field(alias="runID")
    stage: int = Field(ge=0)
    kind: Kind
    generation: int = Field(0, ge=0)
    """Which manifest it commits: above 0 only after a revocation."""
    inputs: dict[str, InputRef] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    """The resolved spec's sections that this kind reads, and a rollback's change."""
    seed: int = Field(ge=0)

    attempt: int = Field(ge=0)
    threads: int | None = None
    checkpoint_interval: float = 300.0
    """Seconds between resume points."""

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.stage, self.kind)

    @property
    def document(self) -> bytes:
        """task.json: what the attempt is handed over as. Its sha256 is given to the process that runs it."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @cached_property
    def digest(self) -> str:
        """What the task computes. Attempt, threads and checkpoint interval are not part of it."""
        return task_digest(self.run_id, self.key, self.inputs, digest(self.params), self.seed)


def task_digest(
    run_id: str, key: TaskKey, inputs: Mapping[str, InputRef], params_digest: str, seed: int
) -> str:
    """The digest of the task with these inputs and parameters, without building it."""
    return digest(
        {
            "runID": run_id,
            "stage": key.stage,
            "kind": key.kind.value,
            "inputs": {name: ref.sha256 for name, ref in inputs.items()},
            "params": params_digest,
            "seed": seed,
        }
    )


SECTIONS: dict[Kind, tuple[str, ...]] = {
    Kind.DATA: ("data", "generator", "rewardModel"),
    Kind.IMPORT: ("resumeFrom",),
    Kind.SFT: ("data", "generator", "sft", "generation", "stages", "ppo"),
    Kind.RM_WARMUP: ("data", "rewardModel", "generator"),
    Kind.PPO: (
        "data",
        "generator",
        "rewardModel",
        "stages",
        "ppo",
        "critic",
        "reference",
        "adversarial",
        "generation",
        "evaluation",
    ),
    Kind.EVALUATE: ("data", "generator", "rewardModel", "generation", "evaluation"),
    Kind.RM: ("data", "rewardModel", "adversarial", "guards"),
    Kind.EXPORT: (
        "method",
        "data",
        "generator",
        "rewardModel",
        "sft",
        "stages",
        "ppo",
        "adversarial",
        "generation",
        "evaluation",
    ),
}
"""Which sections of the spec each kind of task reads: the rest may differ without changing the task."""

_IRRELEVANT = {("stages", "max"), ("stages", "min")}


ROLE_OF: dict[Kind, str] = {
    Kind.DATA: "data",
    Kind.IMPORT: "data",
    Kind.RM_WARMUP: "rewardModel",
    Kind.RM: "rewardModel",
    Kind.EVALUATE: "evaluation",
    Kind.SFT: "generator",
    Kind.PPO: "generator",
    Kind.EXPORT: "generator",
}
"""Whose image, resources and threads a kind of task runs with: a key of `spec.roles`."""


def role_of(spec: GapoRunSpec, kind: Kind) -> Role:
    """The part of `spec.roles` that a kind of task runs with."""
    roles = {
        "data": spec.roles.data,
        "generator": spec.roles.generator,
        "rewardModel": spec.roles.reward_model,
        "evaluation": spec.roles.evaluation,
    }
    return roles[ROLE_OF[kind]]


def models_of(spec: GapoRunSpec) -> dict[str, str]:
    """Field → address of every model that a run of this spec loads from where it names it: those that its data task
    looks at before anything trains. A run that imports its start loads no generator and no reward model."""
    named: dict[str, str | None] = {}
    if spec.resume_from is None:
        named["generator.model"] = spec.generator.model
    reward = spec.reward_model
    if spec.method != "SFT":
        if spec.resume_from is None and reward is not None and reward.source == "rewardModel":
            named["rewardModel.model"] = reward.model
        named["critic.model"] = spec.critic.model
    return {field: address for field, address in named.items() if address is not None}


def model_of(task: Task) -> str | None:
    """The address of the model that this task loads from where the run names it; None where it starts from what a task
    before has committed. A resumed task may not need it any more."""
    inputs, params = task.inputs, task.params
    if task.kind is Kind.SFT and "generator" not in inputs:
        return cast(str | None, params["generator"].get("model"))
    if task.kind is Kind.RM_WARMUP:
        return cast(str | None, params["rewardModel"].get("model"))
    if task.kind is Kind.PPO:
        critic = params["critic"]
        # An imported stage 0 has no critic yet.
        has_one = "state" in inputs and not inputs["state"].key.startswith("stages/0/")
        if not has_one or critic.get("onStageChange") == "reset":
            return cast(str | None, critic.get("model"))
    return None


def task_params(spec: GapoRunSpec, kind: Kind) -> dict[str, Any]:
    """The resolved sections for a kind, without what is live or of no effect on the task's result."""
    whole = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    params = {}
    for section in SECTIONS[kind]:
        if section in whole:
            value = whole[section]
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if (section, k) not in _IRRELEVANT}
            params[section] = value
    return params

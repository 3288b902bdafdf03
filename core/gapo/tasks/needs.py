"""What a task needs of whoever runs it: the role whose pods it runs in, and the models that it loads from outside."""

from __future__ import annotations

from typing import cast

from gapo.api.methods import METHODS
from gapo.api.placement import Role
from gapo.api.run import GapoRunSpec
from gapo.tasks.kinds import KINDS, Kind
from gapo.tasks.task import Task


def role_of(spec: GapoRunSpec, kind: Kind) -> Role:
    """The part of `spec.roles` that a kind of task runs with."""
    roles = {
        "data": spec.roles.data,
        "generator": spec.roles.generator,
        "rewardModel": spec.roles.reward_model,
        "evaluation": spec.roles.evaluation,
    }
    return roles[KINDS[kind].role]


def models_of(spec: GapoRunSpec) -> dict[str, str]:
    """Field → address of every model that a run of this spec loads from where it names it: those that its data task
    looks at before anything trains. A run that imports its start loads no generator and no reward model."""
    named: dict[str, str | None] = {}
    if spec.resume_from is None:
        named["generator.model"] = spec.generator.model
    reward = spec.reward_model
    if METHODS[spec.method].has_reward:
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

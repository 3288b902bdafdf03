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
    section = KINDS[task.kind].loads
    if section is None or section in task.inputs or (section == "critic" and _goes_on_with_a_critic(task)):
        return None
    return cast(str | None, task.params[section].get("model"))


def _goes_on_with_a_critic(task: Task) -> bool:
    """Whether the critic is that of the stage before; an imported stage 0 has none yet."""
    state = task.inputs.get("state")
    has_one = state is not None and not state.key.startswith("stages/0/")
    return has_one and task.params["critic"].get("onStageChange") != "reset"

"""GAPO's loop, and PPO, which is the same loop with the reward model frozen (docs/method/reward-model.md#order-of-a-stage).

Stage k: ppo(k) against RM(k-1), evaluate(k), decision k, then rm(k) if the run goes on.
"""

from __future__ import annotations

from gapo.api.methods import METHODS
from gapo.api.run import GapoRunSpec
from gapo.recipes.base import DATA, Lineage, Recipe, Step, is_evaluated, nothing
from gapo.tasks import Kind, TaskKey


def has_reward_model(spec: GapoRunSpec) -> bool:
    return spec.reward_model is not None and spec.reward_model.source == "rewardModel"


def retrains(spec: GapoRunSpec) -> bool:
    """Whether the reward model changes from stage to stage."""
    return METHODS[spec.method].retrains_reward_model and has_reward_model(spec) and spec.adversarial.retrain


def rm_at(spec: GapoRunSpec, stage: int, lineage: Lineage) -> TaskKey | None:
    """The reward model as it is when `stage` has ended."""
    if stage > 0 and retrains(spec):
        return TaskKey(stage, Kind.RM)
    return lineage.rm_start


def start(spec: GapoRunSpec) -> tuple[Step, ...]:
    steps = [Step(DATA)]
    if spec.resume_from is not None:
        source = TaskKey(0, Kind.IMPORT)
        steps.append(Step(source, {"data": DATA}))
        generator, rm = source, source
    else:
        generator, rm = TaskKey(0, Kind.SFT), TaskKey(0, Kind.RM_WARMUP)
        steps.append(Step(generator, {"data": DATA}))
        if has_reward_model(spec):
            needs_generator = (
                spec.reward_model is not None and spec.reward_model.warmup.warm_start == "generator"
            )
            steps.append(Step(rm, {"data": DATA, **({"generator": generator} if needs_generator else {})}))
    if is_evaluated(spec, 0):
        judge = {"rm": rm} if has_reward_model(spec) else {}
        steps.append(Step(TaskKey(0, Kind.EVALUATE), {"data": DATA, "generator": generator, **judge}))
    return tuple(steps)


def learn(spec: GapoRunSpec, lineage: Lineage) -> tuple[Step, ...]:
    ppo = TaskKey(lineage.stage, Kind.PPO)
    before = lineage.start if lineage.parent == 0 else TaskKey(lineage.parent, Kind.PPO)
    rm = rm_at(spec, lineage.parent, lineage)
    inputs = {"data": DATA, "generator": before, "reference": lineage.start}
    if rm is not None:
        inputs["rm"] = rm
    if spec.reference.mode == "lastStage":
        inputs["reference"], inputs["start"] = before, lineage.start
    if lineage.parent > 0 or (spec.resume_from is not None and spec.resume_from.take == "state"):
        inputs["state"] = before
    steps = [Step(ppo, inputs)]
    if is_evaluated(spec, lineage.stage):
        steps.append(Step(TaskKey(lineage.stage, Kind.EVALUATE), _evaluate_inputs(spec, lineage, ppo, rm)))
    return tuple(steps)


def _evaluate_inputs(
    spec: GapoRunSpec, lineage: Lineage, ppo: TaskKey, rm: TaskKey | None
) -> dict[str, TaskKey]:
    inputs = {"data": DATA, "generator": ppo, "reference": lineage.start}
    if rm is None:
        return inputs
    inputs["rm"] = rm
    if spec.evaluation.cross_play_samples > 0:
        for stage in lineage.ancestors[:-1]:
            earlier = rm_at(spec, stage, lineage)
            if earlier is not None and earlier != rm:
                inputs[f"rm-{stage}"] = earlier
        for stage in lineage.evaluated:
            inputs[f"evaluate-{stage}"] = TaskKey(stage, Kind.EVALUATE)
    return inputs


def retrain(spec: GapoRunSpec, lineage: Lineage) -> tuple[Step, ...]:
    if not retrains(spec):
        return ()
    before = rm_at(spec, lineage.parent, lineage)
    restart = lineage.rm_start if spec.reward_model and spec.reward_model.restart == "warmup" else before
    if restart is None:
        return ()
    inputs = {"data": DATA, "rm": restart, "samples": TaskKey(lineage.stage, Kind.PPO)}
    older = [stage for stage in lineage.ancestors if stage > 0][::-1]
    for distance, stage in enumerate(older[: spec.adversarial.replay.stages - 1], start=1):
        inputs[f"samples-{distance}"] = TaskKey(stage, Kind.PPO)
    return (Step(TaskKey(lineage.stage, Kind.RM), inputs),)


GAPO = Recipe(method="GAPO", generator_kind=Kind.PPO, start=start, learn=learn, retrain=retrain)
PPO = Recipe(method="PPO", generator_kind=Kind.PPO, start=start, learn=learn, retrain=nothing)

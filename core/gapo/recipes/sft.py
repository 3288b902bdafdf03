"""SFT, and SFT continued: stage k trains on for as many rows as a PPO stage of the same settings would see."""

from __future__ import annotations

from gapo.api.run import GapoRunSpec
from gapo.recipes.base import DATA, Lineage, Recipe, Step, is_evaluated, nothing
from gapo.tasks import Kind, TaskKey


def start(spec: GapoRunSpec) -> tuple[Step, ...]:
    kind = Kind.SFT if spec.resume_from is None else Kind.IMPORT
    generator = TaskKey(0, kind)
    steps = [Step(DATA), Step(generator, {"data": DATA})]
    if is_evaluated(spec, 0):
        steps.append(Step(TaskKey(0, Kind.EVALUATE), {"data": DATA, "generator": generator}))
    return tuple(steps)


def learn(spec: GapoRunSpec, lineage: Lineage) -> tuple[Step, ...]:
    generator = TaskKey(lineage.stage, Kind.SFT)
    before = lineage.start if lineage.parent == 0 else TaskKey(lineage.parent, Kind.SFT)
    steps = [Step(generator, {"data": DATA, "generator": before})]
    if is_evaluated(spec, lineage.stage):
        inputs = {"data": DATA, "generator": generator, "reference": lineage.start}
        steps.append(Step(TaskKey(lineage.stage, Kind.EVALUATE), inputs))
    return tuple(steps)


SFT = Recipe(method="SFT", generator_kind=Kind.SFT, start=start, learn=learn, retrain=nothing)

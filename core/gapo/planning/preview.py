"""The task sequence of a run before it starts: the planner itself, driven by pretended commits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gapo.api.run import GapoRunSpec
from gapo.digest import digest
from gapo.planning.observation import Committed, Observation
from gapo.planning.plan import RunFacts, State
from gapo.planning.planner import first_lineage, plan
from gapo.recipes import recipe_for
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import Kind, Task, TaskKey

LIMIT = 5000


@dataclass(frozen=True)
class Preview:
    """The tasks in the order in which one machine runs them, if no stage converges or fails."""

    tasks: tuple[Task, ...]

    @property
    def keys(self) -> tuple[TaskKey, ...]:
        return tuple(task.key for task in self.tasks)


def preview(spec: GapoRunSpec, run_id: str) -> Preview:
    """Walks the run to its end with every task committed at once and every decision `continue`."""
    active = spec.model_copy(update={"suspend": False})
    committed: dict[TaskKey, Committed] = {}
    decisions: dict[int, Decision] = {}
    tasks: list[Task] = []
    now = datetime(2000, 1, 1, tzinfo=UTC)
    for _ in range(LIMIT):
        next_plan = plan(RunFacts(run_id, active), Observation(committed=committed, decisions=decisions), now)
        if next_plan.status.state is State.SUCCEEDED:
            break
        if next_plan.decide is not None:
            decisions[next_plan.decide.stage] = next_plan.decide
        for task in next_plan.start:
            tasks.append(task)
            committed[task.key] = _pretended(task)
    return Preview(tuple(tasks))


def planned_keys(spec: GapoRunSpec) -> tuple[TaskKey, ...]:
    """The keys of the same tasks, in another order, from the recipe alone: in a thousandth of the time."""
    recipe, last = recipe_for(spec), spec.stages.max
    start = recipe.start(spec)
    keys, lineage = [step.key for step in start], first_lineage(spec, start)
    for stage in range(1, last + 1):
        learned = [step.key for step in recipe.learn(spec, lineage)]
        keys += learned
        if stage < last or spec.adversarial.final_rm:
            keys += [step.key for step in recipe.retrain(spec, lineage)]
        evaluated = (stage,) if TaskKey(stage, Kind.EVALUATE) in learned else ()
        lineage = replace(
            lineage,
            stage=stage + 1,
            ancestors=(*lineage.ancestors, stage),
            evaluated=(*lineage.evaluated, *evaluated),
        )
    return (*keys, TaskKey(last, Kind.EXPORT))


def _pretended(task: Task) -> Committed:
    key = f"stages/{task.stage}/{task.kind.value}/manifest-0.json"
    ref = ManifestRef(key=key, sha256=digest([task.digest]))
    return Committed(ref, 0, task.digest, dict(task.inputs), {})

"""The task sequence of a run before it starts: the planner itself, driven by pretended commits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from gapo.api.run import GapoRunSpec
from gapo.digest import digest
from gapo.planner import RunFacts, State, plan
from gapo.seen import Committed, Seen
from gapo.store.records import Decision
from gapo.tasks import InputRef, Task, TaskKey

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
        made = plan(RunFacts(run_id, active), Seen(committed=committed, decisions=decisions), now)
        if made.status.state is State.SUCCEEDED:
            break
        if made.decide is not None:
            decisions[made.decide.stage] = made.decide
        for task in made.start:
            tasks.append(task)
            committed[task.key] = _pretended(task)
    return Preview(tuple(tasks))


def _pretended(task: Task) -> Committed:
    key = f"stages/{task.stage}/{task.kind.value}/manifest-0.json"
    ref = InputRef(key=key, sha256=digest([task.digest]))
    return Committed(ref, 0, task.digest, dict(task.inputs), {})

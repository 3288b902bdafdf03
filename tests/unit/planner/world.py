"""A world that a planner drives: storage that creates once, processes that end, and every way in which that goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gapo.api.load import load_document
from gapo.api.run import GapoRunSpec
from gapo.digest import digest
from gapo.planning.observation import Committed, Observation, ObservedAttempt
from gapo.planning.plan import Plan, RunFacts, State
from gapo.planning.planner import plan
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import Kind, Task, TaskKey

START = datetime(2026, 1, 1, tzinfo=UTC)


def spec_of(**sections: Any) -> GapoRunSpec:
    """A small GAPO run; keyword arguments replace sections of its spec."""
    spec: dict[str, Any] = {
        "method": "GAPO",
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
        "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
        "stages": {"max": 3},
        "scheduling": {"maxFailures": 20},
    }
    spec.update(sections)
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "world"},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }
    from pathlib import Path

    return load_document(document, where="test", base=Path()).spec


Metrics = Callable[[TaskKey], dict[str, float]]


def rising(per_stage: float = 0.03) -> Metrics:
    """Satisfaction 0.4 at the start and this much more at each stage."""

    def metrics(key: TaskKey) -> dict[str, float]:
        if key.kind is Kind.EVALUATE:
            return {"eval/satisfaction": 0.4 + per_stage * key.stage, "eval/satisfaction_n": 2000}
        return {}

    return metrics


@dataclass
class World:
    """Truth. `seen()` is what an observer would read now."""

    spec: GapoRunSpec
    metrics: Metrics = field(default_factory=rising)
    now: datetime = START
    committed: dict[TaskKey, Committed] = field(default_factory=dict)
    revoked: dict[TaskKey, int] = field(default_factory=dict)
    attempts: dict[TaskKey, list[ObservedAttempt]] = field(default_factory=dict)
    tasks: dict[tuple[TaskKey, int], Task] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)
    started: list[TaskKey] = field(default_factory=list)
    started_after_commit: list[TaskKey] = field(default_factory=list)
    facts: RunFacts | None = None

    def seen(self) -> Observation:
        return Observation(
            committed=dict(self.committed),
            revoked=dict(self.revoked),
            attempts={key: tuple(group) for key, group in self.attempts.items()},
            decisions=dict(self.decisions),
        )

    def plan(self, seen: Observation | None = None, slots: int = 1) -> Plan:
        if self.facts is None or self.facts.spec is not self.spec:
            self.facts = RunFacts("run", self.spec)
        return plan(self.facts, seen or self.seen(), self.now, slots=slots)

    def apply(self, made: Plan) -> None:
        """Carries a plan out, each write a conditional create."""
        for lost in made.lost:
            self.end(lost.task, lost.attempt, Cause.EXECUTOR_LOST, charged=False)
        for stop in made.stop:
            self.end(stop.task, stop.attempt, Cause.STOPPED, charged=False)
        for revocation in made.revoke:
            key = revocation.task
            if key in self.committed and self.committed[key].generation == revocation.generation:
                del self.committed[key]
                self.revoked[key] = revocation.generation + 1
        if made.decide is not None:
            self.decisions.setdefault(made.decide.stage, made.decide)
        for task in made.start:
            self.launch(task)

    def launch(self, task: Task) -> None:
        group = self.attempts.setdefault(task.key, [])
        if task.attempt != len(group):
            return  # task.json exists already: somebody else started this attempt
        if task.key in self.committed:
            self.started_after_commit.append(task.key)
        self.started.append(task.key)
        self.tasks[task.key, task.attempt] = task
        group.append(ObservedAttempt(task.attempt, running=True))

    def running(self) -> list[tuple[TaskKey, int]]:
        return [
            (key, attempt.number)
            for key, group in self.attempts.items()
            for attempt in group
            if attempt.running and attempt.ended is None
        ]

    def commit(self, key: TaskKey, number: int) -> bool:
        """The task creates its manifest; False where another attempt was first."""
        task = self.tasks[key, number]
        if key in self.committed or task.generation != self.revoked.get(key, 0):
            return False
        name = f"stages/{key.stage}/{key.kind.value}/manifest-{task.generation}.json"
        self.committed[key] = Committed(
            ref=ManifestRef(key=name, sha256=digest([task.digest, task.generation])),
            generation=task.generation,
            task_digest=task.digest,
            inputs=dict(task.inputs),
            metrics=self.metrics(key),
        )
        return True

    def end(
        self, key: TaskKey, number: int, cause: Cause, *, charged: bool, bad_input: str | None = None
    ) -> None:
        attempt = self.attempts[key][number]
        if attempt.ended is not None:
            return
        code = 66 if bad_input else None
        ended = AttemptEnd(
            attempt=number,
            cause=cause,
            charged=charged,
            exit_code=code,
            started_at=self.now,
            ended_at=self.now,
            bad_input=bad_input,
        )
        self.attempts[key][number] = replace(attempt, running=False, ended=ended)

    def crash(self) -> None:
        """The executor and its tasks die at once, unrecorded."""
        for key, number in self.running():
            self.attempts[key][number] = replace(self.attempts[key][number], running=False)

    def step(self) -> Plan:
        """One undisturbed round: plan, apply, every running task commits and ends."""
        made = self.plan()
        self.apply(made)
        for key, number in self.running():
            self.commit(key, number)
            self.end(key, number, Cause.COMMITTED, charged=False)
        self.now += timedelta(seconds=10)
        return made

    def run(self, limit: int = 500) -> Plan:
        """Rounds until the run has ended. Raises AssertionError where it does not."""
        for _ in range(limit):
            made = self.step()
            if made.status.state in (State.SUCCEEDED, State.FAILED, State.STALLED):
                return made
        raise AssertionError(f"no end after {limit} rounds: {made.status}")

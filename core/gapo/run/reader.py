"""From storage to `Observation`: what the planner gets, by probing expected keys, never by a LIST
(docs/contracts/storage.md#polling)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from gapo.errors import InputArtifactError
from gapo.planning.observation import AttemptKey, Committed, Observation, ObservedAttempt
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd
from gapo.store.commit import check_objects, find_manifest
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision
from gapo.tasks import KINDS, TaskKey

START_KINDS = tuple(kind for kind, described in KINDS.items() if described.at_start)
STAGE_KINDS = tuple(kind for kind, described in KINDS.items() if described.in_stages)
A = TypeVar("A")


def walk(look: Callable[[int, Sequence[TaskKey]], bool]) -> None:
    """Shows `look` stage after stage, each with the tasks that it can have in the order in which they run, until it
    says that nothing of a stage has begun: stages have no gaps."""
    look(0, [TaskKey(0, kind) for kind in START_KINDS])
    stage = 1
    while look(stage, [TaskKey(stage, kind) for kind in STAGE_KINDS]):
        stage += 1


def read_attempts(
    objects: Objects, key: TaskKey, read: Callable[[TaskKey, int], A], read_before: Sequence[A] = ()
) -> list[A]:
    """A task's attempts by number, those beyond `read_before` with `read`: one HEAD for each, and one for the next."""
    attempts = list(read_before)
    while objects.exists(layout.task(key.stage, key.kind.value, len(attempts))):
        attempts.append(read(key, len(attempts)))
    return attempts


class Observer:
    """Reads a run. What cannot change any more is read once; `refresh` reads one task again."""

    def __init__(self, objects: Objects, run_id: str) -> None:
        self.objects, self.run_id = objects, run_id
        self._committed: dict[TaskKey, Committed] = {}
        self._revoked: dict[TaskKey, int] = {}
        self._attempts: dict[TaskKey, list[ObservedAttempt]] = {}
        self._decisions: dict[int, Decision] = {}
        self._problems: dict[TaskKey, str] = {}
        self._live = False

    def scan(self) -> None:
        """Reads the whole run: stage after stage until one that nothing has begun."""
        walk(self._look)
        self._live = True

    def _look(self, stage: int, keys: Sequence[TaskKey]) -> bool:
        for key in keys:
            self.refresh(key)
        if stage:
            self.refresh_decision(stage)
        return stage in self._decisions or any(key in self._attempts for key in keys)

    def begin_empty(self) -> None:
        """In place of `scan`, where this executor has made the run a moment ago: there is nothing to read."""
        self._live = True

    def refresh(self, key: TaskKey) -> None:
        """Reads one task: attempts first, then the manifest, so that no recorded commit lacks its manifest."""
        self._refresh_attempts(key)
        self._problems.pop(key, None)
        try:
            lookup = find_manifest(
                self.objects,
                key.stage,
                key.kind.value,
                run_id=self.run_id,
                from_generation=self._revoked.get(key, 0),
            )
            # Objects of older commits are their consumers' to verify: retention may have removed them by now.
            if self._live and lookup.committed is not None and key not in self._committed:
                check_objects(self.objects, lookup.committed)
        except InputArtifactError as error:
            self._problems[key] = str(error)
            self._committed.pop(key, None)
            return
        if lookup.generation:
            self._revoked[key] = lookup.generation
        if lookup.committed is None:
            self._committed.pop(key, None)
            return
        manifest = lookup.committed.manifest
        self._committed[key] = Committed(
            ref=lookup.committed.ref,
            generation=lookup.generation,
            task_digest=manifest.task_digest,
            inputs=manifest.inputs,
            metrics=manifest.metrics,
            finished_at=manifest.finished_at,
        )

    def poll(self, key: TaskKey) -> bool:
        """Whether a task has been committed, for one GET while it has not."""
        if key not in self._committed:
            generation = self._revoked.get(key, 0)
            if self.objects.exists(layout.manifest(key.stage, key.kind.value, generation)):
                self.refresh(key)
        return key in self._committed

    def refresh_decision(self, stage: int) -> None:
        """Reads the decision at a stage's end; it never changes once it is there."""
        if stage in self._decisions:
            return
        decision = read_record(self.objects, layout.decision(stage), Decision)
        if decision is not None:
            self._decisions[stage] = decision

    def ended(self) -> frozenset[AttemptKey]:
        """The attempts whose end is recorded."""
        return frozenset(
            AttemptKey(key, a.number) for key, group in self._attempts.items() for a in group if a.ended
        )

    def observation(
        self, running: Collection[AttemptKey] = (), forgiven: Collection[AttemptKey] = ()
    ) -> Observation:
        """What is known now; `running` are the attempts whose processes this executor knows to live, `forgiven`
        those whose failure no longer counts."""
        attempts = {
            key: tuple(
                ObservedAttempt(
                    a.number,
                    AttemptKey(key, a.number) in running,
                    a.ended,
                    forgiven=AttemptKey(key, a.number) in forgiven,
                )
                for a in group
            )
            for key, group in self._attempts.items()
        }
        return Observation(
            committed=dict(self._committed),
            revoked=dict(self._revoked),
            attempts=attempts,
            decisions=dict(self._decisions),
            problems=dict(self._problems),
        )

    def _refresh_attempts(self, key: TaskKey) -> None:
        group = self._attempts.get(key, [])
        group = [a if a.ended is not None else self._attempt(key, a.number) for a in group]
        if group := read_attempts(self.objects, key, self._attempt, group):
            self._attempts[key] = group

    def _attempt(self, key: TaskKey, number: int) -> ObservedAttempt:
        end = read_record(self.objects, layout.ended(key.stage, key.kind.value, number), AttemptEnd)
        return ObservedAttempt(number, ended=end)

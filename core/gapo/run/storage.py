"""What every executor of a run does in storage, wherever its tasks run: hand over, record ends, decide, retire.

The laptop's executor and the cluster's operator differ in how an attempt is started, watched and stopped; the rest is
here. Every record is created once, so that two executors of one run, or one that is killed between any two writes,
leave what a single undisturbed one would (docs/contracts/storage.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gapo.decision_rules.attempts import Exit
from gapo.decision_rules.retries import classify
from gapo.digest import sha256_hex
from gapo.errors import InputArtifactError
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import Plan, Revocation, RunFacts
from gapo.planning.planner import plan
from gapo.run.reader import Observer
from gapo.run.retention import retire_at
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.claims import Fence
from gapo.store.commit import last_resume_point
from gapo.store.create_once import create_once
from gapo.store.objects import Objects
from gapo.store.records import Claim, Decision, ResumePoint, Revoked
from gapo.tasks import Task

MESSAGE_LIMIT = 4000


@dataclass(frozen=True)
class ObservedEnd:
    """How an attempt ended, as its executor saw it. Times are timezone-aware."""

    exit: Exit
    started_at: datetime
    ended_at: datetime
    termination: Mapping[str, Any] = field(default_factory=dict)
    """The task's termination message: reason, message, badInput."""
    message: str | None = None
    """What to say where the task said nothing."""
    resume_before: int | None = None
    """Number of the newest resume point when the attempt started."""
    gpus: int = 0


class RunStorage:
    """One run in storage: what an executor reads of it, plans from it and records in it. Call `begin` with a claim first."""

    def __init__(
        self, facts: RunFacts, objects: Objects, *, clock: Callable[[], datetime], slots: int = 1
    ) -> None:
        self.facts, self.objects, self.clock, self.slots = facts, objects, clock, slots
        self.observer = Observer(objects, facts.run_id)

    def use(self, objects: Objects) -> None:
        """From now on the same objects by another client, such as one with newer credentials."""
        self.objects = self.observer.objects = self.fence.objects = objects

    def begin(self, claim: Claim, *, fresh: bool = False) -> None:
        """Reads the run and finishes a retirement that was cut short. `fresh`: this executor has created run.json, so
        that nothing of the run is older."""
        self.claim = claim.number
        self.fence = Fence(self.objects, claim)
        if fresh:
            self.observer.begin_empty()
            return
        self.observer.scan()
        self.retire()

    def plan(
        self,
        running: Collection[AttemptKey],
        forgiven: Collection[AttemptKey] = frozenset(),
        *,
        asked_anew: bool = False,
    ) -> Plan:
        """`running`: attempts that live as far as the executor knows; `forgiven`: failures that no longer count;
        `asked_anew`: the manifest has just been changed."""
        observation = self.observer.observation(running, forgiven)
        return plan(self.facts, observation, self.clock(), slots=self.slots, asked_anew=asked_anew)

    def settle(self, next_plan: Plan) -> Decision | None:
        """Writes what the plan asks to be recorded: lost attempts, revocations, a decision, which it returns.

        Raises FencedError where another executor has taken the run over.
        """
        if next_plan.lost or next_plan.decide or next_plan.revoke:
            self.fence.check()
        for attempt in next_plan.lost:
            self.record_lost(attempt)
        for revocation in next_plan.revoke:
            self._revoke(revocation)
        if next_plan.decide is not None:
            create_once(self.objects, layout.decision(next_plan.decide.stage), next_plan.decide)
            self.observer.refresh_decision(next_plan.decide.stage)
            self.retire()
        return next_plan.decide

    def retire(self) -> None:
        """Deletes what the rest of the run cannot need."""
        retire_at(self.objects, self.facts.run_id, self.facts.spec, self.observer.observation())

    def hand_over(self, task: Task) -> bool:
        """Stores task.json; False where another executor was first, with another one."""
        self.fence.check()
        key = layout.task(task.stage, task.kind.value, task.attempt)
        mine = self.objects.create_or_read(key, task.document) == task.document
        self.observer.refresh(task.key)
        return mine

    def handed_over(self, attempt: AttemptKey) -> Task:
        """The task that was handed over for an attempt. Raises InputArtifactError where it cannot be read."""
        key = layout.task(attempt.task.stage, attempt.task.kind.value, attempt.attempt)
        data = self.objects.get(key)
        try:
            task = Task.model_validate_json(data or b"")
        except ValueError as error:
            raise InputArtifactError(f"{key} is no task of this release: {error}", manifest=key) from None
        if AttemptKey(task.key, task.attempt) != attempt or task.run_id != self.facts.run_id:
            raise InputArtifactError(f"{key} belongs to another place", manifest=key)
        return task

    def resume_point(self, task: Task, from_n: int = 0) -> ResumePoint | None:
        """The furthest resume point that an attempt of this task could go on from."""
        return last_resume_point(
            self.objects,
            task.stage,
            task.kind.value,
            run_id=task.run_id,
            task_digest=task.digest,
            from_n=from_n,
        )

    def record_end(self, task: Task, end: ObservedEnd) -> AttemptEnd:
        """Writes ended.json for an attempt. A manifest beats every exit code but that of a bad input."""
        self.fence.check()  # whoever took over records this end, and knows better what it was
        resume = self.resume_point(task, end.resume_before or 0)
        number = None if resume is None else resume.number
        self.observer.refresh(task.key)
        reason = end.termination.get("reason") or end.exit.reason
        verdict = classify(end.exit, resume_before=end.resume_before, resume_after=number)
        message = end.termination.get("message") or end.message
        record = AttemptEnd(
            attempt=task.attempt,
            cause=verdict.cause,
            charged=verdict.charged,
            exit_code=end.exit.code,
            reason=reason,
            message=str(message)[:MESSAGE_LIMIT] if message else None,
            started_at=end.started_at,
            ended_at=max(end.started_at, end.ended_at),
            gpus=end.gpus,
            last_resume=number,
            step=None if resume is None else resume.iteration,
            device_memory=reason == "OutOfMemory",
            bad_input=end.termination.get("badInput"),
        )
        stored = create_once(self.objects, layout.ended(task.stage, task.kind.value, task.attempt), record)
        self.observer.refresh(task.key)
        return stored

    def committed(self, task: Task) -> bool:
        """Whether a manifest of this task is there, looked up anew."""
        self.observer.refresh(task.key)
        return self.observer.observation().committed.get(task.key) is not None

    def record_lost(self, attempt: AttemptKey) -> None:
        """An attempt of an executor that is gone: nobody saw its end, so its start and end are now."""
        key, now = attempt.task, self.clock()
        self.observer.refresh(key)
        committed = self.observer.observation().committed.get(key)
        cause = Cause.EXECUTOR_LOST if committed is None else Cause.COMMITTED
        record = AttemptEnd(
            attempt=attempt.attempt,
            cause=cause,
            charged=False,
            message="its executor ended without recording it",
            started_at=now,
            ended_at=now,
        )
        create_once(self.objects, layout.ended(key.stage, key.kind.value, attempt.attempt), record)
        self.observer.refresh(key)

    def _revoke(self, revocation: Revocation) -> None:
        key = revocation.task
        create_once(
            self.objects,
            layout.revoked(key.stage, key.kind.value, revocation.generation),
            Revoked(
                generation=revocation.generation,
                evidence={"why": revocation.evidence},
                by=f"claim-{self.claim}",
            ),
        )
        self.observer.refresh(key)


def sha256_of(task: Task) -> str:
    """Digest of the hand-over; the process that runs the task refuses any other."""
    return sha256_hex(task.document)

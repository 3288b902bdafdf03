"""Carries out plans on this machine: observe, plan, write, start processes, wait, until the run has ended."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gapo.decision_rules.attempts import Exit
from gapo.errors import ACCESS_ERRORS, DiskFullError
from gapo.local.processes import Exited, TrainerServer
from gapo.local.rollout_servers import LocalRolloutServers
from gapo.owned_files import own_folder
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import Plan, RunFacts, State, Status
from gapo.run.reader import Observer
from gapo.run.storage import ObservedEnd, RunStorage, sha256_of
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd
from gapo.store.claims import take_claim
from gapo.store.objects import Objects
from gapo.store.records import Decision
from gapo.tasks import KINDS, STOP_GRACE_SECONDS, Kind, Task, role_of

ENDED = (State.SUCCEEDED, State.FAILED, State.STALLED, State.SUSPENDED)
TICK_SECONDS = 0.25
TERMINATION_BYTES = 4096
"""Kept for a task's last words, for then the disk may be full."""
FENCE_SECONDS = 2.0
"""How soon an executor that only waits notices that another has taken over."""


@dataclass(frozen=True)
class Place:
    """Where a run's objects are, in words that another process can open."""

    objects: Objects
    uri: str
    """URI of the run's folder."""
    endpoint: str | None = None
    region: str | None = None


@dataclass(frozen=True)
class Launched:
    """An attempt whose process this executor started."""

    task: Task
    writer: str
    scratch: Path
    started_at: datetime
    resume_before: int | None

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.task.key, self.task.attempt)

    @property
    def name(self) -> str:
        return f"{self.task.stage}-{self.task.kind.value}-{self.task.attempt}"


class View:
    """What an executor tells its user. The default says nothing; the CLI has a live one."""

    def planned(self, plan: Plan) -> None: ...
    def started(self, launched: Launched) -> None: ...
    def ended(self, launched: Launched, record: AttemptEnd) -> None: ...
    def decided(self, decision: Decision) -> None: ...
    def stopping(self, running: list[Launched], grace: float | None) -> None:
        """The user wants the run to stop; its tasks have `grace` seconds for it, or all the time they need."""

    def ending_at_once(self, running: list[Launched]) -> None:
        """The user does not want to wait for them."""

    def rollout(self, serve: int, wanted: int, log: Path) -> None:
        """Of `wanted` rollout servers so many serve; told where that changes. `log` is the first one's."""

    def tick(self, running: list[Launched]) -> None: ...


class Executor:
    """Drives one run until it ends or `interrupt` is called."""

    def __init__(
        self,
        facts: RunFacts,
        place: Place,
        server: TrainerServer,
        *,
        work: Path,
        slots: int = 1,
        view: View | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.place, self.server = place, server
        self.work, self.slots, self.view, self.clock = work, slots, view or View(), clock
        self.storage = RunStorage(facts, place.objects, clock=clock, slots=slots)
        self.rollout = LocalRolloutServers(work)
        self.launched: dict[str, Launched] = {}
        self._interrupted = False
        self._grace: float | None = None
        self._explained = False
        self._at_once = self._hurried = False
        self._stopping: dict[str, float] = {}
        self._fenced_at = 0.0
        self._serving = (0, 0)

    @property
    def observer(self) -> Observer:
        """What is known of the run's storage."""
        return self.storage.observer

    def interrupt(self, grace: float | None = None) -> None:
        """Stops the run's tasks, each after saving where it is; `run` then returns. Safe in a signal handler.

        After `grace` seconds they are ended by force. Where a person can do that by asking again, it is None.
        """
        if grace is not None:
            self._grace = grace
        self._interrupted = True

    def interrupt_again(self) -> None:
        """As `interrupt` at first; once the user has been told what this costs, ends the tasks at once."""
        self._at_once = self._explained
        self.interrupt()

    def run(self) -> Status:
        """Raises FencedError when another executor takes the run over, StoreError when storage fails."""
        claim = take_claim(
            self.place.objects, f"gapo-run-{os.getpid()}", socket.gethostname()[:100], self.clock()
        )
        self.storage.begin(claim)
        # Whoever starts a run again after a failure means that its cause is gone.
        self._forgiven = self.observer.ended()
        with own_folder(self.work) as self.scratch:
            try:
                while True:
                    plan = self._round()
                    over = plan.status.state in ENDED or self._interrupted
                    if over and not self.launched:
                        return plan.status
            finally:
                self._abandon()

    def _round(self) -> Plan:
        running = {launched.key for launched in self.launched.values()}
        plan = self.storage.plan(running, self._forgiven)
        self.view.planned(plan)
        if self._interrupted:
            self._stop_all()
            self._wait(TICK_SECONDS)
        elif not self._apply(plan) and (self.launched or plan.status.state not in ENDED):
            self._wait(TICK_SECONDS)
        return plan

    def _apply(self, plan: Plan) -> bool:
        """Carries the plan out; True where that changed what a new plan would see at once."""
        decision = self.storage.settle(plan)
        if decision is not None:
            self.view.decided(decision)
        if plan.rollout is not None or not (plan.decide or plan.revoke):
            # A decision lies between two tasks that may both sample; the next plan, made at once, says so.
            self._have_servers(plan)
        for task in plan.start:
            if plan.rollout is None or not KINDS[task.kind].samples or self.rollout.ready:
                self._start(task)
        for attempt in plan.stop:
            for launched in list(self.launched.values()):
                if launched.key == attempt:
                    self._stop(launched)
        return bool(plan.lost or plan.decide or plan.revoke)

    def _have_servers(self, plan: Plan) -> None:
        """Makes so what the plan wants of rollout servers."""
        place = {
            "uri": self.place.uri,
            "run_id": self.storage.facts.run_id,
            "endpoint": self.place.endpoint,
            "region": self.place.region,
        }
        threads = role_of(self.storage.facts.spec, Kind.PPO).threads
        self.rollout.want(plan.rollout, place, threads)
        if self.rollout.starting != self._serving:
            self._serving = self.rollout.starting
            self.view.rollout(*self._serving, self.rollout.log_of(0))

    def _start(self, task: Task) -> None:
        if not self.storage.hand_over(task):
            return  # another executor was first; the fence will say so
        writer = os.urandom(8).hex()
        scratch = self.scratch / f"{task.stage}-{task.kind.value}-{task.attempt}-{writer}"
        scratch.mkdir(parents=True)
        (scratch / "termination.json").write_bytes(b" " * TERMINATION_BYTES)
        resume = self.storage.resume_point(task)
        launched = Launched(task, writer, scratch, self.clock(), None if resume is None else resume.number)
        self.launched[launched.name] = launched
        self.server.launch(
            launched.name,
            {
                "run": self.place.uri,
                "endpoint": self.place.endpoint,
                "region": self.place.region,
                "task": layout.task(task.stage, task.kind.value, task.attempt),
                "sha256": sha256_of(task),
                "writer": writer,
                "claim": self.storage.claim,
                "scratch": str(scratch),
                "log": str(self.log_of(task)),
                "rollout": self.rollout.access if KINDS[task.kind].samples else None,
            },
        )
        self.view.started(launched)

    def log_of(self, task: Task) -> Path:
        """Where a task's own output goes."""
        return self.work / "logs" / f"{task.stage}-{task.kind.value}-{task.attempt}.log"

    def _stop_all(self) -> None:
        """Tells the user first what it takes, and what it would cost to hurry."""
        running, at_once = list(self.launched.values()), self._at_once
        if at_once and not self._hurried:
            self._hurried = True
            self.view.ending_at_once(running)
        elif not self._explained:
            self._explained = True
            self.view.stopping(running, self._grace)
        for launched in running:
            self._stop(launched, 0.0 if at_once else self._grace)

    def _stop(self, launched: Launched, grace: float | None = STOP_GRACE_SECONDS) -> None:
        asked = self._stopping.setdefault(launched.name, time.monotonic())
        overdue = grace is not None and time.monotonic() - asked >= grace
        self.server.stop(launched.name, kill=overdue)

    def _wait(self, seconds: float) -> None:
        if time.monotonic() - self._fenced_at > FENCE_SECONDS:
            self._fenced_at = time.monotonic()
            self.storage.fence.check()
        exited = self.server.wait(seconds)
        if exited is not None:
            self._ended(exited)
        self.view.tick(list(self.launched.values()))

    def _ended(self, exited: Exited) -> None:
        launched = self.launched.pop(exited.name, None)
        if launched is None:
            return
        stopped = self._stopping.pop(exited.name, None) is not None
        self._record_end(launched, exited.code, stopped)
        shutil.rmtree(launched.scratch, ignore_errors=True)

    def _record_end(self, launched: Launched, code: int | None, stopped: bool) -> None:
        task = launched.task
        termination = _termination(launched.scratch)
        reason, message = termination.get("reason"), None
        if code not in (0, None) and not stopped:
            message = f"ended by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            message += f"; its log is {self.log_of(task)}"
        exit_ = Exit(
            code=code,
            reason=reason,
            stopped=stopped,
            executor_lost=code is None,
            committed=code == 0 and self.storage.committed(task),
        )
        record = self.storage.record_end(
            task,
            ObservedEnd(
                exit_,
                started_at=launched.started_at,
                ended_at=self.clock(),
                termination=termination,
                message=message,
                resume_before=launched.resume_before,
            ),
        )
        self.view.ended(launched, record)
        if reason == DiskFullError.reason:
            raise DiskFullError(record.message or "the scratch folder's")
        for kind in ACCESS_ERRORS:
            if reason == kind.reason:
                raise kind(
                    f"{record.message or kind.reason}; put that right, then run the same command again"
                )

    def _abandon(self) -> None:
        """Leaves no process behind, whatever ended the loop; their ends are recorded by the next executor."""
        self.server.close()
        self.rollout.close()
        self.launched.clear()


def _termination(scratch: Path) -> dict[str, Any]:
    """What the task left of its end, as a pod does in its termination message."""
    try:
        termination = json.loads((scratch / "termination.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return termination if isinstance(termination, dict) else {}

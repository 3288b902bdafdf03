"""One look at a run's storage and what follows from it: the part of a pass that runs in a location's thread.

Nothing here calls Kubernetes. The Jobs that the cluster shows come in; which are to be created and deleted goes out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import gapo
from gapo.api.load import LoadedRun
from gapo.api.run import GapoRunSpec
from gapo.decision_rules.attempts import Exit
from gapo.errors import RunMovedError
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import Plan, RunFacts, State, Status
from gapo.reasons import Reason
from gapo.run.record import RunRecord, effective_spec, freeze, read_run_record
from gapo.run.storage import ObservedEnd, RunStorage
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd
from gapo.store.claims import adopt_claim, take_claim
from gapo.store.objects import Objects
from gapo.store.records import Decision
from gapo.tasks import Task, role_of
from gapo_operator.kube.job_states import AttemptJob, JobState
from gapo_operator.kube.pod_end import PREEMPTED_CODE
from gapo_operator.reconcile.attempt_memory import AttemptMemory
from gapo_operator.reconcile.deadlines import active_seconds, overdue, time_for_room
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.pending_backoff import PendingBackoff
from gapo_operator.render.threads import with_threads
from gapo_operator.run_metrics.live import LiveFigures

SLOTS = 8
"""Tasks of one run at a time; more never follow from a plan."""
NO_COMMIT_SECONDS = 60.0
"""How long after a Job's success its manifest may be looked for."""
UNCLEAR_SECONDS = 15.0
"""How long after a Job's failure its pod's last words may come: two watches deliver Jobs and pods."""
STOP_SECONDS = 2.0
"""After the deletion of a Job was asked for, until nothing seen of it means that it is gone."""
LINGER_SECONDS = 60.0
"""How long a process may live on after its commit."""

Clock = Callable[[], datetime]


class RunPass:
    """A run's storage between passes. Everything in it can be read again; losing it costs a few requests."""

    def __init__(self, uid: str, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.uid, self._clock, self._monotonic = uid, clock, monotonic
        self._driver: RunStorage | None = None
        self._record: RunRecord | None = None
        self._effective: tuple[LoadedRun, GapoRunSpec] | None = None
        self._handed_over: dict[AttemptKey, Task] = {}
        self._memories: defaultdict[AttemptKey, AttemptMemory] = defaultdict(AttemptMemory)
        self._adopted = False
        self._pending_backoff = PendingBackoff(monotonic)
        self._asked: GapoRunSpec | None = None
        self._asked_anew = False
        """It was changed, and no plan has been carried out since."""
        self._live_figures = LiveFigures(monotonic)

    def advance(
        self,
        objects: Objects,
        loaded: LoadedRun,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        image: str,
        waited: Mapping[str, float],
        *,
        has_begun: bool = False,
    ) -> Outcome:
        """Records what has ended, decides what is to be decided, hands over what is to be started. `has_begun`: the
        run has been read from storage before, so that it must be there.

        Raises FencedError where another executor drives the run, RunMovedError where a run that has begun is not
        there, SpecError where the run was begun with another identity, InputArtifactError for a record that nobody may
        believe, StoreError where storage fails.
        """
        # Read or begin the run; the spec in force is the frozen identity with what may change of the manifest as it is.
        driver, record = self._begun(objects, loaded, image, has_begun)
        driver.facts = RunFacts(loaded.run_id, self._spec(record, loaded))
        if self._asked is not loaded.spec and self._asked != loaded.spec:
            # Somebody has changed the manifest: what kept its pods from starting, or its tasks waiting, may be over.
            self._asked_anew = self._asked is not None
            self._asked = loaded.spec
            self._pending_backoff.reset()
        # What is new in storage and in the cluster since the last pass.
        self._poll(driver, attempt_jobs)
        self._remember(driver, attempt_jobs)
        ended: list[tuple[AttemptKey, AttemptEnd]] = []
        decisions: list[Decision] = []
        # Ends are recorded before the plan, which reads them; a decision or a revocation calls for another plan.
        while True:
            ended += self._record_ends(driver, attempt_jobs)
            plan = self._plan(driver, attempt_jobs, waited)
            decision = driver.settle(plan)
            if decision is not None:
                decisions.append(decision)
            if decision is None and not plan.revoke:
                break
        outcome = Outcome(
            plan, driver.observer.observation(), record, driver.claim, ended=ended, decisions=decisions
        )
        outcome.adopted, self._adopted = self._adopted, False
        # Hand over what is to start, and name the Jobs that must be there or must go.
        self._carry_out(driver, plan, attempt_jobs, outcome)
        self._asked_anew = False
        # What people are shown of it, and when to look again without an event.
        outcome.observation = driver.observer.observation(self._unended(driver))
        outcome.task_figures = self._live_figures.task_figures(driver, outcome.observation, attempt_jobs)
        outcome.figures = self._live_figures.figures(
            driver, loaded, plan.status, outcome.observation, attempt_jobs, outcome.task_figures
        )
        self._look_again(driver, plan, attempt_jobs, waited, outcome)
        return outcome

    def _look_again(
        self,
        driver: RunStorage,
        plan: Plan,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        waited: Mapping[str, float],
        outcome: Outcome,
    ) -> None:
        """Fills in when the run is due though no event comes: commits, the end of a pause, pods that wait too long."""
        outcome.polls = any(self._may_commit(attempt, attempt_jobs) for attempt in self._unended(driver))
        if self._pending_backoff.seconds_left() > 0:
            outcome.look_again(max(1.0, self._pending_backoff.seconds_left()))
        elif plan.status.state in (State.RUNNING, State.WAITING):
            wanted = {
                attempt: attempt_job
                for attempt, attempt_job in attempt_jobs.items()
                if attempt not in outcome.stop
            }
            for left in time_for_room(wanted, waited, driver.facts.spec.scheduling.pending_timeout):
                outcome.look_again(left)

    def _remember(self, driver: RunStorage, attempt_jobs: Mapping[AttemptKey, AttemptJob]) -> None:
        """Keeps what the cluster shows of each attempt without a recorded end, for a pass in which it shows it no more."""
        unended = set(self._unended(driver))
        for attempt in list(self._memories):
            if attempt not in unended:
                del self._memories[attempt]
                self._handed_over.pop(attempt, None)
        for attempt in unended:
            attempt_job, memory = attempt_jobs.get(attempt), self._memories[attempt]
            if attempt_job is not None:
                memory.observe(attempt_job)
            if attempt.task in driver.observer.observation().committed and memory.committed_since is None:
                memory.committed_since = self._monotonic()

    def _plan(
        self, driver: RunStorage, attempt_jobs: Mapping[AttemptKey, AttemptJob], waited: Mapping[str, float]
    ) -> Plan:
        """The planner's plan, unless a limit of the cluster's says that nothing of the run may run."""
        plan = driver.plan(self._unended(driver), asked_anew=self._asked_anew)
        if plan.status.state not in (State.RUNNING, State.WAITING):
            return plan
        held = self._held_up(driver, plan.status, attempt_jobs, waited)
        committed = driver.observer.observation().committed
        alive = [a for a in self._unended(driver) if a.task not in committed]
        if held is not None:
            return Plan(held, stop=tuple(alive))
        replaced = [a for a in alive if self._memories[a].superseded and a not in plan.stop]
        return replace(plan, stop=(*plan.stop, *replaced)) if replaced else plan

    def _held_up(
        self,
        driver: RunStorage,
        status: Status,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        waited: Mapping[str, float],
    ) -> Status | None:
        """The status of a run that may have no pods now: its tasks have run for as long as they may, or its pods found no
        room, and it holds back for a while. None where it may."""
        scheduling, backoff = driver.facts.spec.scheduling, self._pending_backoff
        limit = scheduling.active_deadline_seconds
        starts = [m.started_at for m in self._memories.values() if m.started_at is not None]
        used = active_seconds(driver.observer.observation(), starts, self._clock())
        if limit is not None and used > limit:
            message = (
                f"tasks ran {used:.0f} s of {limit} allowed; raise scheduling.activeDeadlineSeconds to go on"
            )
            return Status(State.FAILED, status.stage, Reason.DEADLINE_EXCEEDED, message)
        if any(attempt_job.state is JobState.RUNNING for attempt_job in attempt_jobs.values()):
            backoff.pods_run()
        late = overdue(attempt_jobs, waited, scheduling.pending_timeout)
        if late:
            backoff.give_back(late[0], scheduling.pending_timeout)
        if backoff.seconds_left() > 0:
            return Status(State.WAITING, status.stage, backoff.problem.reason, backoff.problem.message)
        return None

    def _begun(
        self, objects: Objects, loaded: LoadedRun, image: str, has_begun: bool
    ) -> tuple[RunStorage, RunRecord]:
        """RunStorage and record of the run: kept from pass to pass; at the first pass of this process read, or written where
        the run begins, with a claim by which no other executor drives it."""
        if self._driver is not None and self._record is not None:
            self._driver.use(objects)
            return self._driver, self._record
        stored_record, now, owner = read_run_record(objects), self._clock(), f"gaporun-{self.uid}"
        if stored_record is None and has_begun:
            raise RunMovedError(
                f"the run has begun, and there is no {layout.RUN} of it in storage location {objects.where} now; its "
                "folder was removed, or the location leads elsewhere: put that right, and it goes on. To begin anew, "
                "delete the GapoRun and apply it again"
            )
        record = freeze(objects, loaded, version=gapo.__version__, now=now, default_image=image)
        fresh = stored_record is None and record.created_at == now
        facts = RunFacts(loaded.run_id, self._spec(record, loaded))
        claim = (take_claim if fresh else adopt_claim)(objects, owner, "cluster", now)
        driver = RunStorage(facts, objects, clock=self._clock, slots=SLOTS)
        driver.begin(claim, fresh=fresh)
        self._adopted = stored_record is not None and claim.number > 0
        self._driver, self._record = driver, record
        return driver, record

    def _spec(self, record: RunRecord, loaded: LoadedRun) -> GapoRunSpec:
        """`loaded` is the same object for as long as the manifest is the same."""
        if self._effective is None or self._effective[0] is not loaded:
            self._effective = (loaded, effective_spec(record, loaded.spec))
        return self._effective[1]

    def _task(self, driver: RunStorage, attempt: AttemptKey) -> Task:
        """What was handed over for an attempt; it never changes, and is read once."""
        if attempt not in self._handed_over:
            self._handed_over[attempt] = driver.handed_over(attempt)
        return self._handed_over[attempt]

    def _unended(self, driver: RunStorage) -> list[AttemptKey]:
        """Attempts that were handed over and whose end is not recorded: running, or to be run."""
        return [
            AttemptKey(key, attempt.number)
            for key, attempts in sorted(driver.observer.observation().attempts.items())
            for attempt in attempts
            if attempt.ended is None
        ]

    def _poll(self, driver: RunStorage, attempt_jobs: Mapping[AttemptKey, AttemptJob]) -> None:
        """Looks for the manifests that are waited for: a commit counts before its Job has ended."""
        for attempt in self._unended(driver):
            if self._may_commit(attempt, attempt_jobs):
                driver.observer.poll(attempt.task)

    def _may_commit(self, attempt: AttemptKey, attempt_jobs: Mapping[AttemptKey, AttemptJob]) -> bool:
        """Whether its pod runs or has run. While it waits for room there is nothing to look for, however long that
        takes; what earlier processes left was read at the start."""
        attempt_job, memory = attempt_jobs.get(attempt), self._memories[attempt]
        if attempt_job is None:
            return memory.has_job
        return attempt_job.state not in (JobState.QUEUED, JobState.PENDING) or memory.started_at is not None

    def _record_ends(
        self, driver: RunStorage, attempt_jobs: Mapping[AttemptKey, AttemptJob]
    ) -> list[tuple[AttemptKey, AttemptEnd]]:
        """Records the end of each attempt that the cluster shows to be over, or shows no more."""
        recorded = []
        for attempt in self._unended(driver):
            attempt_job, memory = attempt_jobs.get(attempt), self._memories[attempt]
            committed = attempt.task in driver.observer.observation().committed
            end = None
            if attempt_job is not None and attempt_job.over:
                end = self._record_end(driver, attempt, attempt_job)
            elif attempt_job is None and committed:
                end = self._record_gone(driver, attempt, Exit(committed=True))
            elif attempt_job is None and memory.has_job and not memory.deletion_requested:
                # Somebody else deleted its Job: that took its pod away, where that had begun.
                exit_ = Exit(code=PREEMPTED_CODE) if memory.begun else Exit(never_ran=True)
                end = self._record_gone(driver, attempt, exit_, "its Job was deleted")
            if end is not None:
                recorded.append((attempt, end))
        return recorded

    def _record_end(
        self, driver: RunStorage, attempt: AttemptKey, attempt_job: AttemptJob
    ) -> AttemptEnd | None:
        """None while a manifest, or the pod that says what happened, may still show."""
        task, memory = self._task(driver, attempt), self._memories[attempt]
        committed = driver.committed(task)
        if not committed and attempt_job.exit is None:
            patience = NO_COMMIT_SECONDS if attempt_job.state is JobState.SUCCEEDED else UNCLEAR_SECONDS
            if memory.doubtful_since is None:
                memory.doubtful_since = self._monotonic()
            if self._monotonic() - memory.doubtful_since < patience:
                return None
        unclear = Exit(code=0 if attempt_job.state is JobState.SUCCEEDED else PREEMPTED_CODE)
        exit_ = attempt_job.exit or unclear
        exit_ = replace(exit_, committed=committed)
        now = self._clock()
        end = ObservedEnd(
            exit_,
            started_at=attempt_job.started_at or now,
            ended_at=attempt_job.ended_at or now,
            termination=attempt_job.termination_message,
            message=None if committed else attempt_job.message,
            resume_before=self._resume_before(driver, attempt),
            gpus=gpus_of(task, driver),
        )
        return driver.record_end(task, end)

    def _record_stopped(self, driver: RunStorage, attempt: AttemptKey) -> AttemptEnd:
        """Of an attempt whose Job went as this operator asked; not charged."""
        if self._memories[attempt].superseded:
            exit_ = Exit(stopped=True, reason=Reason.TASK_REPLACED)
            return self._record_gone(
                driver, attempt, exit_, "what is asked of it changed before it had begun"
            )
        return self._record_gone(driver, attempt, Exit(stopped=True))

    def _record_gone(
        self, driver: RunStorage, attempt: AttemptKey, exit_: Exit, message: str | None = None
    ) -> AttemptEnd:
        """An attempt of which the cluster shows nothing any more: it ran from when that was seen until now."""
        task, now, started = self._task(driver, attempt), self._clock(), self._memories[attempt].started_at
        end = ObservedEnd(
            exit_,
            started_at=started or now,
            ended_at=now,
            message=message,
            resume_before=self._resume_before(driver, attempt),
            gpus=gpus_of(task, driver) if started is not None else 0,
        )
        return driver.record_end(task, end)

    def _carry_out(
        self, driver: RunStorage, plan: Plan, attempt_jobs: Mapping[AttemptKey, AttemptJob], outcome: Outcome
    ) -> None:
        """Fills in the outcome: which Jobs are to be there, which are to go, and when to look at them again."""
        stopped, unended = set(plan.stop), self._unended(driver)
        for attempt in unended:
            attempt_job, memory = attempt_jobs.get(attempt), self._memories[attempt]
            committed = attempt.task in driver.observer.observation().committed
            if attempt in stopped and attempt_job is None and memory.deletion_requested:
                # Its Job is gone, as was asked: the attempt has ended.
                outcome.ended.append((attempt, self._record_stopped(driver, attempt)))
                if memory.superseded:
                    outcome.look_again(0.0)  # another follows, by a plan that knows of this end
            elif attempt in stopped:
                # Also where no Job is seen: one may be there that the watch has not delivered yet.
                memory.deletion_requested = True
                outcome.stop.append(attempt)
                outcome.look_again(STOP_SECONDS)
            elif committed and attempt_job is not None and not attempt_job.over:
                if self._lingers(memory, plan.status):
                    outcome.stop.append(attempt)
                outcome.look_again(LINGER_SECONDS / 2)
            elif attempt_job is None and not committed:
                # Handed over, and no Job of it is there: the cluster refused it, or the operator ended between the two.
                memory.deletion_requested = False
                outcome.create.append(self._task(driver, attempt))
            elif attempt_job is not None and attempt_job.over:
                # Its end is not recorded yet: a manifest or the pod's last words may still come.
                outcome.look_again(UNCLEAR_SECONDS / 2)
        for attempt, attempt_job in attempt_jobs.items():
            if attempt not in unended and not attempt_job.over:
                # Its end is recorded: whatever still runs there runs for nothing.
                outcome.stop.append(attempt)
        for task in plan.start:
            threaded = with_threads(task, driver.facts.spec)
            if driver.hand_over(threaded):
                self._handed_over[AttemptKey(threaded.key, threaded.attempt)] = threaded
                outcome.create.append(threaded)

    def _lingers(self, memory: AttemptMemory, status: Status) -> bool:
        """A process that has committed and does not end keeps its devices: it had its time."""
        if status.state is State.SUSPENDED:
            return True
        since = memory.committed_since
        return since is not None and self._monotonic() - since > LINGER_SECONDS

    def _resume_before(self, driver: RunStorage, attempt: AttemptKey) -> int | None:
        """The newest resume point of earlier attempts: what this one could start from."""
        earlier = driver.observer.observation().attempts.get(attempt.task, ())
        points = [
            a.ended.last_resume
            for a in earlier
            if a.number < attempt.attempt and a.ended is not None and a.ended.last_resume is not None
        ]
        return max(points, default=None)


def gpus_of(task: Task, driver: RunStorage) -> int:
    """Whole devices that an attempt's pod holds: every extended resource whose name ends in /gpu."""
    limits = role_of(driver.facts.spec, task.kind).resources.limits
    return sum(int(amount) for name, amount in limits.items() if name.endswith("/gpu") and amount.isdigit())

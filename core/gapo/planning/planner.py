"""`plan`: which task comes next, from what storage already holds. Pure: no clock, no randomness, no I/O.

The stage is never stored. It is found again on every call by walking the recipe from stage 0 along the committed
manifests and decisions, so a plan made after a crash at any point is the plan that the crash interrupted.

The walk:

    start(spec)                    the tasks of stage 0: data, supervised start, first reward model
    for k = 1, 2, ...:
        learn(spec, lineage_k)     the tasks that lead to decision k: the generator's, then its evaluation
        decision k                 from committed metrics; created once, by whoever comes first
        retrain(spec, lineage_k)   the tasks that follow "continue": the reward model's
        lineage_{k+1}              builds on stage k, or on an older one where decision k rolled back
    export                         of the best stage, when a decision ends the run or k is the last

At each group of tasks, for each task T with inputs I:

    committed(T)?                  its inputs and digest must be this run's; otherwise the run stalls
    all of I committed?            otherwise T waits
    an attempt of T runs?          nothing to do
    the last attempt found an      the input's manifest is revoked, and made again with the next generation,
      input corrupt?                 and whatever was made from it after it
    otherwise                      the retry policy says: start the next attempt, wait until a time, or fail

The walk stops at the first group that is not all committed. Attempts that run and that it did not want are stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gapo.api.methods import METHODS
from gapo.api.run import GapoRunSpec
from gapo.decision_rules.retries import RetrySettings, Start, Wait, free_ends, next_attempt
from gapo.decision_rules.rollback import Changes
from gapo.digest import digest
from gapo.planning.observation import AttemptKey, Committed, Observation, ObservedAttempt
from gapo.planning.plan import Plan, Revocation, RolloutServers, RunFacts, State, Status
from gapo.planning.stage_decision import change_at, change_params, choose_best, decide, lineage_of
from gapo.reasons import Reason
from gapo.recipes import Lineage, Recipe, Step, recipe_for
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import KINDS, Kind, Task, TaskKey, role_of, task_digest


class _Failed(Exception):  # noqa: N818  (ends the walk; not an error of the planner)
    def __init__(self, state: State, reason: str, message: str) -> None:
        super().__init__(message)
        self.state, self.reason, self.message = state, reason, message


@dataclass
class _Walk:
    """One pass over the recipe. Collects what is missing, and ends at the first group with a gap."""

    run: RunFacts
    observation: Observation
    now: datetime
    slots: int
    asked_anew: bool = False
    start: list[Task] = field(default_factory=list)
    revoke: list[Revocation] = field(default_factory=list)
    waiting_for: list[TaskKey] = field(default_factory=list)
    wake_at: datetime | None = None
    wanted: set[TaskKey] = field(default_factory=set)
    running: set[AttemptKey] = field(default_factory=set)
    retry_reason: str | None = None

    def all_done(self, steps: Iterable[Step], change: Changes | None = None) -> bool:
        """True when every step is committed; otherwise starts those whose inputs are."""
        done = [self._done(step, change) for step in steps]
        return all(done)

    def _done(self, step: Step, change: Changes | None) -> bool:
        if step.key in self.observation.problems:
            raise _Failed(State.STALLED, Reason.FOREIGN_MANIFEST, self.observation.problems[step.key])
        # An input counts only while nothing has voided it in this very walk.
        inputs = {name: self.observation.committed.get(key) for name, key in step.inputs.items()}
        ready = all(
            c is not None and key not in self._void()
            for key, c in zip(step.inputs.values(), inputs.values(), strict=True)
        )
        refs = {name: c.ref for name, c in inputs.items() if c is not None}
        committed = self.observation.committed.get(step.key)
        if committed is not None and not ready:
            return False  # an input was voided; the walk has it already among what is waited for
        if committed is not None:
            return self._is_ours(step, committed, refs, change)
        self.waiting_for.append(step.key)
        self.wanted.add(step.key)
        if ready:
            self._attempt(step, refs, change)
        return False

    def _void(self) -> set[TaskKey]:
        return {revocation.task for revocation in self.revoke}

    def _is_ours(
        self, step: Step, committed: Committed, refs: Mapping[str, ManifestRef], change: Changes | None
    ) -> bool:
        if dict(committed.inputs) != dict(refs):
            if self._revoked_ancestor(step):
                self.revoke.append(Revocation(step.key, committed.generation, "an input was revoked"))
                self.waiting_for.append(step.key)
                return False
            raise _Failed(
                State.STALLED,
                Reason.FOREIGN_MANIFEST,
                f"{committed.ref.key}: made from other inputs than this run's",
            )
        if committed.task_digest != self._expected_digest(step.key, refs, change):
            raise _Failed(
                State.STALLED,
                Reason.FOREIGN_MANIFEST,
                f"{committed.ref.key}: made by another task than this run's; give the run another spec.runID",
            )
        return True

    def _revoked_ancestor(self, step: Step) -> bool:
        return any(self.observation.revoked.get(key, 0) > 0 for key in step.inputs.values())

    def _expected_digest(self, key: TaskKey, refs: Mapping[str, ManifestRef], change: Changes | None) -> str:
        params, seed = self._params(key, change)
        params_digest = self.run.params_digests[key.kind] if seed is None else digest(params)
        return task_digest(
            self.run.run_id, key, refs, params_digest, self.run.spec.seed if seed is None else seed
        )

    def _params(self, key: TaskKey, change: Changes | None) -> tuple[dict[str, Any], int | None]:
        """The task's parameters, and its seed where a rollback changed both."""
        params = dict(self.run.params[key.kind])
        if change is None or key.stage == 0 or not KINDS[key.kind].commits_generator:
            return params, None
        params["change"] = change_params(change)
        return params, self.run.spec.seed + change.seed_offset

    def _task(
        self, step: Step, refs: Mapping[str, ManifestRef], change: Changes | None, *, attempt: int
    ) -> Task:
        spec, key = self.run.spec, step.key
        params, seed = self._params(key, change)
        return Task(
            run_id=self.run.run_id,
            stage=key.stage,
            kind=key.kind,
            generation=self.observation.revoked.get(key, 0),
            inputs=dict(refs),
            params=params,
            seed=spec.seed if seed is None else seed,
            attempt=attempt,
            threads=role_of(spec, key.kind).threads,
            checkpoint_interval=spec.checkpoint.interval,
        )

    def _attempt(self, step: Step, refs: Mapping[str, ManifestRef], change: Changes | None) -> None:
        attempts = self.observation.attempts.get(step.key, ())
        # One attempt of a task at a time.
        running = [a for a in attempts if a.running and a.ended is None]
        if running:
            self.running.update(AttemptKey(step.key, a.number) for a in running)
            return
        if any(a.ended is None for a in attempts):
            return  # its end is recorded first (Plan.lost)
        # A corrupt input is made again before anybody tries to read it again.
        self._revoke_bad_input(step, attempts)
        if self.revoke:
            return
        # An attempt that has committed needs no successor, unless its commit was voided since.
        spec = self.run.spec
        commits = sum(a.ended is not None and a.ended.cause is Cause.COMMITTED for a in attempts)
        if commits > self.observation.revoked.get(step.key, 0):
            return  # a stale view: the manifest is there and will be seen
        ended = [
            a.ended for a in attempts if a.ended is not None and not a.forgiven and not self._superseded(a)
        ]
        # What is left are failures and free ends, in order: the retry policy decides by them alone.
        verdict = next_attempt(
            _renumbered(ended),
            RetrySettings(max_failures=spec.scheduling.max_failures),
            kind=step.key.kind.value,
            now=self.now,
            free_elsewhere=self._free_elsewhere(step.key),
            asked_anew=self.asked_anew,
        )
        if isinstance(verdict, Start):
            busy = sum(a.running for group in self.observation.attempts.values() for a in group)
            if busy + len(self.start) < self.slots:
                self.start.append(self._task(step, refs, change, attempt=len(attempts)))
        elif isinstance(verdict, Wait):
            self.wake_at = min(verdict.until, self.wake_at or verdict.until)
            self.retry_reason = verdict.reason
        else:
            raise _Failed(State.FAILED, verdict.reason, verdict.message)

    def _superseded(self, attempt: ObservedAttempt) -> bool:
        """An end that a revocation of its input has answered: it says nothing about the task as it is now."""
        return attempt.bad_input is not None and not any(
            c.ref.key == attempt.bad_input for c in self.observation.committed.values()
        )

    def _revoke_bad_input(self, step: Step, attempts: tuple[ObservedAttempt, ...]) -> None:
        for attempt in attempts:
            if attempt.bad_input is None or self._superseded(attempt):
                continue
            for key, committed in self.observation.committed.items():
                if committed.ref.key != attempt.bad_input:
                    continue
                if committed.generation > 0:
                    if attempt.forgiven:
                        continue
                    message = (
                        f"{committed.ref.key} is corrupt again after it was made anew; check the storage"
                    )
                    raise _Failed(State.STALLED, Reason.INPUT_CORRUPT, message)
                evidence = f"attempt {attempt.number} of {step.key} found it corrupt"
                self.revoke.append(Revocation(key, committed.generation, evidence))

    def _free_elsewhere(self, key: TaskKey) -> int:
        return sum(
            free_ends([a.ended for a in attempts if a.ended is not None])
            for other, attempts in self.observation.attempts.items()
            if other.stage == key.stage and other != key
        )


def plan(
    run: RunFacts, observation: Observation, now: datetime, *, slots: int = 1, asked_anew: bool = False
) -> Plan:
    """The next actions for a run.

    `slots` bounds the attempts that run at once: 1 on a laptop. `now` serves back-off alone. `asked_anew`: the
    manifest has just been changed, so that what a task waits for may be there now.
    """
    lost = tuple(
        AttemptKey(key, a.number)
        for key, attempts in sorted(observation.attempts.items())
        for a in attempts
        if a.ended is None and not a.running
    )
    alive = {
        AttemptKey(key, a.number)
        for key, attempts in observation.attempts.items()
        for a in attempts
        if a.running and a.ended is None and key not in observation.committed
    }
    # A suspended run keeps its ends recorded, and nothing else happens.
    if run.spec.suspend:
        status = Status(
            State.SUSPENDED,
            _newest_stage(observation),
            Reason.SUSPENDED,
            "spec.suspend is true; nothing runs",
        )
        return Plan(status, stop=tuple(sorted(alive)), lost=lost)
    walk = _Walk(run, observation, now, slots, asked_anew)
    try:
        status, decision = _advance(walk, recipe_for(run.spec))
    except _Failed as failed:
        status = Status(failed.state, _newest_stage(observation), failed.reason, failed.message)
        return Plan(status, stop=tuple(sorted(alive)), lost=lost)
    # What runs and is not on the way to the next gap was begun before a rollback or a revocation.
    obsolete = tuple(sorted(a for a in alive if a.task not in walk.wanted))
    return Plan(
        status,
        start=() if walk.revoke else tuple(walk.start),
        stop=obsolete,
        lost=lost,
        decide=decision,
        revoke=tuple(walk.revoke),
        wake_at=walk.wake_at,
        rollout=_rollout_servers(walk, status),
    )


def _rollout_servers(walk: _Walk, status: Status) -> RolloutServers | None:
    """The servers that the run wants now: while a task samples, is to begin or to be tried again, or, where they are held
    for the run, from the first such task to the run's end."""
    rollout = walk.run.spec.rollout
    if rollout.engine != "vllm" or status.state not in (State.RUNNING, State.WAITING):
        return None
    tried = set(walk.observation.attempts)
    at_work = {task.key for task in walk.start} | {attempt.task for attempt in walk.running}
    at_work |= tried if rollout.hold == "run" else tried & set(status.waiting_for)
    if not any(KINDS[key.kind].samples for key in at_work):
        return None
    # All of a run's generators have one architecture; the first is never retired.
    generators = [key for key in walk.observation.committed if KINDS[key.kind].commits_generator]
    return RolloutServers(rollout.replicas, walk.observation.committed[min(generators)].ref)


def _advance(walk: _Walk, recipe: Recipe) -> tuple[Status, Decision | None]:
    """Walks from stage 0 to the first thing that is missing."""
    spec, observation = walk.run.spec, walk.observation
    # Stage 0.
    start_steps = recipe.start(spec)
    lineage = first_lineage(spec, start_steps)
    if not walk.all_done(start_steps):
        return _running(walk, 0), None
    if spec.stages.max == 0:
        return _export(walk, recipe, lineage, 0)
    while True:
        # The generator learns, and is evaluated.
        change = change_at(lineage.stage, observation.decisions)
        if not walk.all_done(recipe.learn(spec, lineage), change):
            return _running(walk, lineage.stage), None
        # What follows depends on the decision; without one, it is made now.
        decision = observation.decisions.get(lineage.stage)
        if decision is None:
            decision = decide(walk.run.run_id, spec, observation, lineage)
            return _running(walk, lineage.stage), decision
        # The reward model learns from this stage only if another one follows, or it was asked for.
        last = lineage.stage >= spec.stages.max
        ends = decision.verdict in ("converged", "stopped") or last
        goes_on = decision.verdict == "continue" and (not last or spec.adversarial.final_rm)
        if goes_on and not walk.all_done(recipe.retrain(spec, lineage), change):
            return _running(walk, lineage.stage), None
        if ends:
            return _export(walk, recipe, lineage, lineage.stage)
        lineage = _next_lineage(lineage, observation)


def _export(walk: _Walk, recipe: Recipe, lineage: Lineage, stage: int) -> tuple[Status, None]:
    """Commits the best stage's generator, then the run has succeeded."""
    best = choose_best(walk.run.spec, walk.observation, lineage, stage)
    key = TaskKey(stage, Kind.EXPORT)
    step = Step(
        key,
        {
            "data": TaskKey(0, Kind.DATA),
            "generator": recipe.generator_at(best, lineage),
            "last": recipe.generator_at(stage, lineage),
            "start": lineage.start,
        },
    )
    if not walk.all_done([step]):
        return _running(walk, stage, best), None
    reason: str = Reason.STAGES_COMPLETED
    why = f"all {walk.run.spec.stages.max} stages are done"
    decision = walk.observation.decisions.get(stage)
    if decision is not None and decision.verdict == "converged":
        reason, why = Reason.CONVERGED, f"converged at stage {stage}: {decision.reason}"
    elif decision is not None and decision.verdict == "stopped":
        reason, why = Reason.STOPPED, f"stopped at stage {stage}: {decision.reason}"
    message = f"{why}; exported stage {best}"
    return Status(State.SUCCEEDED, stage, reason, message, best_stage=best), None


def _running(walk: _Walk, stage: int, best: int | None = None) -> Status:
    waiting = tuple(walk.waiting_for)
    if walk.wake_at is not None and not walk.start and not walk.running:
        return Status(State.WAITING, stage, Reason.BACK_OFF, walk.retry_reason or "", best, waiting)
    message = "waiting for " + ", ".join(map(str, waiting)) if waiting else f"deciding stage {stage}"
    return Status(State.RUNNING, stage, Reason.RUNNING, message, best, waiting)


def first_lineage(spec: GapoRunSpec, steps: tuple[Step, ...]) -> Lineage:
    """What stage 1 builds on, after the recipe's steps of stage 0."""
    keys = [step.key for step in steps]
    rewarded = spec.reward_model is not None and spec.reward_model.source == "rewardModel"
    reward_models = [key for key in keys if KINDS[key.kind].commits_reward_model]
    return Lineage(
        stage=1,
        ancestors=(0,),
        start=next(key for key in keys if KINDS[key.kind].commits_generator),
        rm_start=reward_models[0] if rewarded and reward_models and METHODS[spec.method].has_reward else None,
        evaluated=(0,) if any(key.kind is Kind.EVALUATE for key in keys) else (),
    )


def _next_lineage(lineage: Lineage, observation: Observation) -> Lineage:
    stage = lineage.stage + 1
    ancestors = lineage_of(stage, observation.decisions)[:-1]
    evaluated = tuple(k for k in ancestors if TaskKey(k, Kind.EVALUATE) in observation.committed)
    return Lineage(stage, ancestors, lineage.start, lineage.rm_start, evaluated)


def _newest_stage(observation: Observation) -> int:
    return max((key.stage for key in (*observation.committed, *observation.attempts)), default=0)


def _renumbered(ended: Iterable[AttemptEnd]) -> list[AttemptEnd]:
    """Attempts 0, 1, 2, … as the retry policy wants them, where a revocation has answered some."""
    return [end.model_copy(update={"attempt": n}) for n, end in enumerate(ended)]

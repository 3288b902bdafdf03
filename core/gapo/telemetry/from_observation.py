"""From what an executor has seen to the figures of its run. Pure: the laptop's and the cluster's are the same."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from gapo.api.run import GapoRunSpec
from gapo.metrics.figures import RunFigures
from gapo.planning.observation import AttemptKey, Observation
from gapo.planning.plan import State, Status
from gapo.planning.stage_decision import best_now, committed_stages, guard_hits, rollbacks_of, stage_metrics
from gapo.tasks import KINDS, Kind

_NONE: Mapping[AttemptKey, datetime] = {}


def figures_of(
    namespace: str,
    run: str,
    spec: GapoRunSpec,
    observation: Observation,
    status: Status,
    *,
    state: str | None = None,
    progress: float | None = None,
    remaining_seconds: float | None = None,
    started: Mapping[AttemptKey, datetime] = _NONE,
    conditions: Mapping[str, str] | None = None,
) -> RunFigures:
    """A run's figures, from committed records and what is known of its processes.

    `status` is the planner's and `state` the word that users see where it says more. `started` has the attempts that
    run now, with the time at which each began: what has not ended has left no record of it.
    """
    exports = sorted(key for key in observation.committed if key.kind is Kind.EXPORT)
    commits = [c.finished_at.timestamp() for c in observation.committed.values() if c.finished_at is not None]
    kl = spec.guards.kl
    return RunFigures(
        namespace=namespace,
        run=run,
        state=state or ("Pending" if status.state is State.WAITING else status.state.value),
        stages={k: stage_metrics(observation, k) for k in committed_stages(observation)},
        stage=status.stage,
        stages_max=spec.stages.max,
        best_stage=status.best_stage
        if status.best_stage is not None
        else best_now(spec, observation, status.stage),
        progress=progress,
        remaining_seconds=remaining_seconds,
        last_commit=max(commits, default=None),
        stage_started=_stage_started(observation, status.stage, started),
        kl_limit=None if kl.action == "off" else kl.nats_per_token,
        guard_hits=guard_hits(spec, observation),
        rollbacks=len(rollbacks_of(observation.decisions)),
        attempts_ended=_attempts_ended(observation),
        gpu_seconds=_gpu_seconds(observation),
        test=dict(observation.committed[exports[-1]].metrics) if exports else {},
        conditions=dict(conditions or {}),
    )


def _stage_started(
    observation: Observation, stage: int, started: Mapping[AttemptKey, datetime]
) -> float | None:
    ended = [
        attempt.ended.started_at
        for key, attempts in observation.attempts.items()
        for attempt in attempts
        if key.stage == stage and attempt.ended is not None
    ]
    live = [at for attempt, at in started.items() if attempt.task.stage == stage]
    return min((at.timestamp() for at in (*ended, *live)), default=None)


def _attempts_ended(observation: Observation) -> dict[str, int]:
    counts: dict[str, int] = {}
    for attempts in observation.attempts.values():
        for attempt in attempts:
            if attempt.ended is not None:
                cause = attempt.ended.cause.value
                counts[cause] = counts.get(cause, 0) + 1
    return counts


def _gpu_seconds(observation: Observation) -> dict[str, float]:
    held: dict[str, float] = {}
    for key, attempts in sorted(observation.attempts.items()):
        for attempt in attempts:
            end = attempt.ended
            if end is not None:
                role = KINDS[key.kind].role
                seconds = (end.ended_at - end.started_at).total_seconds()
                held[role] = held.get(role, 0.0) + end.gpus * seconds
    return held

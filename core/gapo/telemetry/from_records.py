"""The figures of a run that has ended, from the few records that say it all: no scan of its storage."""

from __future__ import annotations

from datetime import datetime

from gapo.api.run import GapoRunSpec
from gapo.api.status import GapoRunStatus
from gapo.metrics.figures import RunFigures
from gapo.metrics.samples import DURATION
from gapo.planning.stage_decision import together
from gapo.store import layout
from gapo.store.commit import find_manifest
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision, Manifest
from gapo.tasks import KINDS, Kind

RETRAINING = tuple(kind for kind, task in KINDS.items() if task.in_stages and task.commits_reward_model)
"""Kinds that may follow the last decision."""


def figures_at_rest(
    objects: Objects, namespace: str, run: str, spec: GapoRunSpec, status: GapoRunStatus
) -> RunFigures | None:
    """A succeeded run's figures for two GETs and the look whether the export was revoked; one more of each where the
    reward model was trained once more after the last decision.

    Series of stages are those of a full scan; what attempts took and guards saw is the status's word. None where the
    run ended in another way, has no adversarial stage, or ended under a release that kept less: then only a scan
    tells. Raises InputArtifactError for a record that nobody may believe, StoreError where storage fails.
    """
    last = status.stage
    usage = status.usage
    if status.state != "Succeeded" or not last or status.run_id is None or usage is None:
        return None
    decision = read_record(objects, layout.decision(last), Decision)
    if decision is None or DURATION not in decision.metrics.get(last, {}):
        return None
    export = _manifest(objects, last, Kind.EXPORT, status.run_id)
    if export is None:
        return None
    stages = dict(decision.metrics)
    if decision.verdict == "continue" and spec.adversarial.final_rm:
        retrained = [_manifest(objects, last, kind, status.run_id) for kind in RETRAINING]
        stages[last] = together([stages[last], *(m.metrics for m in retrained if m is not None)])
    kl = spec.guards.kl
    return RunFigures(
        namespace=namespace,
        run=run,
        state=status.state,
        stages=stages,
        stage=last,
        stages_max=spec.stages.max,
        best_stage=int(export.metrics["export/stage"])
        if "export/stage" in export.metrics
        else status.best_stage,
        progress=1.0,
        last_commit=export.finished_at.timestamp(),
        stage_started=_epoch(usage.stage_start_time),
        kl_limit=None if kl.action == "off" else kl.nats_per_token,
        guard_hits=usage.guard_hits,
        rollbacks=usage.rollbacks,
        attempts_ended=usage.attempts,
        gpu_seconds=usage.gpu_seconds,
        test=dict(export.metrics),
        conditions={condition.type: condition.status for condition in status.conditions},
    )


def _epoch(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()


def _manifest(objects: Objects, stage: int, kind: Kind, run_id: str) -> Manifest | None:
    lookup = find_manifest(objects, stage, kind.value, run_id=run_id)
    return lookup.committed.manifest if lookup.committed else None

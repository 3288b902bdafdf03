"""What GapoRun.status keeps of a run's figures, and the figures that follow from a status again. Pure.

How many attempts a run took, and for how long they held GPUs, is in records all over its folder. The status
keeps the sums, so that an operator that starts needs not read the folders of runs that have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.api.status import GapoRunStatus, Usage
from gapo.metrics.catalogue import METRICS
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.planning.observation import AttemptKey
from gapo.tasks import KINDS

FINISHED = ("Succeeded", "Failed")
"""States in which nothing of a run changes any more."""
SHOWN = tuple(metric.source for metric in METRICS if metric.live)
"""Figures of a running task that a status has."""


def summary_of(figures: RunFigures) -> dict[str, Any]:
    """The part of a status that follows from the figures of the whole run."""
    done, left = figures.progress, figures.remaining_seconds
    usage = Usage(
        attempts=dict(figures.attempts_ended),
        gpu_seconds=dict(figures.gpu_seconds),
        rollbacks=figures.rollbacks,
        guard_hits=dict(figures.guard_hits),
        stage_start_time=_text(figures.stage_started),
        last_commit_time=_text(figures.last_commit),
    )
    return {
        "progressPercentage": None if done is None else int(100 * done),
        "estimatedRemainingSeconds": None if left is None else round(left),
        "usage": usage,
    }


def trainer_status(
    task_figures: Mapping[AttemptKey, TaskFigures], before: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """`status.trainerStatus`: the one that is there where only the time would be another, for nobody could see more."""
    if not task_figures:
        return None
    attempt = min(task_figures, key=lambda one: (-KINDS[one.task.kind].weight, one))
    figures = task_figures[attempt]
    done, left = figures.progress_percentage, figures.estimated_remaining_seconds
    trainer = {
        "progressPercentage": None if done is None else int(done),
        "estimatedRemainingSeconds": None if left is None else round(left),
        "metrics": [
            {"name": name, "value": f"{figures.metrics[name]:.6g}"}
            for name in SHOWN
            if name in figures.metrics
        ],
    }
    trainer = {name: value for name, value in trainer.items() if value is not None}
    if before is not None and {k: v for k, v in before.items() if k != "lastUpdatedTime"} == trainer:
        return before
    return (
        trainer
        if figures.last_updated is None
        else {**trainer, "lastUpdatedTime": _text(figures.last_updated)}
    )


def figures_of_status(
    namespace: str, run: str, status: GapoRunStatus, spec: GapoRunSpec | None
) -> RunFigures:
    """What a status alone tells: no stage's metrics, for there they are rounded."""
    kl = None if spec is None else spec.guards.kl
    figures = RunFigures(
        namespace=namespace,
        run=run,
        state=status.state or "Pending",
        stage=status.stage or 0,
        stages_max=0 if spec is None else spec.stages.max,
        best_stage=status.best_stage,
        progress=None if status.progress_percentage is None else status.progress_percentage / 100,
        kl_limit=None if kl is None or kl.action == "off" else kl.nats_per_token,
        conditions=conditions_of(status),
    )
    return with_usage(figures, status)


def with_usage(figures: RunFigures, status: GapoRunStatus) -> RunFigures:
    """The figures with the sums that the status keeps."""
    usage = status.usage
    if usage is None:
        return figures
    return replace(
        figures,
        attempts_ended=dict(usage.attempts),
        gpu_seconds=dict(usage.gpu_seconds),
        rollbacks=usage.rollbacks,
        guard_hits=dict(usage.guard_hits),
        stage_started=_seconds(usage.stage_start_time),
        last_commit=_seconds(usage.last_commit_time),
    )


def conditions_of(status: GapoRunStatus) -> dict[str, str]:
    """Type → status."""
    return {condition.type: condition.status for condition in status.conditions}


def _text(seconds: float | None) -> str | None:
    """RFC 3339, to the microsecond: what is read again is what was written."""
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    )


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None

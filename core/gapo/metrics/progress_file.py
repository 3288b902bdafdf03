"""progress.json as its readers take it: what a running task tells of itself. Nothing is ever decided on it.

The writer is a task's process (`gapo_trainer.runtime.progress`); whoever may write below the run's prefix may have written
anything. So it is bounded, strict, and counts only where it carries the run's ID and the task's digest.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from gapo.metrics.figures import TaskFigures

PROGRESS_LIMIT = 64 * 1024
"""Bytes that are read of a progress.json."""


class _Part(BaseModel):
    """What a later release adds is passed over."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, alias_generator=to_camel, allow_inf_nan=False
    )


class _Metric(_Part):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    value: Annotated[
        str, StringConstraints(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$", max_length=64)
    ]


class _Progress(_Part):
    run_id: str = Field(alias="runID", max_length=200)
    task_digest: str = Field(max_length=200)
    progress_percentage: int | None = Field(None, ge=0, le=100)
    estimated_remaining_seconds: int | None = Field(None, ge=0, le=2**31)
    metrics: list[_Metric] = Field(default_factory=list, max_length=256)
    last_updated_time: AwareDatetime | None = None
    start_time: AwareDatetime | None = None
    checkpoint_time: AwareDatetime | None = None


def task_figures(data: bytes, *, run_id: str, task_digest: str) -> TaskFigures | None:
    """What the task tells; None where the bytes are no progress.json, or not this task's."""
    try:
        progress = _Progress.model_validate_json(data)
    except ValidationError:
        return None
    if (progress.run_id, progress.task_digest) != (run_id, task_digest):
        return None
    numbers = {metric.name: float(metric.value) for metric in progress.metrics}
    return TaskFigures(
        progress_percentage=progress.progress_percentage,
        estimated_remaining_seconds=progress.estimated_remaining_seconds,
        metrics={name: value for name, value in numbers.items() if math.isfinite(value)},
        last_updated=_seconds(progress.last_updated_time),
        started=_seconds(progress.start_time),
        checkpoint=_seconds(progress.checkpoint_time),
    )


def _seconds(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()

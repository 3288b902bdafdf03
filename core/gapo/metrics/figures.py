"""What is known of a run and of a running task, in the shape from which their series follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunFigures:
    """A run at one moment. Equal figures give equal series, whoever exports them and however often it restarted."""

    namespace: str
    run: str
    """The GapoRun's name."""
    state: str
    """As in `GapoRun.status.state`."""
    stages: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Stage → flat metrics that its tasks committed (docs/artifacts.md); more than is exported does no harm."""
    stage: int = 0
    stages_max: int = 0
    best_stage: int | None = None
    progress: float | None = None
    """Share of the run, 0 to 1."""
    remaining_seconds: float | None = None
    last_commit: float | None = None
    """Seconds since the epoch, as for every other time here."""
    stage_started: float | None = None
    kl_limit: float | None = None
    guard_hits: Mapping[str, int] = field(default_factory=dict)
    """Guard → stages in a row."""
    rollbacks: int = 0
    attempts_ended: Mapping[str, int] = field(default_factory=dict)
    """Cause, as in ended.json → attempts."""
    gpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """Role → GPUs times seconds."""
    test: Mapping[str, float] = field(default_factory=dict)
    """What `export` measured on the test split."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Type → status; on a cluster only."""


@dataclass(frozen=True)
class TaskFigures:
    """What a running task tells: its progress.json, with the field names of Kubeflow's KEP-2779."""

    progress_percentage: float | None = None
    """0 to 100."""
    estimated_remaining_seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Flat name → number, of the last iteration; counters since the attempt began."""
    last_updated: float | None = None
    started: float | None = None
    checkpoint: float | None = None
    """When the last resume point was stored."""

"""When a run has used up its budget: counted from commits and ended attempts, so a restart forgets nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gapo.store.attempt_end import AttemptEnd
from gapo.tasks import KINDS

ROLLOUTS = tuple(kind.rollouts_metric for kind in KINDS.values() if kind.rollouts_metric is not None)
"""Metrics that count the completions which a task sampled for training."""
TOKENS = "/trained_tokens"
"""Ends the names of the metrics that count the tokens a task trained on, each pass counted."""

FIELDS = ("rollouts", "tokens", "gpuHours", "wallClock")


@dataclass(frozen=True)
class BudgetSettings:
    """`budget` of the spec; None is no limit."""

    rollouts: int | None = None
    tokens: int | None = None
    gpu_hours: float | None = None
    wall_clock: float | None = None
    """Seconds during which at least one task ran; waiting and suspension are not counted."""


@dataclass(frozen=True)
class Spent:
    rollouts: int
    tokens: int
    gpu_hours: float
    wall_clock: float


@dataclass(frozen=True)
class BudgetVerdict:
    """`exceeded` names the spec's field that is used up, None where there is something left."""

    exceeded: str | None
    reason: str
    spent: Spent


def spent(metrics: Iterable[Mapping[str, float]], ended: Sequence[AttemptEnd]) -> Spent:
    """What the run has used: work from every committed manifest's `metrics`, time from all ended attempts.

    Attempts that failed cost their GPU-hours and wall clock too; their rollouts were never committed and are not
    counted. Abandoned stages count: they were paid for. Attempts that overlap share the wall clock.
    """
    committed = list(metrics)
    spans = [(e.started_at, e.ended_at, e.gpus) for e in ended]
    return Spent(
        rollouts=round(sum(m.get(name, 0) for m in committed for name in ROLLOUTS)),
        tokens=round(sum(v for m in committed for name, v in m.items() if name.endswith(TOKENS))),
        gpu_hours=math.fsum((end - start).total_seconds() * gpus for start, end, gpus in spans) / 3600,
        wall_clock=_union_seconds([(start, end) for start, end, _ in spans]),
    )


def judge_budget(
    metrics: Iterable[Mapping[str, float]],
    ended: Sequence[AttemptEnd],
    settings: BudgetSettings | None = None,
) -> BudgetVerdict:
    """Says, at a stage's end, whether a limit is reached: exactly used up counts, the next stage would exceed it."""
    settings = settings or BudgetSettings()
    used = spent(metrics, ended)
    limits = (settings.rollouts, settings.tokens, settings.gpu_hours, settings.wall_clock)
    amounts = (used.rollouts, used.tokens, used.gpu_hours, used.wall_clock)
    for name, limit, amount in zip(FIELDS, limits, amounts, strict=True):
        if limit is not None and amount >= limit:
            unit = " s" if name == "wallClock" else ""
            return BudgetVerdict(
                name, f"budget.{name} is used up: {_figure(amount)}{unit} of {_figure(limit)}{unit}", used
            )
    return BudgetVerdict(None, "within the budget", used)


def _union_seconds(spans: Iterable[tuple[datetime, datetime]]) -> float:
    total, until = timedelta(), None
    for start, end in sorted(spans):
        begin = start if until is None else max(start, until)
        if end > begin:
            total += end - begin
            until = end
    return total.total_seconds()


def _figure(amount: float) -> str:
    return f"{amount:.2f}".rstrip("0").rstrip(".") if isinstance(amount, float) else str(amount)

"""Which series follow from what is known of a run or of a running task. Pure: equal figures, equal samples."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import NamedTuple

from gapo.metrics.catalogue import CLASSES, GUARDS, METRICS, PHASES, SCORE_BOUNDS, STATES
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.store.attempt_end import Cause

MAX_SERIES = 400
"""Of one run (docs/contracts/operator.md#metric-labels)."""
RUN_SERIES = 60
"""Of these, what a run itself can have: stages' series are the same whatever else is known of the run."""
DURATION = "wall/seconds"
NONFINITE = "task/nonfinite"

HEADLINES = tuple((f.source, f"gapo_stage_{f.name}") for f in METRICS if f.stage and f.headline)
"""What every stage is given before any stage gets its others: (name in manifests, series)."""
_OTHERS = tuple((f.source, f"gapo_stage_{f.name}") for f in METRICS if f.stage and not f.headline)
_LIVE = tuple((f.source, f"gapo_task_{f.name}") for f in METRICS if f.live)
_SCORES = {
    f"scores/{name}/le_{bound}": {"class": name, "le": str(bound)}
    for name in CLASSES
    for bound in SCORE_BOUNDS
}


class Sample(NamedTuple):
    """One series at one moment."""

    name: str
    labels: Mapping[str, str]
    value: float


def run_samples(figures: RunFigures) -> list[Sample]:
    """The series of a run: at most MAX_SERIES, whatever its stages, families and opponents are.

    Where they do not fit, whole stages are left out, the oldest first: of family, score and cross-play series first,
    then of all but the HEADLINES, then of those.
    """
    labels = {"namespace": figures.namespace, "run": figures.run}
    samples = [Sample(name, {**labels, **own}, value) for name, own, value in _run(figures) if _finite(value)]
    room = MAX_SERIES - RUN_SERIES
    crossplay = _crossplay(figures.stages)
    whole = sorted(figures.stages, reverse=True)
    for part in (_headlines, _others, _wide):
        for place, stage in enumerate(whole):
            own = list(part(figures.stages[stage], crossplay.get(stage, {})))
            if len(own) > room:
                whole = whole[:place]
                break
            room -= len(own)
            here = {**labels, "stage": str(stage)}
            samples += [Sample(name, {**here, **extra}, value) for name, extra, value in own]
    return [*samples, Sample("gapo_run_withheld_stages", labels, float(len(figures.stages) - len(whole)))]


def task_samples(labels: Mapping[str, str], figures: TaskFigures) -> list[Sample]:
    """The series of a running task; `labels` are empty where the scrape adds them, else TASK_LABELS."""
    percentage, metrics = figures.progress_percentage, figures.metrics
    series: list[tuple[str, Mapping[str, str], float | None]] = [
        ("gapo_task_progress_ratio", {}, None if percentage is None else percentage / 100),
        ("gapo_task_remaining_seconds", {}, figures.estimated_remaining_seconds),
        ("gapo_task_start_timestamp_seconds", {}, figures.started),
        ("gapo_task_checkpoint_timestamp_seconds", {}, figures.checkpoint),
        ("gapo_task_nonfinite_total", {}, metrics.get(NONFINITE, 0.0)),
        *((name, {}, metrics.get(source)) for source, name in _LIVE),
        *(
            ("gapo_task_phase_seconds_total", {"kind": phase}, metrics.get(f"wall/{phase}"))
            for phase in PHASES
        ),
    ]
    return [
        Sample(name, {**labels, **own}, value)
        for name, own, value in series
        if value is not None and _finite(value)
    ]


_Series = tuple[str, Mapping[str, str], float]
_NONE: Mapping[str, str] = {}


def _run(figures: RunFigures) -> Iterator[_Series]:
    for state in STATES:
        yield "gapo_run_state", {"status": state}, float(figures.state == state)
    for kind, status in sorted(figures.conditions.items()):
        yield "gapo_run_condition", {"type": kind, "status": status}, 1.0
    stages = figures.stages
    fidelity = [metrics["fidelity/auc"] for metrics in stages.values() if "fidelity/auc" in metrics]
    single: list[tuple[str, float | None]] = [
        ("gapo_run_stage", figures.stage),
        ("gapo_run_stages_max", figures.stages_max),
        ("gapo_run_best_stage", figures.best_stage),
        ("gapo_run_progress_ratio", figures.progress),
        ("gapo_run_remaining_seconds", figures.remaining_seconds),
        ("gapo_run_last_commit_timestamp_seconds", figures.last_commit),
        ("gapo_run_stage_started_timestamp_seconds", figures.stage_started),
        ("gapo_run_stage_typical_seconds", _typical(figures)),
        ("gapo_run_kl_limit_nats", figures.kl_limit),
        ("gapo_run_rm_pair_accuracy_ratio", _newest(stages, "rm/pair_accuracy")),
        ("gapo_run_satisfaction_ratio", _newest(stages, "eval/satisfaction")),
        ("gapo_run_fidelity_auc_ratio", _newest(stages, "fidelity/auc")),
        ("gapo_run_fidelity_auc_peak_ratio", max(fidelity, default=None)),
        ("gapo_run_kl_start_nats", _newest(stages, "eval/kl_sft")),
        ("gapo_run_rollbacks_total", figures.rollbacks),
        ("gapo_run_test_satisfaction_ratio", figures.test.get("test/best_satisfaction")),
        ("gapo_run_test_gain_ratio", figures.test.get("test/gain")),
    ]
    for name, value in single:
        if value is not None:
            yield name, _NONE, float(value)
    for guard in GUARDS:
        if guard in figures.guard_hits:
            yield "gapo_run_guard_hits", {"kind": guard}, float(figures.guard_hits[guard])
    # A cause whose series appeared with its first event would hide that event from `increase`.
    causes = {**{cause.value: 0 for cause in Cause}, **figures.attempts_ended}
    for cause, count in sorted(causes.items()):
        yield "gapo_run_attempts_ended_total", {"reason": cause}, float(count)
    for role, seconds in sorted(figures.gpu_seconds.items()):
        yield "gapo_run_gpu_seconds_total", {"role": role}, seconds


def _newest(stages: Mapping[int, Mapping[str, float]], name: str) -> float | None:
    measured = [stage for stage, metrics in stages.items() if name in metrics]
    return stages[max(measured)][name] if measured else None


def _typical(figures: RunFigures) -> float | None:
    """The warm-up is another kind of work and says nothing about how long a stage takes."""
    over = figures.state == "Succeeded"
    finished = [
        metrics[DURATION]
        for stage, metrics in figures.stages.items()
        if stage > 0 and (over or stage < figures.stage) and DURATION in metrics
    ]
    return median(finished) if finished else None


def _headlines(metrics: Mapping[str, float], _: Mapping[int, float]) -> Iterator[_Series]:
    yield from _copied(metrics, HEADLINES)


def _others(metrics: Mapping[str, float], _: Mapping[int, float]) -> Iterator[_Series]:
    yield from _copied(metrics, _OTHERS)
    yield from _copied(metrics, ((DURATION, "gapo_stage_duration_seconds"),))


def _copied(metrics: Mapping[str, float], names: Iterable[tuple[str, str]]) -> Iterator[_Series]:
    for source, name in names:
        if source in metrics and _finite(metrics[source]):
            yield name, _NONE, metrics[source]


def _wide(metrics: Mapping[str, float], opponents: Mapping[int, float]) -> Iterator[_Series]:
    for source, labels in _SCORES.items():
        if source in metrics and _finite(metrics[source]):
            yield "gapo_stage_score_share_ratio", labels, metrics[source]
    for family, value in families_of(metrics).items():
        if _finite(value):
            yield "gapo_stage_family_satisfaction_ratio", {"family": family}, value
    for rm_stage, value in sorted(opponents.items()):
        yield "gapo_stage_crossplay_auc_ratio", {"rm_stage": str(rm_stage)}, value


def parts_of(metrics: Mapping[str, float]) -> tuple[dict[str, float], ...]:
    """What of a stage's metrics its series are made from, in the order in which it is kept where room is short: the
    HEADLINES, other single figures, and what has a series for each family, class or opponent."""
    headlines = {source for source, _ in HEADLINES}
    others = {source for source, _ in _OTHERS} | {DURATION}
    wide = {f"eval/family/{family}" for family in families_of(metrics)}
    wide |= {name for name in metrics if name in _SCORES or _cell(name) is not None}
    return tuple(
        {name: value for name, value in metrics.items() if name in names}
        for names in (headlines, others, wide)
    )


def families_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Family → satisfaction, without the ends of intervals and the numbers of samples."""
    prefix = "eval/family/"
    named = {name.removeprefix(prefix) for name in metrics if name.startswith(prefix)}
    parts = {f"{name}_{part}" for name in named for part in ("lo", "hi", "n")}
    return {name: metrics[prefix + name] for name in sorted(named - parts)}


def _crossplay(stages: Mapping[int, Mapping[str, float]]) -> dict[int, dict[int, float]]:
    """Generator's stage → reward model's stage → AUC; of two evaluations of a pair the newer one counts."""
    cells: dict[int, dict[int, float]] = {}
    for stage in sorted(stages):
        for name, value in stages[stage].items():
            cell = _cell(name)
            if cell is not None and _finite(value):
                rm_stage, generator = cell
                cells.setdefault(generator, {})[rm_stage] = value
    return cells


def _cell(name: str) -> tuple[int, int] | None:
    """The stages of `crossplay/auc/<rm>/<generator>`."""
    match = re.fullmatch(r"crossplay/auc/([0-9]{1,4})/([0-9]{1,4})", name)
    return (int(match[1]), int(match[2])) if match else None


def _finite(value: float) -> bool:
    return math.isfinite(value)

"""What is decided at a stage's end: convergence, guards, budget and the best stage, from committed metrics alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from gapo.api.run import GapoRunSpec
from gapo.decision_rules.best_stage import best_stage
from gapo.decision_rules.budget import BudgetSettings, judge_budget
from gapo.decision_rules.convergence import (
    ConvergenceOutcome,
    ConvergenceSettings,
    StageSatisfaction,
    judge_convergence,
)
from gapo.decision_rules.guards import (
    GuardAction,
    GuardSettings,
    StageMetrics,
    flagged_stages,
    judge_guards,
)
from gapo.decision_rules.rollback import Changes, Rollback, in_effect, plan_rollback, trace_lineage
from gapo.digest import canonical_json
from gapo.metrics.samples import parts_of
from gapo.planning.observation import Observation
from gapo.recipes import Lineage
from gapo.store.records import DECISION_METRICS_LIMIT, Decision, StageVerdict
from gapo.tasks import Kind, TaskKey

PRIMARY = "eval/satisfaction"


def lineage_of(stage: int, decisions: Mapping[int, Decision]) -> tuple[int, ...]:
    """The stages that `stage` was made from, itself last; only rollbacks break the order."""
    return trace_lineage(stage, {k + 1: d.parent for k, d in decisions.items() if d.parent is not None})


def rollbacks_of(decisions: Mapping[int, Decision]) -> list[Rollback]:
    """The run's rollbacks, from its decisions."""
    done: list[Rollback] = []
    for stage, decision in sorted(decisions.items()):
        if decision.parent is not None:
            answer = plan_rollback(current=stage, best=decision.parent, done=done, why=decision.reason)
            if isinstance(answer, Rollback):
                done.append(answer)
    return done


def change_at(stage: int, decisions: Mapping[int, Decision]) -> Changes | None:
    """What earlier rollbacks changed for this stage; None where nothing."""
    done = [r for r in rollbacks_of(decisions) if r.stage <= stage]
    return in_effect(stage, done) if done else None


def stage_metrics(observation: Observation, stage: int) -> dict[str, float]:
    """All that a stage's tasks committed, but for an export's."""
    commits = (observation.committed.get(TaskKey(stage, kind)) for kind in Kind if kind is not Kind.EXPORT)
    return together(committed.metrics for committed in commits if committed is not None)


def committed_stages(observation: Observation) -> list[int]:
    """The stages that have committed anything but an export."""
    return sorted({key.stage for key in observation.committed if key.kind is not Kind.EXPORT})


def together(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The figures of tasks that ran one after the other. Clocks are added up, of peaks the highest counts; of what two
    tasks measured, the first one's stays, so that no figure of a stage changes once it is there."""
    merged: dict[str, float] = {}
    for task in metrics:
        for name, value in task.items():
            if name.startswith("wall/peak_"):
                merged[name] = max(merged.get(name, 0.0), value)
            elif name.startswith("wall/"):
                merged[name] = merged.get(name, 0.0) + value
            else:
                merged.setdefault(name, value)
    return merged


def satisfactions(observation: Observation, stages: tuple[int, ...]) -> list[StageSatisfaction]:
    """The evaluated ones of these stages."""
    points = []
    for stage in stages:
        evaluation = observation.committed.get(TaskKey(stage, Kind.EVALUATE))
        if evaluation is not None and PRIMARY in evaluation.metrics:
            n = int(evaluation.metrics.get(f"{PRIMARY}_n", 1))
            points.append(StageSatisfaction(stage, evaluation.metrics[PRIMARY], max(n, 1)))
    return points


@dataclass(frozen=True)
class _Ruling:
    verdict: StageVerdict
    reason: str
    evidence: Mapping[str, float]
    parent: int | None = None
    change: Changes | None = None


def decide(run_id: str, spec: GapoRunSpec, observation: Observation, lineage: Lineage) -> Decision:
    """The decision at the end of `lineage.stage`. Equal facts give equal bytes, whoever decides."""
    stages = (*lineage.ancestors, lineage.stage)
    ruling = _rule(spec, observation, stages)
    return Decision(
        stage=lineage.stage,
        verdict=ruling.verdict,
        reason=ruling.reason[:4000],
        evidence=dict(ruling.evidence),
        metrics=listed_metrics(observation),
        parent=ruling.parent,
        change=None if ruling.change is None else change_params(ruling.change),
        by=run_id,
    )


def listed_metrics(observation: Observation) -> dict[int, dict[str, float]]:
    """What a decision embeds of every stage so far, abandoned ones too: all that its series are made from, so that
    whoever shows an ended run reads one object. Where that is too much, the oldest stages lose their families,
    histograms and cross-play, then all but the headlines."""
    stages = committed_stages(observation)[::-1]
    parts = {stage: parts_of(stage_metrics(observation, stage)) for stage in stages}
    listed: dict[int, dict[str, float]] = {stage: {} for stage in stages}
    room = DECISION_METRICS_LIMIT - sum(len(f'"{stage}":{{}},') for stage in stages)
    whole = stages
    for part in range(3):
        for place, stage in enumerate(whole):
            size = len(canonical_json(parts[stage][part]))
            if size > room:
                whole = whole[:place]
                break
            room -= size
            listed[stage] |= parts[stage][part]
    return listed


def change_params(change: Changes) -> dict[str, JsonValue]:
    """A rollback's change as decisions and tasks carry it."""
    return {
        "actorLrFactor": change.actor_lr_scale,
        "klFactor": change.kl_scale,
        "seedOffset": change.seed_offset,
    }


def _rule(spec: GapoRunSpec, observation: Observation, stages: tuple[int, ...]) -> _Ruling:
    history = [StageMetrics(k, stage_metrics(observation, k)) for k in stages if k > 0]
    start = stage_metrics(observation, 0)
    guards = judge_guards(history, guard_settings(spec), start=start)
    figures = {k: v for finding in guards.findings for k, v in finding.evidence.items()}
    if guards.action is GuardAction.ROLLBACK:
        return _roll_back(spec, observation, stages, guards.reason, figures)
    if guards.action is GuardAction.STOP:
        return _Ruling("stopped", guards.reason, figures)
    budget = judge_budget(
        [c.metrics for c in observation.committed.values()],
        [a.ended for group in observation.attempts.values() for a in group if a.ended is not None],
        BudgetSettings(**spec.budget.model_dump()),
    )
    if budget.exceeded is not None:
        return _Ruling("stopped", budget.reason, {})
    series = satisfactions(observation, tuple(k for k in stages if k > 0))
    convergence = judge_convergence(series, convergence_settings(spec))
    warning = f"; warning: {guards.reason}" if guards.action is GuardAction.WARN else ""
    settled = convergence.kind is ConvergenceOutcome.CONVERGED and stages[-1] >= spec.stages.min
    return _Ruling(
        "converged" if settled else "continue",
        convergence.reason + warning,
        {**figures, **convergence.evidence},
    )


def _roll_back(
    spec: GapoRunSpec,
    observation: Observation,
    stages: tuple[int, ...],
    why: str,
    figures: Mapping[str, float],
) -> _Ruling:
    best = best_stage(
        satisfactions(observation, stages), lineage=stages, flagged=flagged(spec, observation, stages)
    )
    answer = plan_rollback(
        current=stages[-1],
        best=best.stage if best else None,
        done=rollbacks_of(observation.decisions),
        why=why,
        max_rollbacks=spec.guards.max_rollbacks,
    )
    if isinstance(answer, Rollback):
        return _Ruling("rolled-back", answer.reason, figures, answer.parent, answer.changes)
    return _Ruling("stopped", answer.reason, figures)


def flagged(spec: GapoRunSpec, observation: Observation, stages: tuple[int, ...]) -> dict[int, str]:
    """Stages of a lineage at which a guard that may act was hit, each with the guard's words."""
    history = [StageMetrics(k, stage_metrics(observation, k)) for k in stages if k > 0]
    return flagged_stages(history, guard_settings(spec), start=stage_metrics(observation, 0))


def choose_best(spec: GapoRunSpec, observation: Observation, lineage: Lineage, stage: int) -> int:
    """The stage to export: the best on validation, or the last where nothing was evaluated."""
    stages = tuple(k for k in (*lineage.ancestors, lineage.stage) if k <= stage)
    best = best_stage(
        satisfactions(observation, stages), lineage=stages, flagged=flagged(spec, observation, stages)
    )
    return best.stage if best else stage


def best_now(spec: GapoRunSpec, observation: Observation, stage: int) -> int | None:
    """The best stage of the lineage of `stage`; None while none is evaluated."""
    stages = lineage_of(stage, observation.decisions)
    best = best_stage(
        satisfactions(observation, stages), lineage=stages, flagged=flagged(spec, observation, stages)
    )
    return best.stage if best else None


def guard_hits(spec: GapoRunSpec, observation: Observation) -> dict[str, int]:
    """Guard → stages in a row, up to the last decided one, at which its condition held; without those that are off or
    have nothing to read."""
    if not observation.decisions:
        return {}
    stages = lineage_of(max(observation.decisions), observation.decisions)
    history = [StageMetrics(k, stage_metrics(observation, k)) for k in stages if k > 0]
    verdict = judge_guards(history, guard_settings(spec), start=stage_metrics(observation, 0))
    return {finding.guard: finding.hits for finding in verdict.findings}


def guard_settings(spec: GapoRunSpec) -> GuardSettings:
    guards = spec.guards
    return GuardSettings(
        hacking=GuardAction(guards.hacking.action),
        collapse=GuardAction(guards.collapse.action),
        kl=GuardAction(guards.kl.action),
        memorisation=GuardAction(guards.memorisation.action),
        fidelity=GuardAction(guards.fidelity.action),
        labels=GuardAction(guards.labels.action),
        kl_nats_per_token=guards.kl.nats_per_token,
        memorisation_gap=guards.memorisation.gap,
        fidelity_auc=guards.fidelity.min_auc,
        label_noise=guards.labels.max_noise,
    )


def convergence_settings(spec: GapoRunSpec) -> ConvergenceSettings:
    return ConvergenceSettings(
        enabled=spec.convergence.enabled and spec.evaluation.scorer != "none",
        window=spec.convergence.window,
        min_delta=spec.convergence.min_delta,
        quantile=spec.convergence.quantile,
        looks=spec.convergence.looks,
        every=spec.evaluation.every,
    )

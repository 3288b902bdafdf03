"""A run as read → its report. Every number is a committed one, unchanged; which stages were abandoned, and the verdict
in words, are derived here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gapo.decision_rules.gate import PASSED, judge_gate
from gapo.report.data import Attempt, RunData, TaskData
from gapo.report.headline import verdict_of
from gapo.report.report_model import (
    AttemptOutcome,
    DecisionOutcome,
    EnvironmentValue,
    Estimate,
    FinalTest,
    Gate,
    Health,
    ManifestFigures,
    Report,
    ReportBody,
    RetiredObjects,
    RunIdentity,
    SatisfactionFigure,
    ShownSample,
    Stage,
    StageFigure,
    TaskOutcome,
    TaskState,
    as_number,
    setting,
)
from gapo.report.scores import cross_play, rm_scores, score_shares
from gapo.report.training import iterations, training
from gapo.store.records import Decision
from gapo.tasks import KINDS, Kind, kinds_of_line

SATISFACTION, SCORE = "eval/satisfaction", "rm/score_generated"
RM_KINDS = kinds_of_line("rm")
_PERMANENT = range(64, 74)
"""Exit codes of a task that no further attempt can help (docs/contracts/tasks.md#exit-codes)."""
_REFUSED = 73
"""Exit code of a gate that stops the run; it leaves no manifest, so this is the only trace."""


def report_of(run: RunData) -> Report:
    """The whole document. The same run gives the same document."""
    body = _body(run)
    return Report(**vars(body), verdict=verdict_of(body))


def _body(run: RunData) -> ReportBody:
    return ReportBody(
        run=_identity(run),
        test=_test(run),
        stages=_stages(run),
        gate=_gate(run),
        satisfaction=_satisfaction(run),
        satisfaction_by_family=_by_suffix(run, "eval/family/", ("evaluate",)),
        pair_accuracy=_series(run, "rm/pair_accuracy", RM_KINDS),
        pair_accuracy_by_family=_by_suffix(run, "rm/pair_family/", RM_KINDS),
        pair_accuracy_by_mode=_by_suffix(run, "rm/pair_mode/", RM_KINDS),
        health=_health(run),
        rm_scores=rm_scores(run),
        score_shares=score_shares(run),
        ppo=iterations(run),
        training=training(run),
        cross_play=cross_play(run),
        samples=_samples(run),
        manifests={
            task.name: ManifestFigures(metrics=task.metrics, notes=task.manifest.notes)
            for task in run.tasks
            if task.manifest is not None
        },
        settings=run.spec,
        written=run.written,
        environment=_environment(run),
        gpu_seconds=_gpu_seconds(run),
        retired=RetiredObjects(objects=len(run.retired), stages=_retired_stages(run)),
        problems=run.problems,
    )


def _identity(run: RunData) -> RunIdentity:
    method, profile, seed = (setting(run.spec, name) for name in ("method", "profile", "seed"))
    return RunIdentity(
        name=run.name,
        namespace=run.namespace,
        run_id=run.run_id,
        method=method,
        profile=profile,
        seed=seed,
        gapo_version=run.gapo_version,
    )


def _estimate(metrics: Mapping[str, float], name: str) -> Estimate | None:
    if name not in metrics:
        return None
    lo, hi, n = (metrics.get(f"{name}_{part}") for part in ("lo", "hi", "n"))
    return Estimate(value=metrics[name], lo=lo, hi=hi, n=n)


def _series(run: RunData, name: str, kinds: tuple[str, ...]) -> list[StageFigure]:
    """A metric at the stages whose tasks of these kinds committed it."""
    estimates = ((task.stage, _estimate(task.metrics, name)) for task in run.of_kind(*kinds))
    return [StageFigure(stage=stage, **vars(estimate)) for stage, estimate in estimates if estimate]


def _by_suffix(run: RunData, prefix: str, kinds: tuple[str, ...]) -> dict[str, list[StageFigure]]:
    """Families or modes → their figures by stage."""
    metrics = {metric for task in run.of_kind(*kinds) for metric in task.metrics}
    names = {metric.removeprefix(prefix) for metric in metrics if metric.startswith(prefix)}
    parts = {f"{name}_{part}" for name in names for part in ("lo", "hi", "n")}
    return {name: _series(run, prefix + name, kinds) for name in sorted(names - parts)}


def _satisfaction(run: RunData) -> list[SatisfactionFigure]:
    rows = []
    for figure in _series(run, SATISFACTION, ("evaluate",)):
        metrics = run.metrics(figure.stage, "evaluate")
        rows.append(
            SatisfactionFigure(
                **vars(figure),
                greedy=metrics.get("eval/greedy_satisfaction"),
                constraints=metrics.get("eval/constraint_satisfaction"),
            )
        )
    return rows


def _health(run: RunData) -> Health:
    return Health(
        fidelity_auc=_fidelity(run),
        fidelity_ece=_series(run, "fidelity/ece", ("evaluate",)),
        prompt_swap_gap=_series(run, "rm/prompt_swap_gap", ("evaluate",)),
        memorisation_gap=_series(run, "rm/memorisation_gap", RM_KINDS),
        style_separability=_series(run, "rm/style_separability", ("rm",)),
        label_noise=_series(run, "rm/label_noise", ("rm",)),
        score_gap=_score_gap(run),
    )


def _fidelity(run: RunData) -> list[StageFigure]:
    """The AUC with its interval; of a run that committed none, at least with the number of samples."""
    rows = []
    for row in _series(run, "fidelity/auc", ("evaluate",)):
        samples = run.metrics(row.stage, "evaluate").get("fidelity/n") if row.n is None else row.n
        rows.append(StageFigure(stage=row.stage, value=row.value, lo=row.lo, hi=row.hi, n=samples))
    return rows


def _score_gap(run: RunData) -> list[StageFigure]:
    """Mean score of a stage's validation samples minus the share of them that satisfies every constraint."""
    return [
        StageFigure(stage=task.stage, value=task.metrics[SCORE] - task.metrics[SATISFACTION])
        for task in run.of_kind("evaluate")
        if SCORE in task.metrics and SATISFACTION in task.metrics
    ]


def _gpu_seconds(run: RunData) -> dict[str, float]:
    """GPUs times the seconds that ended attempts held them, by role."""
    held: dict[str, float] = {}
    for task in run.tasks:
        for attempt in task.attempts:
            if attempt.end is not None and attempt.end.gpus and attempt.seconds is not None:
                role = KINDS[Kind(task.kind)].role
                held[role] = held.get(role, 0.0) + attempt.end.gpus * attempt.seconds
    return held


def _test(run: RunData) -> FinalTest | None:
    exports = run.of_kind("export")
    if not exports:
        return None
    metrics = exports[-1].metrics
    return FinalTest(
        best=_estimate(metrics, "test/best_satisfaction"),
        last=_estimate(metrics, "test/last_satisfaction"),
        start=_estimate(metrics, "test/start_satisfaction"),
        gain=_estimate(metrics, "test/gain"),
        stage=int(metrics["export/stage"]) if "export/stage" in metrics else None,
    )


def _gate(run: RunData) -> Gate | None:
    """None for a run without a warm-up."""
    task = run.task(0, "rm-warmup")
    if task is None:
        return None
    path = ("rewardModel", "warmup", "gate")
    passed = task.metrics.get(PASSED)
    refusal = next((a.end for a in task.attempts if a.end is not None and a.end.exit_code == _REFUSED), None)
    floor = as_number(setting(run.spec, *path, "minFamilyAccuracy"))
    needed = as_number(setting(run.spec, *path, "minPairAccuracy"))
    judgement = judge_gate(task.metrics, needed=needed or 0.0, family_needed=floor or 0.0)
    return Gate(
        passed=bool(passed) if passed is not None else (False if refusal else None),
        pair_accuracy=task.metrics.get("rm/pair_accuracy"),
        min_pair_accuracy=needed,
        min_family_accuracy=floor,
        on_fail=setting(run.spec, *path, "onFail"),
        families_below=judgement.families,
        message=(refusal.message or "") if refusal else None,
    )


def _stages(run: RunData) -> list[Stage]:
    abandoned = _abandoned(run)
    decisions = {decision.stage: decision for decision in run.decisions}
    return [
        Stage(
            stage=stage,
            parent=_parent(run, stage),
            abandoned=stage in abandoned,
            tasks=[_task(task) for task in run.tasks if task.stage == stage],
            decision=_decision(decisions[stage]) if stage in decisions else None,
        )
        for stage in sorted({task.stage for task in run.tasks} | decisions.keys())
    ]


def _decision(decision: Decision) -> DecisionOutcome:
    return DecisionOutcome(
        verdict=decision.verdict,
        reason=decision.reason,
        parent=decision.parent,
        change=decision.change or {},
        evidence=decision.evidence,
    )


def _task(task: TaskData) -> TaskOutcome:
    return TaskOutcome(
        kind=task.kind,
        state="committed" if task.committed else _unfinished_state(task.attempts),
        generation=task.generation,
        seconds=task.metrics.get("wall/seconds"),
        attempts=[_attempt(attempt) for attempt in task.attempts],
    )


def _attempt(attempt: Attempt) -> AttemptOutcome:
    end = attempt.end
    return AttemptOutcome(
        attempt=attempt.number,
        cause=end.cause if end else None,
        charged=end is not None and end.charged,
        seconds=attempt.seconds,
        exit_code=end.exit_code if end else None,
        message=(end.message if end else None) or "",
    )


def _unfinished_state(attempts: Sequence[Attempt]) -> TaskState:
    end = attempts[-1].end if attempts else None
    if end is None:
        return "started"
    return "failed" if end.exit_code in _PERMANENT else "ended"


def _parent(run: RunData, stage: int) -> int | None:
    for decision in run.decisions:
        if decision.verdict == "rolled-back" and decision.stage == stage - 1:
            return decision.parent
    return None


def _abandoned(run: RunData) -> set[int]:
    """Stages that a rollback left behind."""
    return {
        stage
        for decision in run.decisions
        if decision.verdict == "rolled-back" and decision.parent is not None
        for stage in range(decision.parent + 1, decision.stage + 1)
    }


def _samples(run: RunData) -> list[ShownSample]:
    """A few samples a stage, from the evaluation on held-out prompts where there is one, else from training."""
    return [
        ShownSample(stage=task.stage, source=task.kind, **vars(sample))
        for task in _sampled(run)
        for sample in task.samples
    ]


def _sampled(run: RunData) -> Iterator[TaskData]:
    for stage in run.stages:
        tasks = (run.task(stage, kind) for kind in ("evaluate", "ppo"))
        task = next((task for task in tasks if task is not None and task.samples), None)
        if task is not None:
            yield task


def _environment(run: RunData) -> dict[str, list[EnvironmentValue]]:
    tasks_by_value: dict[str, dict[str | int | float, list[str]]] = {}
    for task in run.tasks:
        environment = task.manifest.environment if task.manifest is not None else {}
        for name, value in environment.items():
            tasks_by_value.setdefault(name, {}).setdefault(value, []).append(task.name)
    return {
        name: [EnvironmentValue(value=value, tasks=tasks) for value, tasks in values.items()]
        for name, values in sorted(tasks_by_value.items())
    }


def _retired_stages(run: RunData) -> list[int]:
    return sorted({int(key.split("/")[1]) for key in run.retired})

"""The report's first line: how the run ended and what it gained, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gapo.api.methods import RETRAINING
from gapo.report.formatting import interval, one_line, points, share
from gapo.report.report_model import EnvironmentValue, Gate, ReportBody, RunVerdict, SatisfactionFigure
from gapo.tasks import KINDS
from gapo.telemetry.wording import fewer_prompts

STAGE_TRAINING = {kind for kind, task in KINDS.items() if task.commits_generator and not task.at_start}
"""Kinds that train the generator in stages alone. A run without any was supervised training only."""
GUARDED_LABELS = ("half", "one", "drop")


def verdict_of(body: ReportBody) -> RunVerdict:
    outcome, ending = _ending(body)
    gate = _gate_sentence(body, outcome)
    result = None if outcome == "empty" else _result(body, outcome)
    informed = _verifier_informed(body)
    sentences = [s for s in (gate, ending, result, informed) if s]
    return RunVerdict(
        headline=" ".join(sentences),
        outcome=outcome,
        reason=_reason(body),
        converged=outcome == "converged",
        gate_passed=body.gate.passed if body.gate else None,
        exported_stage=body.test.stage if body.test else None,
        gain=body.test.gain if body.test else None,
        verifier_informed=informed is not None,
        notes=_notes(body),
    )


def _ending(body: ReportBody) -> tuple[str, str | None]:
    stages = body.stages
    committed = [(s.stage, t.kind) for s in stages for t in s.tasks if t.state == "committed"]
    failed = _failure(body)
    if not committed and not failed:
        return "empty", "Nothing is committed yet: there are no figures to report."
    if body.gate and body.gate.passed is False and not any(kind in STAGE_TRAINING for _, kind in committed):
        return "gateFailed", None
    last = next((s for s in reversed(stages) if s.decision), None)
    if last and last.decision and last.decision.verdict == "converged":
        return "converged", f"Converged at stage {last.stage}."
    if last and last.decision and last.decision.verdict == "stopped":
        return "stopped", f"Stopped at stage {last.stage}, not converged: {one_line(last.decision.reason)}."
    if body.test:
        trained = max((stage for stage, kind in committed if kind in STAGE_TRAINING), default=0)
        if not trained:
            return "finished", "Supervised training only, no adversarial stage."
        unit = "stage" if trained == 1 else "stages"
        return "maxStages", f"Not converged within {trained} {unit}, the most that the settings allow."
    if failed:
        return "failed", failed
    newest = max(s.stage for s in stages if s.tasks)
    done = ", ".join(kind for at, kind in committed if at == newest) or "none yet"
    return "unfinished", f"Unfinished: the run is in stage {newest} (tasks done there: {done})."


def _reason(body: ReportBody) -> str | None:
    """Why the last decision was made, in the words of who decided."""
    decisions = [s.decision for s in body.stages if s.decision]
    # A rollback's reason stands among the notes, a stop's in the headline.
    stated = not decisions or decisions[-1].verdict in {"rolled-back", "stopped"}
    return None if stated else one_line(decisions[-1].reason)


def _failure(body: ReportBody) -> str | None:
    for stage in body.stages:
        for task in stage.tasks:
            if task.state == "failed":
                message = one_line(task.attempts[-1].message) or "no message was left"
                return f"Failed in stage {stage.stage}, task {task.kind}: {message}."
    return None


def _gate_sentence(body: ReportBody, outcome: str) -> str | None:
    gate = body.gate
    if not gate or gate.passed is not False:
        return None
    after = (
        "so no PPO was run against it"
        if outcome == "gateFailed"
        else "yet PPO went on against it, as the settings allow"
    )
    return f"The reward model did not pass its gate, {after}: {gate_finding(gate)}."


def gate_finding(gate: Gate) -> str:
    """Pair accuracy and the families that are too low, or the task's own message where it left no figures."""
    if gate.pair_accuracy is None:
        return one_line(gate.message or "") or "its warm-up left no figures"
    text = f"pair accuracy {gate.pair_accuracy:.2f}"
    if gate.min_pair_accuracy is not None:
        text += f" ({gate.min_pair_accuracy:.2f} needed)"
    low = [f"{family} {value:.2f}" for family, value in gate.families_below.items()]
    if low:
        text += f"; {'family' if len(low) == 1 else 'families'} {', '.join(low)} ({gate.min_family_accuracy:.2f} needed)"
    return text


def _result(body: ReportBody, outcome: str) -> str | None:
    test = body.test
    if not test:
        row = best_so_far(body)
        if row is None or outcome == "gateFailed":
            return "Nothing was exported." if outcome in {"gateFailed", "failed", "stopped"} else None
        return f"Best so far on validation: stage {row.stage} with {share(row.value)} satisfied; nothing is exported yet."
    which = f"Stage {test.stage}" if test.stage else "The supervised start (stage 0)"
    best, gain = test.best, test.gain
    if best is None:
        return f"{which} was exported."
    sentence = f"{which} was exported: {share(best.value)} of its test responses satisfy every constraint"
    if gain is None or not test.stage:
        return f"{sentence}."
    band = interval(gain, points)
    low, high = gain.lo, gain.hi
    beside = f" ({band})" if band else ""
    if low is not None and high is not None and low <= 0 <= high:
        return f"{sentence}; {points(gain.value)} over the SFT start, which this test cannot tell from no gain{beside}."
    return f"{sentence}, {points(gain.value)} over the SFT start{beside}."


def best_so_far(body: ReportBody) -> SatisfactionFigure | None:
    """The stage of highest validation satisfaction that no rollback abandoned; the earlier one of equals."""
    rows = [row for row in body.satisfaction if row.stage not in body.abandoned]
    return max(rows, key=lambda row: (row.value, -row.stage), default=None)


def _verifier_informed(body: ReportBody) -> str | None:
    if body.setting("rewardModel", "source") == "verifier":
        return "The reward is the verifier itself (rewardModel.source: verifier): an upper bound, not GAPO."
    label = body.setting("adversarial", "passingLabel")
    if body.setting("method") in RETRAINING and label in GUARDED_LABELS:
        return f"Verifier-informed (adversarial.passingLabel: {label}): not comparable with the paper's GAPO."
    return None


def _notes(body: ReportBody) -> list[str]:
    notes: list[str] = []
    if body.setting("evaluation", "scorer") == "none":
        notes.append(
            "No verifier fits this run's data: there is no satisfaction, and no stage can be called best."
        )
    fewer = dict.fromkeys(fewer_prompts(manifest.metrics) for manifest in body.manifests.values())
    notes += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in fewer if sentence]
    notes += [
        f"Rolled back at the end of stage {stage.stage} to stage {end.parent}: {one_line(end.reason)}."
        for stage in body.stages
        if (end := stage.decision) and end.verdict == "rolled-back"
    ]
    changed = [name for name, values in body.environment.items() if _changed_within_a_kind(values)]
    if changed:
        notes.append(
            f"The environment changed between tasks ({', '.join(changed)}): sums may differ in the last digits."
        )
    if body.retired.objects:
        stages = ", ".join(str(k) for k in body.retired.stages)
        noun = "stage" if len(body.retired.stages) == 1 else "stages"
        notes.append(
            f"Retention removed {body.retired.objects} objects of {noun} {stages}; all figures are kept."
        )
    return notes


def _changed_within_a_kind(values: Sequence[EnvironmentValue]) -> bool:
    """Tasks of two kinds may well differ; two of one kind do not, unless somebody changed something."""
    kinds = [{task.split("/")[1] for task in value.tasks} for value in values]
    return len(set().union(*kinds)) < sum(len(k) for k in kinds)

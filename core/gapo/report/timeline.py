"""Each stage with its tasks, what they took, how often they were tried, and what was decided at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapo.report.formatting import one_line, seconds, share
from gapo.report.report_model import AttemptOutcome, Report, Stage, TaskOutcome
from gapo.tasks import KINDS, Kind


def color_of(kind: str) -> str:
    """The colour of a kind of task, grey for one that this release does not know."""
    return KINDS[Kind(kind)].color if kind in set(Kind) else "grey"


@dataclass(frozen=True)
class TaskMark:
    """A task in its stage's bar, and in the words below it."""

    color: str
    text: str
    width: str | None
    """Per cent of the longest stage; None for a task that took no time."""


@dataclass(frozen=True)
class StageRow:
    stage: Stage
    tasks: Sequence[TaskMark]
    attempts: Sequence[str]
    """A sentence for each task that was tried more than once, or in vain."""
    notes: Sequence[str]
    reason: str
    """Why it was decided so; empty where nothing is decided."""
    change: str
    """What the next stage does differently; empty for nothing."""


def timeline(report: Report) -> list[StageRow]:
    longest = max((_total(stage) for stage in report.stages), default=0.0)
    return [_row(stage, longest, _notes(stage, report)) for stage in report.stages]


def _total(stage: Stage) -> float:
    return float(sum(task.seconds or 0 for task in stage.tasks))


def _notes(stage: Stage, report: Report) -> list[str]:
    notes = [f"{share(row.value)} satisfied" for row in report.satisfaction if row.stage == stage.stage]
    if stage.stage == report.verdict.exported_stage:
        notes.append("exported")
    if stage.parent is not None:
        notes.append(f"from stage {stage.parent}")
    if stage.abandoned:
        notes.append("abandoned")
    return notes


def _row(stage: Stage, longest: float, notes: Sequence[str]) -> StageRow:
    decision = stage.decision
    repeated = [task for task in stage.tasks if len(task.attempts) > 1 or task.state in {"failed", "ended"}]
    change = sorted(decision.change.items()) if decision else []
    return StageRow(
        stage=stage,
        tasks=[_mark(task, longest) for task in stage.tasks],
        attempts=[f"{task.kind}: {'; '.join(map(_attempt, task.attempts))}" for task in repeated],
        notes=notes,
        reason=one_line(decision.reason) if decision else "",
        change=", ".join(f"{name}: {value}" for name, value in change),
    )


def _mark(task: TaskOutcome, longest: float) -> TaskMark:
    text = task.kind
    if task.seconds is not None:
        text += f" {seconds(task.seconds)}"
    if task.state != "committed":
        text += f" ({task.state})"
    width = f"{100 * task.seconds / longest:.2f}" if task.seconds and longest else None
    return TaskMark(color_of(task.kind), text, width)


def _attempt(attempt: AttemptOutcome) -> str:
    text = f"attempt {attempt.attempt} {attempt.cause or 'has no recorded end'}"
    if attempt.seconds is not None:
        text += f" after {seconds(attempt.seconds)}"
    if attempt.cause not in {None, "committed"}:
        text += " (charged)" if attempt.charged else " (free)"
    if attempt.message:
        text += f": {' '.join(attempt.message.split())[:300]}"
    return text

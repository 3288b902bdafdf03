"""What a GapoRun's status says to people and programs, and how a run that has ended ended. Pure.

The status may be a newer operator's: what is not understood is shown as it is, or left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gapo import errors
from gapo.errors import ClusterError, GapoError

Body = Mapping[str, Any]

BAD = {"TasksHealthy": "False", "StorageReady": "False", "Stalled": "True", "Succeeded": "False"}
"""Condition → the status in which it is worth a line of its own."""
RUN_FAILED = 1
CODES = {
    kind.reason: kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GapoError) and kind is not GapoError
}
"""Exit codes by the reasons that `gapo run` would give."""
COLOURS = {"Succeeded": "green", "Running": "cyan", "Failed": "red", "Stalled": "red", "Suspended": "yellow"}
EVENTS = 5
HEADLINES = (
    "ppo/satisfaction",
    "ppo/reward",
    "ppo/kl",
    "rm/pair_accuracy",
    "rm/loss",
    "sft/val_loss",
    "sft/loss",
)
"""Figures of a running task that come first where there is no room for all."""
MOST = 5


@dataclass(frozen=True)
class RunSnapshot:
    """A GapoRun as the API server has it, and its events, oldest first."""

    run: Body
    events: Sequence[Body] = field(default_factory=tuple)

    @property
    def metadata(self) -> Body:
        return self.run.get("metadata") or {}

    @property
    def status(self) -> Body:
        return self.run.get("status") or {}

    @property
    def name(self) -> str:
        return f"{self.metadata.get('namespace')}/{self.metadata.get('name')}"

    @property
    def state(self) -> str:
        return str(self.status.get("state") or "Pending")

    @property
    def current(self) -> bool:
        """Whether the operator has seen the spec as it stands."""
        return self.status.get("observedGeneration") == self.metadata.get("generation")

    def condition(self, kind: str) -> Body:
        return next((c for c in self.status.get("conditions") or [] if c.get("type") == kind), {})

    @property
    def message(self) -> str:
        """In one sentence, what the run does or why it does nothing."""
        if "observedGeneration" not in self.status:
            return "no operator has looked at it yet; if that lasts, see gapo doctor"
        if not self.current:
            return "changed; the operator has not looked at it since"
        summary = self.condition("Succeeded")
        doing = self.condition("Reconciling")
        condition = summary if summary.get("status") != "Unknown" or doing.get("status") != "True" else doing
        return str(condition.get("message") or "")


def snapshot_of(run: Body, events: Sequence[Body]) -> RunSnapshot:
    """With this very run's events: one of the same name may have been there before."""
    uid = (run.get("metadata") or {}).get("uid")
    own = [event for event in events if (event.get("involvedObject") or {}).get("uid") == uid]
    return RunSnapshot(run, sorted(own, key=_time))


def _time(event: Body) -> tuple[str, int]:
    when = event.get("lastTimestamp") or event.get("eventTime") or ""
    version = str((event.get("metadata") or {}).get("resourceVersion", "0"))
    return str(when), int(version) if version.isdigit() else 0


def over(snapshot: RunSnapshot) -> bool:
    """Whether nothing more will happen by itself: it succeeded, failed, or waits for somebody to put it right."""
    return snapshot.current and snapshot.state in ("Succeeded", "Failed", "Stalled")


def failure(snapshot: RunSnapshot) -> GapoError | None:
    """Of a run that is over: None where it succeeded, else an error with the exit code of what went wrong."""
    if snapshot.state == "Succeeded":
        return None
    condition = snapshot.condition("Stalled") or snapshot.condition("Succeeded")
    reason = str(condition.get("reason") or snapshot.state)
    error = GapoError(f"{snapshot.name}: {reason}: {condition.get('message') or ''}")
    fallback = ClusterError.code if snapshot.state == "Stalled" else RUN_FAILED
    error.code = CODES.get(reason, fallback)  # type: ignore[misc]
    return error


def problems(snapshot: RunSnapshot) -> Iterator[tuple[str, str]]:
    """(reason, message) of each condition that is not as it should be; several often say the same."""
    messages = set()
    for condition in snapshot.status.get("conditions") or []:
        message = str(condition.get("message") or "")
        if BAD.get(str(condition.get("type"))) == condition.get("status") and message not in messages:
            messages.add(message)
            yield str(condition.get("reason")), message


def as_json(snapshot: RunSnapshot) -> dict[str, Any]:
    """Like `gapo status FILE -o json` where both know a thing."""
    status = snapshot.status
    summary = snapshot.condition("Succeeded")
    return {
        "name": snapshot.metadata.get("name"),
        "namespace": snapshot.metadata.get("namespace"),
        "runID": status.get("runID"),
        "state": snapshot.state,
        "current": snapshot.current,
        "stage": status.get("stage"),
        "progress": status.get("progress"),
        "progressPercentage": status.get("progressPercentage"),
        "estimatedRemainingSeconds": status.get("estimatedRemainingSeconds"),
        "trainerStatus": status.get("trainerStatus"),
        "usage": status.get("usage"),
        "reason": summary.get("reason"),
        "message": snapshot.message,
        "bestStage": status.get("bestStage"),
        "satisfaction": status.get("satisfaction"),
        "pairAccuracy": status.get("pairAccuracy"),
        "location": status.get("location"),
        "stages": status.get("stages") or [],
        "tasks": status.get("tasks") or [],
        "conditions": status.get("conditions") or [],
        "events": [
            {key: event.get(key) for key in ("lastTimestamp", "type", "reason", "message")}
            for event in snapshot.events
        ],
    }


def page(snapshot: RunSnapshot) -> RenderableType:
    """Everything about a run that fits a screen."""
    parts: list[RenderableType] = [headline(snapshot)]
    if progress_line(snapshot):
        parts.append(Text(progress_line(snapshot)))
    wrong = {message: reason for reason, message in problems(snapshot)} if snapshot.current else {}
    if snapshot.message and snapshot.message not in wrong:
        parts.append(Text(snapshot.message))
    parts += [Text(f"{reason}: {message}", style="yellow") for message, reason in wrong.items()]
    if snapshot.status.get("stages"):
        parts.append(stage_table(snapshot))
    if snapshot.status.get("tasks"):
        parts.append(task_table(snapshot))
    if task_figures(snapshot):
        parts.append(Text(task_figures(snapshot), style="dim"))
    if snapshot.events:
        parts.append(event_table(snapshot))
    return Group(*parts)


def headline(snapshot: RunSnapshot) -> Text:
    run_id = snapshot.status.get("runID")
    line = Text.assemble((snapshot.name, "bold"), f" ({run_id}): " if run_id else ": ")
    line.append(snapshot.state, COLOURS.get(snapshot.state, ""))
    progress = snapshot.status.get("progress")
    return line.append(f", {progress}") if progress else line


def progress_line(snapshot: RunSnapshot) -> str:
    """How much of the run is done and how long it may still take; empty where the status does not say, or the run is over."""
    done, left = snapshot.status.get("progressPercentage"), snapshot.status.get("estimatedRemainingSeconds")
    if over(snapshot) or not isinstance(done, int):
        return ""
    return f"{done} % of the run" + (f", about {duration(left)} left" if isinstance(left, int) else "")


def task_figures(snapshot: RunSnapshot) -> str:
    """The last figures of the running task, and how long it may still take."""
    trainer = snapshot.status.get("trainerStatus") or {}
    left = trainer.get("estimatedRemainingSeconds")
    figures = {str(m.get("name")): _short(m.get("value")) for m in trainer.get("metrics") or []}
    shown = [f"{name} {figures[name]}" for name in HEADLINES if name in figures][:MOST]
    shown += [f"{name} {value}" for name, value in figures.items() if name not in HEADLINES][
        : MOST - len(shown)
    ]
    return " · ".join([*([f"task: about {duration(left)} left"] if isinstance(left, int) else []), *shown])


def duration(seconds: int) -> str:
    """As people say it: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes, hours, days = round(seconds / 60), seconds // 3600, seconds // 86400
    if seconds < 100:
        return f"{seconds} s"
    if minutes < 100:
        return f"{minutes} min"
    if days < 2:
        return f"{hours} h {seconds % 3600 // 60:02d} min"
    return f"{days} d {seconds % 86400 // 3600} h"


def _short(value: object) -> str:
    try:
        return f"{float(str(value)):.4g}"
    except ValueError:
        return str(value)[:16]


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("satisfaction", "RM pairs") else "left")
    return table


def stage_table(snapshot: RunSnapshot) -> Table:
    table = _table("stage", "from", "satisfaction", "RM pairs", "decision", "")
    best = snapshot.status.get("bestStage")
    for row in snapshot.status.get("stages") or []:
        stage, parent = row.get("stage"), row.get("parent")
        table.add_row(
            stage_name(stage),
            "" if parent is None else stage_name(parent),
            _share(row.get("satisfaction")),
            _share(row.get("pairAccuracy")),
            Text(str(row.get("verdict") or "")),
            "best" if stage == best else "",
        )
    return table


def task_table(snapshot: RunSnapshot) -> Table:
    table = _table("task", "attempt", "state", "done", "job")
    for task in snapshot.status.get("tasks") or []:
        done = task.get("progressPercentage")
        share = f"{done} %" if isinstance(done, int) else ""
        cells = (task.get("kind"), task.get("attempt"), task.get("state"), share, task.get("name"))
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def event_table(snapshot: RunSnapshot) -> Table:
    table = _table("last events", "", "")
    for event in snapshot.events[-EVENTS:]:
        style = "yellow" if event.get("type") == "Warning" else ""
        when = str(event.get("lastTimestamp") or event.get("eventTime") or "")[:19].replace("T", " ")
        cells = (when, event.get("reason"), event.get("message"))
        table.add_row(*(Text(str(cell or ""), style=style) for cell in cells))
    return table


def stage_name(stage: object) -> str:
    return "0" if stage in (0, "0") else f"A{stage}"


def _share(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def changes(before: RunSnapshot | None, after: RunSnapshot) -> Iterator[str]:
    """One line for each thing that is new; of the first snapshot, where the run stands."""
    earlier_events = {event["metadata"]["uid"] for event in before.events} if before else set()
    for event in after.events:
        if before and event["metadata"]["uid"] not in earlier_events:
            yield f"{event.get('reason')}: {event.get('message')}"
    old, now = (set(problems(one)) if one else set() for one in (before, after))
    if before is None or before.state != after.state:
        message = after.message if after.message not in {message for _, message in now} else None
        yield ", ".join(str(part) for part in (after.state, after.status.get("progress"), message) if part)
    for reason, message in sorted(now - old):
        yield f"{reason}: {message}"
    if before is not None and task_figures(after) and _task_figures_time(before) != _task_figures_time(after):
        yield ", ".join(
            part for part in (after.status.get("progress"), progress_line(after), task_figures(after)) if part
        )


def summary_line(snapshot: RunSnapshot) -> str:
    """Where a run is, on one line: what is printed again while nothing is new."""
    parts = (
        snapshot.state,
        snapshot.status.get("progress"),
        progress_line(snapshot),
        task_figures(snapshot) or snapshot.message,
    )
    return ", ".join(str(part) for part in parts if part)


def _task_figures_time(snapshot: RunSnapshot) -> object:
    return (snapshot.status.get("trainerStatus") or {}).get("lastUpdatedTime")

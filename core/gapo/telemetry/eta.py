"""How far a run is and how long it will still take, by what its tasks have taken so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gapo.metrics.figures import TaskFigures
from gapo.planning.observation import Observation
from gapo.tasks import KINDS, Kind, TaskKey

UNIT_SECONDS = 10.0
"""Of weight 1, until anything is known."""
TELLING = 0.05
"""Share of a task from which its pace says something."""
PACE_SECONDS = 3.0
"""How long a pace must have been seen before any time is foretold from it: a first step may be anything."""
TRUSTED = 2.0
"""Tasks of kinds that have not run yet may be guessed to take so many times what has been seen; of more, a guess says
nothing."""


@dataclass(frozen=True)
class Forecast:
    """A run at one moment, by expected times."""

    progress: float
    """Share of the run that is done, 0 to 1."""
    remaining_seconds: float | None
    """To the end, at one task at a time and without waiting; None while too little has run to tell."""


def forecast(
    planned: Iterable[TaskKey], observation: Observation, stage: int, running: Mapping[TaskKey, TaskFigures]
) -> Forecast:
    """`planned` are the tasks of a run in which every stage goes on (`gapo.planning.preview`), `stage` the one that is being
    worked on, `running` what the tasks that run now tell."""
    times = _times(observation)
    unit = _unit(times, running)

    def expected(kind: Kind) -> float:
        seconds = times.get(kind)
        return sum(seconds) / len(seconds) if seconds else KINDS[kind].weight * unit

    measured = times.keys() | {key.kind for key, figures in running.items() if _has_pace(figures)}
    spent = sum(sum(seconds) for seconds in times.values())
    left = guessed = 0.0
    for key in _left(planned, observation, stage):
        whole = expected(key.kind)
        figures = running.get(key)
        rest = whole if figures is None else _rest(whole, figures)
        left += rest
        if key.kind not in measured and (figures is None or figures.estimated_remaining_seconds is None):
            guessed += rest
        spent += max(whole - rest, 0.0)
    enough = guessed <= max(left / 2, TRUSTED * _evidence(times, running))
    return Forecast(spent / (spent + left) if spent + left > 0 else 0.0, left if enough else None)


def _left(planned: Iterable[TaskKey], observation: Observation, stage: int) -> list[TaskKey]:
    """A stage that a rollback left behind is not made up for; one that ends the run has only its export to come."""
    decision = observation.decisions.get(stage)
    if decision is not None and decision.verdict in ("converged", "stopped"):
        export = TaskKey(stage, Kind.EXPORT)
        return [] if export in observation.committed else [export]
    return [key for key in planned if key.stage >= stage and key not in observation.committed]


def _times(observation: Observation) -> dict[Kind, list[float]]:
    times: dict[Kind, list[float]] = {}
    for key, committed in observation.committed.items():
        if "wall/seconds" in committed.metrics:
            times.setdefault(key.kind, []).append(committed.metrics["wall/seconds"])
    return times


def _unit(times: Mapping[Kind, list[float]], running: Mapping[TaskKey, TaskFigures]) -> float:
    spent = sum(sum(seconds) for seconds in times.values())
    weight = sum(KINDS[kind].weight * len(seconds) for kind, seconds in times.items())
    for key, figures in running.items():
        if _has_pace(figures):
            spent += _lasted(figures) * 100 / (figures.progress_percentage or 100.0)
            weight += KINDS[key.kind].weight
    return spent / weight if weight else UNIT_SECONDS


def _has_pace(figures: TaskFigures) -> bool:
    return (figures.progress_percentage or 0.0) / 100 > TELLING and _lasted(figures) >= PACE_SECONDS


def _lasted(figures: TaskFigures) -> float:
    """Seconds from a running task's start to its last word."""
    if figures.started is None or figures.last_updated is None:
        return 0.0
    return figures.last_updated - figures.started


def _evidence(times: Mapping[Kind, list[float]], running: Mapping[TaskKey, TaskFigures]) -> float:
    """Seconds of tasks that have been seen; 0 where they are too few to say anything."""
    seconds = sum(sum(each) for each in times.values()) + sum(
        _lasted(figures) for figures in running.values()
    )
    return seconds if seconds >= PACE_SECONDS else 0.0


def _rest(whole: float, figures: TaskFigures) -> float:
    """A task knows its own pace best."""
    if figures.estimated_remaining_seconds is not None:
        return figures.estimated_remaining_seconds
    return whole * (1.0 - (figures.progress_percentage or 0.0) / 100)

"""What `gapo run` says when it is asked to stop: what it waits for, for how long, and what not waiting costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapo.metrics.catalogue import PHASES
from gapo.metrics.figures import TaskFigures
from gapo.tasks import KINDS, Task
from gapo.telemetry.wording import STEP, clock


def stopping(task: Task, name: str, figures: TaskFigures, now: float, grace: float | None) -> str:
    """One task that is asked to stop. `grace` is how long it may take, in seconds; None: until it is asked again."""
    stop = KINDS[task.kind].interruption
    if stop is None:
        waits = f"{name} saves nothing on the way, so it is waited for{_left(figures, now)}"
    elif STEP not in figures.metrics:  # told from the beginning of its first step on, with 0 of them done
        waits = (
            f"{name} must finish preparing first ({stop.prepares}) and do {stop.begins}; then it saves where it is, "
            "and ends"
        )
    else:
        waits = f"{name} saves where it is after {stop.saves_after}, and ends{_iteration(task, figures, now)}"
    then = "Ctrl-C again ends it at once" if grace is None else f"after {grace:g} s it is ended in any case"
    return f"stopping: {waits}. {then}: {_cost(figures, now)} would be done again"


def ended_at_once(name: str, figures: TaskFigures, now: float) -> str:
    """One task that is not waited for any longer."""
    return f"{name} is ended at once: {_cost(figures, now)} will be done again"


def _iteration(task: Task, figures: TaskFigures, now: float) -> str:
    """How long the iteration under way would still take, by those that this attempt has done; empty where it has none."""
    counter = KINDS[task.kind].rollouts_metric
    if counter is None:
        return ""
    took = _iteration_seconds(task.params, figures, counter)
    if took is None or figures.last_updated is None:
        return " (the iteration is not waited for; how long one takes is not known yet)"
    left = max(0.0, took - (now - figures.last_updated))
    return f" (the iteration is not waited for; it would take {_time(left)} more, as the last ones took {_time(took)})"


def _iteration_seconds(params: Mapping[str, Any], figures: TaskFigures, counter: str) -> float | None:
    """Mean of the iterations since the attempt began; None before the first is over."""
    done = figures.metrics.get(counter, 0.0) / params["stages"]["rolloutsPerIteration"]
    took = sum(figures.metrics.get(f"wall/{phase}", 0.0) for phase in PHASES)
    return took / done if done > 0 and took > 0 else None


def _left(figures: TaskFigures, now: float) -> str:
    if figures.estimated_remaining_seconds is None or figures.last_updated is None:
        return "; how long it takes is not known yet"
    return (
        f": about {_time(max(0.0, figures.estimated_remaining_seconds - (now - figures.last_updated)))} more"
    )


def _cost(figures: TaskFigures, now: float) -> str:
    """The work that would be lost."""
    if figures.checkpoint is not None:
        return f"what it did in the {_time(now - figures.checkpoint)} since its last resume point"
    if figures.started is not None:
        return f"what it did in the {_time(now - figures.started)} since it started"
    return "what it did since it started"


def _time(seconds: float) -> str:
    """Such as `45 s`, `12:07 min` or `3:12:07 h`."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{clock(whole)} {'min' if whole < 3600 else 'h'}"

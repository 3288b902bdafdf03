"""Figures in words: the same ones on a terminal, in what is piped into a file, and in a task's log. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gapo.metrics.catalogue import METRICS, RUN_FAMILIES
from gapo.metrics.figures import TaskFigures

STEP, STEPS, PACE = "task/step", "task/steps", "task/tokens_per_second"
"""What a running task tells beside its figures: the step that is done, how many there are, tokens a second."""
ON_TERMINAL = tuple(f.source for f in METRICS if f.progress == "terminal")
IN_LOG = tuple(f.source for f in METRICS if f.progress)
"""Figures of a running task, the main ones first."""
RESULTS = (*(f.source for f in METRICS if f.result), *(f.source for f in RUN_FAMILIES if f.result))
"""Figures of a task that has ended, the main ones first."""
UNKNOWN_TIME = "time left unknown yet"


def clock(seconds: float) -> str:
    """Such as 12:07, and 3:12:07 from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def working(figures: TaskFigures, names: Sequence[str] = ON_TERMINAL, *, most: int = 4) -> str:
    """Where a running task is, such as `45 %, step 9 of 20, 1:20 left, ppo/reward 0.512, 5,231 tokens/s`."""
    metrics = figures.metrics
    parts = []
    if figures.progress_percentage is not None:
        parts.append(f"{figures.progress_percentage:.0f} %")
    if STEP in metrics and STEPS in metrics:
        parts.append(f"step {metrics[STEP]:.0f} of {metrics[STEPS]:.0f}")
    if figures.estimated_remaining_seconds:
        parts.append(f"{clock(figures.estimated_remaining_seconds)} left")
    parts += shown(metrics, names, most=most)
    if PACE in metrics:
        parts.append(f"{metrics[PACE]:,.0f} tokens/s")
    return ", ".join(parts)


def left(seconds: float | None) -> str:
    """The time that something still takes, where that can be said."""
    return UNKNOWN_TIME if seconds is None else f"about {clock(seconds)} left"


def shown(metrics: Mapping[str, float], names: Sequence[str] = RESULTS, *, most: int = 4) -> list[str]:
    """The first of these figures that are there, with their values."""
    return [f"{name} {_number(metrics[name])}" for name in names if name in metrics][:most]


def _number(value: float) -> str:
    """Three decimals, and more of what is small, such as a learning rate."""
    return f"{value:.2g}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"


def fewer_prompts(metrics: Mapping[str, float]) -> str | None:
    """A sentence about an evaluation that had fewer prompts than it was asked for; None for any other task."""
    for split, field, name in (
        ("validation", "evaluation.prompts", "eval/prompts"),
        ("test", "evaluation.testPrompts", "test/prompts"),
    ):
        had, asked = metrics.get(name), metrics.get(f"{name}_asked")
        if had is not None and asked is not None and had < asked:
            return (
                f"the {split} split has {had:.0f} prompts, fewer than the {asked:.0f} of {field}: "
                "figures on it have wider intervals than planned"
            )
    return None

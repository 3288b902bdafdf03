"""docs/benchmarks/kill.md: what `make test-kill` saw. Written where its tests have passed, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.experiments import machine

VICTIMS = {"task": "the task", "executor": "the executor", "other": "nobody: a second executor is started"}
MOMENTS = {
    "start": "soon after its start",
    "progress": "once it has told of progress",
    "resume": "once it has left a resume point",
    "pause": "between an attempt that was killed and the next",
}


@dataclass(frozen=True)
class Row:
    """One kill, in the order in which they struck."""

    victim: str
    task: str
    attempt: int
    moment: str
    iteration: int | None
    """Iterations in the last resume point there was; None without one."""


def page(manifest: str, rows: Sequence[Row], tasks: int, attempts: int, weights: int) -> str:
    """`tasks` of the run, each committed once; `attempts` that were started for them; `weights` files compared."""
    kills = sum(row.victim != "other" for row in rows)
    lines = [
        f"| {row.task} | {row.attempt} | {VICTIMS[row.victim]} | {MOMENTS[row.moment]} "
        f"| {'-' if row.iteration is None else row.iteration} |"
        for row in rows
    ]
    return "\n".join(
        [
            "# Killed and started again",
            "",
            f"Command: `make test-kill`, on `{manifest}`. Machine: {machine()}.",
            "",
            f"**Result: {kills} times `kill -9`, and a second executor besides; {tasks} tasks were committed once each, in "
            f"{attempts} attempts, none of them begun after its task's commit; all metrics and {weights} files of weights "
            "equal those of a run left alone, bit for bit.**",
            "",
            "Which tasks and which moments is drawn by seed: ten kills of a task and ten of the executor, with every kind of "
            "task among both. Resume points are stored as often as the run allows (0.2 s), so that many kills meet one.",
            "",
            "| task | attempt | killed | when | last resume point, at step |",
            "|---|---:|---|---|---:|",
            *lines,
            "",
        ]
    )

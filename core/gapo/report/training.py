"""How the training itself went, from committed rows: losses, learning rates, gradients, pace and memory."""

from __future__ import annotations

from collections.abc import Mapping

from gapo.report.data import RunData, TaskData
from gapo.report.report_model import CurveRow, IterationRow, Number, PeakMemory, Training
from gapo.tasks import kinds_of_line

PACE = "tokensPerSecond"
SAMPLED, TRAINED = "sampledTokensPerSecond", "trainedTokensPerSecond"
STEPS = {
    "sft": ("sft/loss", "sft/val_loss", "sft/lr", "sft/grad_norm"),
    "rm": ("rm/loss", "rm/lr", "rm/grad_norm"),
}
"""Line of kinds of tasks → what is kept of their `metrics.jsonl`."""
ITERATION = (
    "ppo/reward",
    "ppo/score",
    "ppo/score_std",
    "ppo/satisfaction",
    "ppo/kl",
    "ppo/kl_sft",
    "ppo/entropy",
    "ppo/response_length",
    "ppo/missing_eos",
    "ppo/clip_fraction",
    "critic/explained_variance",
    "ppo/policy_loss",
    "ppo/value_loss",
    "ppo/grad_norm",
    "critic/grad_norm",
    "ppo/lr",
    "critic/lr",
)
"""What is kept of ppo's `metrics.jsonl`."""
HOST, DEVICE = "wall/peak_memory_bytes", "wall/peak_device_memory_bytes"


def iterations(run: RunData) -> list[IterationRow]:
    """One row an iteration of PPO, over all stages in order; `iteration` counts through them from 0."""
    rows: list[IterationRow] = []
    for task in run.of_kind("ppo"):
        for row in task.series:
            figures = {name: row[name] for name in ITERATION if name in row} | _paces(row)
            if figures:
                rows.append(
                    IterationRow(iteration=len(rows), stage=task.stage, step=row.get("step"), figures=figures)
                )
    return rows


def _paces(row: Mapping[str, Number]) -> dict[str, float]:
    """Tokens that one iteration of PPO sampled and trained on a second of each."""
    paces = {
        SAMPLED: _per_second(row, "ppo/generated_tokens", "wall/rollout"),
        TRAINED: _per_second(row, "ppo/trained_tokens", "wall/update"),
    }
    return {name: value for name, value in paces.items() if value}


def _per_second(row: Mapping[str, Number], tokens: str, seconds: str) -> float | None:
    return row[tokens] / row[seconds] if row.get(seconds, 0.0) > 0 and tokens in row else None


def training(run: RunData) -> Training:
    """`sft` and `rm`: one row a look, `iteration` counts their steps through all stages. `memory`: one row a task."""
    return Training(sft=_steps(run, "sft"), rm=_steps(run, "rm"), memory=_memory(run))


def _steps(run: RunData, line: str) -> list[CurveRow]:
    rows: list[CurveRow] = []
    before: Number = 0.0
    for task in run.of_kind(*kinds_of_line(line)):
        rows += _of_task(task, line, before)
        before = rows[-1].iteration if rows else before
    return rows


def _of_task(task: TaskData, line: str, before: Number) -> list[CurveRow]:
    rows: list[CurveRow] = []
    tokens: Number = 0.0
    seconds: Number = 0.0
    for row in task.series:
        if "step" not in row:
            continue
        figures = {name: row[name] for name in STEPS[line] if name in row}
        done, spent = row.get(f"{line}/trained_tokens"), row.get("wall/seconds")
        if done is not None and spent is not None:
            if done > tokens and spent > seconds:
                figures[PACE] = (done - tokens) / (spent - seconds)
            tokens, seconds = done, spent
        if figures:
            rows.append(CurveRow(iteration=before + row["step"], stage=task.stage, figures=figures))
    return rows


def _memory(run: RunData) -> list[PeakMemory]:
    return [
        PeakMemory(
            stage=task.stage, kind=task.kind, host=task.metrics.get(HOST), device=task.metrics.get(DEVICE)
        )
        for task in run.tasks
        if HOST in task.metrics or DEVICE in task.metrics
    ]

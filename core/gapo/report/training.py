"""How the training itself went, from committed rows: losses, learning rates, gradients, pace and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapo.report.data import RunData, TaskData

PACE = "tokensPerSecond"
SAMPLED, TRAINED = "sampledTokensPerSecond", "trainedTokensPerSecond"
STEPS = {
    "sft": (("sft",), ("sft/loss", "sft/val_loss", "sft/lr", "sft/grad_norm")),
    "rm": (("rm-warmup", "rm"), ("rm/loss", "rm/lr", "rm/grad_norm")),
}
"""Model → the kinds of tasks that train it, and what is kept of their `metrics.jsonl`."""
ITERATION = ("ppo/policy_loss", "ppo/value_loss", "ppo/grad_norm", "critic/grad_norm", "ppo/lr", "critic/lr")
"""What is kept of ppo's."""
MEMORY = {"host": "wall/peak_memory_bytes", "device": "wall/peak_device_memory_bytes"}


def training(run: RunData) -> dict[str, Any]:
    """`sft` and `rm`: one row a look, `iteration` counts their steps through all stages. `memory`: one row a task."""
    return {model: _steps(run, model) for model in STEPS} | {"memory": _memory(run)}


def paces(row: Mapping[str, float]) -> dict[str, float]:
    """Tokens that one iteration of PPO sampled and trained on a second of each."""
    found = {
        SAMPLED: _per_second(row, "ppo/generated_tokens", "wall/rollout"),
        TRAINED: _per_second(row, "ppo/trained_tokens", "wall/update"),
    }
    return {name: value for name, value in found.items() if value}


def _per_second(row: Mapping[str, float], tokens: str, seconds: str) -> float | None:
    return row[tokens] / row[seconds] if row.get(seconds, 0.0) > 0 and tokens in row else None


def _steps(run: RunData, model: str) -> list[dict[str, Any]]:
    kinds, names = STEPS[model]
    rows: list[dict[str, Any]] = []
    before = 0.0
    for task in run.of_kind(*kinds):
        rows += _of_task(task, model, names, before)
        before = rows[-1]["iteration"] if rows else before
    return rows


def _of_task(task: TaskData, model: str, names: tuple[str, ...], before: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    tokens = seconds = 0.0
    for row in task.series:
        if "step" not in row:
            continue
        kept: dict[str, Any] = {name: row[name] for name in names if name in row}
        done, spent = row.get(f"{model}/trained_tokens"), row.get("wall/seconds")
        if done is not None and spent is not None:
            if done > tokens and spent > seconds:
                kept[PACE] = (done - tokens) / (spent - seconds)
            tokens, seconds = done, spent
        if kept:
            found.append({"iteration": before + row["step"], "stage": task.stage, **kept})
    return found


def _memory(run: RunData) -> list[dict[str, Any]]:
    rows = []
    for task in run.tasks:
        held = {name: task.metrics[metric] for name, metric in MEMORY.items() if metric in task.metrics}
        if task.committed and held:
            rows.append({"stage": task.stage, "kind": task.kind, **held})
    return rows

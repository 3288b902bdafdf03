"""Which function runs which kind of task."""

from __future__ import annotations

from collections.abc import Callable

from gapo.tasks import Kind
from gapo_trainer import export, sft
from gapo_trainer import import_run as imports
from gapo_trainer.data import task as data
from gapo_trainer.evaluate import task as evaluate
from gapo_trainer.ppo import task as ppo
from gapo_trainer.reward import task as reward
from gapo_trainer.task.context import TaskContext

TASKS: dict[Kind, Callable[[TaskContext], dict[str, float]]] = {
    Kind.DATA: data.run,
    Kind.IMPORT: imports.run,
    Kind.SFT: sft.run,
    Kind.RM_WARMUP: reward.run_warmup,
    Kind.PPO: ppo.run,
    Kind.EVALUATE: evaluate.run,
    Kind.RM: reward.run_stage,
    Kind.EXPORT: export.run,
}
"""A task function leaves files in `ctx.out` and returns the manifest's metrics (docs/artifacts.md)."""

"""Which function runs which kind of task."""

from __future__ import annotations

from collections.abc import Callable

from gapo.tasks import Kind
from gapo_trainer import sft
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.tasks import data, evaluate, export, ppo
from gapo_trainer.tasks import import_run as imports
from gapo_trainer.tasks import reward_model as reward

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

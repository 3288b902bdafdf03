"""Which function runs which kind of task: each module of this folder registers its own."""

from __future__ import annotations

from collections.abc import Callable

from gapo.tasks import Kind
from gapo_trainer.runtime.context import TaskContext

TaskFunction = Callable[[TaskContext], dict[str, float]]
"""Leaves files in `ctx.out` and returns the manifest's metrics (docs/artifacts.md)."""

FUNCTIONS: dict[Kind, TaskFunction] = {}


def runs(kind: Kind) -> Callable[[TaskFunction], TaskFunction]:
    """Registers the decorated function as the one that runs `kind`."""

    def register(function: TaskFunction) -> TaskFunction:
        if kind in FUNCTIONS:
            raise ValueError(f"{kind.value} is run by {FUNCTIONS[kind].__module__} already")
        FUNCTIONS[kind] = function
        return function

    return register

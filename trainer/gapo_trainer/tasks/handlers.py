"""The functions of all kinds of tasks; importing this imports torch and everything that a task needs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from gapo.tasks import Kind
from gapo_trainer import tasks
from gapo_trainer.tasks.registry import FUNCTIONS, TaskFunction

for _module in iter_modules(tasks.__path__, f"{tasks.__name__}."):
    if _module.name != __name__:
        import_module(_module.name)

TASKS: Mapping[Kind, TaskFunction] = FUNCTIONS

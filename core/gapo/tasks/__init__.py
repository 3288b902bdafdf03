"""Tasks: the unit of work that reads committed artifacts and commits one new artifact."""

from gapo.tasks.kinds import KINDS, Kind, TaskKind, kinds_of_line
from gapo.tasks.needs import model_of, models_of, role_of
from gapo.tasks.task import STOP_GRACE_SECONDS, Task, TaskKey, manifest_of, task_digest, task_params

__all__ = [
    "KINDS",
    "STOP_GRACE_SECONDS",
    "Kind",
    "Task",
    "TaskKey",
    "TaskKind",
    "kinds_of_line",
    "manifest_of",
    "model_of",
    "models_of",
    "role_of",
    "task_digest",
    "task_params",
]

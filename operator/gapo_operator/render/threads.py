"""How many CPU threads a task's process takes (docs/contracts/tasks.md#threads)."""

from __future__ import annotations

from gapo.api.placement import Role
from gapo.api.quantity import amount
from gapo.api.run import GapoRunSpec
from gapo.tasks import Task, role_of


def threads_of(role: Role) -> int | None:
    """`threads` as written, or the whole cores of the CPU limit, and one at least: a process in a pod sees all cores
    of the node, and would crowd out its neighbours for nothing. None without a limit."""
    if role.threads is not None:
        return role.threads
    limit = role.resources.limits.get("cpu")
    return None if limit is None else max(1, int(amount(limit)))


def with_threads(task: Task, spec: GapoRunSpec) -> Task:
    """The task as it is handed over on a cluster. Its digest, which says what it computes, stays the same."""
    return task.model_copy(update={"threads": threads_of(role_of(spec, task.kind))})

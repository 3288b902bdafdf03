"""What a task function gets: its inputs on disk, a scratch folder for its output, and two ways to report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gapo.store.objects import Objects
from gapo.tasks import Task
from gapo_trainer.remote import Opener, by_environment


class Resume(Protocol):
    """Resume points inside a task (docs/contracts.md 11)."""

    def restore(self, into: Path) -> int | None:
        """Fetches the last resume point's files; its iteration, or None where there is none."""

    def due(self) -> bool:
        """True when the checkpoint interval has passed, or a stop was asked for."""

    def save(self, folder: Path, iteration: int) -> None:
        """Uploads the folder as the resume point after `iteration`. Raises StopRequested where a stop waits."""


@dataclass(frozen=True)
class TaskContext:
    """Everything from outside that a task function may touch."""

    task: Task
    inputs: Mapping[str, Path]
    """Verified copies of the inputs' files, by input name."""
    out: Path
    """Files left here are committed under their relative names."""
    scratch: Path
    resume: Resume
    report: Callable[[Mapping[str, Any]], None]
    """Progress: `{"fraction": 0…1, "metrics": {flat name: number}}`; throttled, never decided on."""
    other_run: Callable[[str, str], Objects] | None = None
    """Another run of the same namespace and location, by name and run ID; read only."""
    open: Opener = by_environment
    """A folder of object storage by its address: where it is of the run's kind of storage, at the run's service."""

    @property
    def params(self) -> Mapping[str, Any]:
        return self.task.params

"""What a task function gets: its inputs on disk, a scratch folder for its output, and two ways to report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gapo.api.run import GapoRunSpec
from gapo.store.objects import Objects
from gapo.tasks import Task, TaskKey
from gapo_trainer.user_files import Opener, by_environment

RESTORED = "resumed"
"""Folder in scratch."""


class Resume(Protocol):
    """Resume points inside a task (docs/contracts/tasks.md#resume-points)."""

    def restore(self, into: Path) -> int | None:
        """Fetches the last resume point's files; its iteration, or None where there is none."""

    def due(self) -> bool:
        """True when the checkpoint interval has passed, or a stop was asked for."""

    def save(self, folder: Path, iteration: int) -> None:
        """Copies the folder and uploads the copy as the resume point after `iteration`. Raises StopRequestedError where
        a stop waits."""


@dataclass(frozen=True)
class RolloutAccess:
    """The vLLM servers that draw a task's samples, and what they ask of whoever speaks to them."""

    urls: tuple[str, ...]
    token: str
    claim: int
    """Number of the claim under which the executor drives the run: servers refuse an older one's."""
    writer: str
    """This process's name among all that ever publish weights for the run."""


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
    """Progress: `{"fraction": 0…1, "metrics": {flat name: number}}`; throttled, never decided on.

    A task of steps adds `step` (done), `steps` (of so many) and `tokens` (worked on so far), and as `running` what it
    knows of figures between two looks; `metrics` take the place of all that was told before.
    """
    other_run: Callable[[str, str], Objects] | None = None
    """Another run of the same namespace and location, by name and run ID; read only."""
    metrics_of: Callable[[TaskKey], Mapping[str, float]] = lambda _task: {}
    """What another task of this run has committed, to be told of and never computed with; empty where it has not."""
    open: Opener = by_environment
    """A folder of object storage by its address: where it is of the run's kind of storage, at the run's service."""
    spec: GapoRunSpec | None = None
    """The run's whole specification as it was begun, for the task that looks ahead (`data`); None elsewhere, and where
    there is no run.json."""

    rollout: RolloutAccess | None = None
    """The run's rollout servers; None where samples are drawn in process."""
    due_within: Callable[[], bool] = lambda: False
    """As `Resume.due`, for a task that can save where it is within an iteration."""

    def restore(self) -> tuple[int, Path] | None:
        """The last resume point's iteration and files; None where there is none."""
        iteration = self.resume.restore(self.scratch / RESTORED)
        return None if iteration is None else (iteration, self.scratch / RESTORED)

    def save_resume_point(self, iteration: int, write: Callable[[Path], None] | None) -> None:
        """Makes what `write` puts into a folder the resume point after `iteration`; None: another process writes.

        Nothing of it stays in scratch, nor of the one that the task began from: a point of a model is some gigabytes.
        Raises StopRequestedError where a stop waits.
        """
        folder = self.scratch / "resume"
        try:
            if write is not None:
                folder.mkdir()
                write(folder)
            self.resume.save(folder, iteration)
        finally:
            for left in (folder, self.scratch / RESTORED):
                shutil.rmtree(left, ignore_errors=True)

    @property
    def params(self) -> Mapping[str, Any]:
        return self.task.params

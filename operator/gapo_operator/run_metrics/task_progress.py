"""progress.json of a run's running tasks, for people to look at. What cannot be read is not shown; no pass fails for it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gapo.errors import GapoError
from gapo.metrics.figures import TaskFigures
from gapo.metrics.progress_file import PROGRESS_LIMIT, task_figures
from gapo.planning.observation import AttemptKey
from gapo.store import layout
from gapo.store.objects import Objects
from gapo.tasks import Task

log = logging.getLogger(__name__)

READ_SECONDS = 30.0
"""Between two looks at a run's tasks, ± a fifth so that runs do not look all at once."""


@dataclass
class _File:
    """One attempt's progress.json."""

    writer: str
    task: Task | None = None
    etag: str | None = None
    figures: TaskFigures | None = None


class ProgressReader:
    """What the tasks of one run have written last. A file that has not changed is not sent again."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due = 0.0
        self._files: dict[AttemptKey, _File] = {}

    def look(
        self, objects: Objects, running: Mapping[AttemptKey, str], task_of: Callable[[AttemptKey], Task]
    ) -> dict[AttemptKey, TaskFigures]:
        """`running`: attempt → its pod's UID, under which it writes; `task_of` reads what was handed over."""
        self._files = {
            attempt: file for attempt, file in self._files.items() if running.get(attempt) == file.writer
        }
        now = self._monotonic()
        if running and now >= self._due:
            self._due = now + READ_SECONDS * random.uniform(0.8, 1.2)
            for attempt, writer in running.items():
                self._read(objects, attempt, self._files.setdefault(attempt, _File(writer)), task_of)
        return {attempt: f.figures for attempt, f in self._files.items() if f.figures is not None}

    def _read(
        self, objects: Objects, attempt: AttemptKey, file: _File, task_of: Callable[[AttemptKey], Task]
    ) -> None:
        stage, kind = attempt.task.stage, attempt.task.kind.value
        try:
            file.task = file.task or task_of(attempt)
            key = layout.progress(stage, kind, attempt.attempt, file.writer)
            newer = objects.get_newer(key, file.etag, PROGRESS_LIMIT)
        except (GapoError, ValueError) as error:
            log.debug("progress of %s: %s", attempt.task, error)
            return
        if newer is not None:
            data, file.etag = newer
            file.figures = task_figures(data, run_id=file.task.run_id, task_digest=file.task.digest)

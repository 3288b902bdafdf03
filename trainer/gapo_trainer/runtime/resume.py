"""Resume points of a running task (docs/contracts/tasks.md#resume-points): copied to disk at once, uploaded
beside the training."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gapo.errors import InputArtifactError, StoreError
from gapo.store import layout
from gapo.store.claims import Fence
from gapo.store.commit import fetch, resume_points, write_resume_point
from gapo.store.objects import Objects
from gapo.store.records import RESUME_POINTS_KEPT, ResumePoint
from gapo.tasks import Task

log = logging.getLogger(__name__)


class StopRequestedError(Exception):
    """The process was asked to stop and has saved what it could."""


class ResumePoints:
    """One task's resume points. `stop` may be set by a signal handler."""

    def __init__(
        self,
        objects: Objects,
        task: Task,
        writer: str,
        spool: Path,
        fence: Fence | None,
        stop: threading.Event,
        stored: Callable[[], None],
    ) -> None:
        """`stored` is called, in another thread, when a point is there for others to find."""
        self._objects, self._task, self._writer, self._spool = objects, task, writer, spool
        self._fence, self._stop, self._stored = fence, stop, stored
        self._saved_at = time.monotonic()
        self._next_number = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="resume")
        self._upload: Future[None] | None = None
        self._own: list[ResumePoint] = []
        self._count = 0

    def restore(self, into: Path) -> int | None:
        """Fetches the furthest resume point that is whole; its iteration, or None where the task starts afresh."""
        task = self._task
        points = resume_points(
            self._objects, task.stage, task.kind.value, run_id=task.run_id, task_digest=task.digest
        )
        self._next_number = max((point.number for point in points), default=-1) + 1
        for point in points:
            try:
                fetch(self._objects, point, None, into)
            except InputArtifactError as error:
                log.warning("resume point %d not used: %s", point.number, error)
                shutil.rmtree(into, ignore_errors=True)
                into.mkdir(parents=True)
                continue
            log.info("resuming after iteration %d, from resume point %d", point.iteration, point.number)
            return point.iteration
        return None

    def due(self) -> bool:
        """True when a stop waits, or the interval has passed and no upload is under way."""
        if self._stop.is_set():
            return True
        if self._upload is not None and not self._upload.done():
            return False
        return time.monotonic() - self._saved_at >= self._task.checkpoint_interval

    def save(self, folder: Path, iteration: int) -> None:
        """Copies the folder and uploads the copy in the background.

        Raises StopRequestedError, after the upload, where a stop waits; what an earlier upload raised otherwise.
        """
        self._settle()
        self._count += 1
        copy = self._spool / f"resume-{iteration}-{self._count}"
        shutil.copytree(folder, copy)
        self._upload = self._pool.submit(self._store, copy, iteration)
        self._saved_at = time.monotonic()
        if self._stop.is_set():
            self._settle()
            raise StopRequestedError

    def close(self) -> None:
        """Waits for an upload under way; its failure no longer matters."""
        self._pool.shutdown(wait=True)

    def _settle(self) -> None:
        if self._upload is not None:
            try:
                self._upload.result()
            except StoreError as error:
                # The run can go on without this point; a store that stays away will fail the commit.
                log.warning("resume point not stored: %s", error)
            self._upload = None

    def _store(self, copy: Path, iteration: int) -> None:
        try:
            point = self._uploaded(copy, iteration)
        finally:
            shutil.rmtree(
                copy, ignore_errors=True
            )  # stored or not: the next point holds all that this one does
        self._stored()
        self._own.append(point)
        for older in self._own[:-RESUME_POINTS_KEPT]:
            for ref in older.objects.values():
                self._objects.delete(ref.key)
        del self._own[:-RESUME_POINTS_KEPT]

    def _uploaded(self, copy: Path, iteration: int) -> ResumePoint:
        task = self._task
        if self._fence is not None:
            self._fence.check()
        prefix = layout.writer_prefix(task.stage, task.kind.value, task.attempt, self._writer)
        point = ResumePoint(
            run_id=task.run_id,
            stage=task.stage,
            kind=task.kind.value,
            number=self._next_number,
            task_digest=task.digest,
            iteration=iteration,
            objects=self._objects.upload_folder(copy, f"{prefix}/{copy.name}"),
            writer=self._writer,
            attempt=task.attempt,
        )
        self._next_number = write_resume_point(self._objects, point).number + 1
        return point

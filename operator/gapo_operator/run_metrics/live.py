"""The figures of a run that lives: what its storage holds, what its tasks tell, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gapo.api.load import LoadedRun
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.planning.observation import AttemptKey, Observation
from gapo.planning.plan import State, Status
from gapo.planning.preview import planned_keys
from gapo.run.storage import RunStorage
from gapo.tasks import TaskKey
from gapo.telemetry.eta import forecast
from gapo.telemetry.from_observation import figures_of
from gapo_operator.kube.job_states import AttemptJob, JobState
from gapo_operator.run_metrics.task_progress import ProgressReader


class LiveFigures:
    """Of one run, between passes. Worked out anew only where something that it stands on has changed."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._progress = ProgressReader(monotonic)
        self._planned: tuple[LoadedRun, tuple[TaskKey, ...]] | None = None
        self._last: tuple[object, RunFigures] | None = None

    def task_figures(
        self, driver: RunStorage, observation: Observation, attempt_jobs: Mapping[AttemptKey, AttemptJob]
    ) -> dict[AttemptKey, TaskFigures]:
        """What the tasks that run have written last of themselves."""
        running = {
            attempt: attempt_job.pod
            for attempt, attempt_job in sorted(attempt_jobs.items())
            if attempt_job.state is JobState.RUNNING
            and attempt_job.pod
            and attempt.task not in observation.committed
        }
        return self._progress.look(driver.objects, running, driver.handed_over)

    def figures(
        self,
        driver: RunStorage,
        loaded: LoadedRun,
        status: Status,
        observation: Observation,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        task_figures: Mapping[AttemptKey, TaskFigures],
    ) -> RunFigures:
        """`loaded` is the same object for as long as the manifest is the same."""
        started = {
            attempt: attempt_job.started_at
            for attempt, attempt_job in attempt_jobs.items()
            if attempt_job.started_at is not None and not attempt_job.over
        }
        running = any(attempt_job.state is JobState.RUNNING for attempt_job in attempt_jobs.values())
        inputs = (loaded, status, observation, started, running, task_figures)
        if self._last is None or self._last[0] != inputs:
            progress, left = self._expected(driver, loaded, status, observation, task_figures)
            figures = figures_of(
                loaded.run.metadata.namespace,
                loaded.run.metadata.name,
                driver.facts.spec,
                observation,
                status,
                progress=progress,
                remaining_seconds=left if running else None,
                started=started,
            )
            self._last = (inputs, figures)
        return self._last[1]

    def _expected(
        self,
        driver: RunStorage,
        loaded: LoadedRun,
        status: Status,
        observation: Observation,
        task_figures: Mapping[AttemptKey, TaskFigures],
    ) -> tuple[float, float | None]:
        """The share that is done, and the seconds that are left, where enough has run to tell."""
        if status.state is State.SUCCEEDED:
            return 1.0, 0.0
        if self._planned is None or self._planned[0] is not loaded:
            self._planned = (loaded, planned_keys(driver.facts.spec))
        figures_of_tasks = {attempt.task: figures for attempt, figures in task_figures.items()}
        expected = forecast(self._planned[1], observation, status.stage, figures_of_tasks)
        return expected.progress, expected.remaining_seconds

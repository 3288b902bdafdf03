"""What this machine's executor can tell of its run: the figures behind the terminal's view and behind scrapes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gapo.errors import GapoError
from gapo.local.executor import Launched
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.metrics.progress_file import PROGRESS_LIMIT, task_figures
from gapo.metrics.samples import Sample, run_samples, task_samples
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts, Status
from gapo.run.reader import Observer
from gapo.store import layout
from gapo.store.objects import Objects
from gapo.tasks import KINDS, TaskKey
from gapo.telemetry.eta import Forecast, forecast
from gapo.telemetry.from_observation import figures_of


@dataclass(frozen=True)
class Moment:
    """A run as it was looked at. Never changes, so that threads may share it."""

    observation: Observation
    run: RunFigures
    forecast: Forecast
    tasks: Mapping[str, tuple[Launched, TaskFigures]]
    """By the attempt's name."""


SHORTEST_WAIT, LONGEST_WAIT = 2.0, 60.0
"""Seconds since the last scrape that a run's end waits for the next; between them, twice the scraper's interval."""


class Scrapes:
    """When somebody asked, so that whoever asks regularly can be waited for at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked = threading.Condition()
        self._last: float | None = None
        self._interval: float | None = None

    def note(self) -> None:
        """Somebody asks."""
        with self._asked:
            now = self._clock()
            self._interval = None if self._last is None else now - self._last
            self._last = now
            self._asked.notify_all()

    @property
    def regular(self) -> bool:
        """Somebody has asked more than once, and lately."""
        with self._asked:
            return self._left() > 0

    def await_next(self) -> bool:
        """Waits until somebody asks again, at most as long as that may be expected of them."""
        with self._asked:
            left = self._left()
            return left > 0 and self._asked.wait(left)

    def _left(self) -> float:
        if self._last is None or self._interval is None:
            return 0.0
        usual = min(max(2 * self._interval, SHORTEST_WAIT), LONGEST_WAIT)
        return usual - (self._clock() - self._last)


class RunWatch:
    """Looks at storage and at the running tasks' progress.json whenever it is told to, and keeps the last look."""

    def __init__(
        self, facts: RunFacts, namespace: str, name: str, observer: Observer, planned: Sequence[TaskKey]
    ) -> None:
        """`planned` are the run's tasks if every stage goes on."""
        self.facts, self.namespace, self.name = facts, namespace, name
        self.observer, self.planned = observer, planned
        self.moment: Moment | None = None
        self.scrapes = Scrapes()

    def look(self, status: Status, running: Iterable[Launched]) -> Moment:
        """Costs one GET a running task. What cannot be read just now stays as it was."""
        before = self.moment.tasks if self.moment else {}
        tasks = {
            launched.name: (
                launched,
                _progress_of(self.observer.objects, launched) or _last(before, launched),
            )
            for launched in running
        }
        observation = self.observer.observation()
        live = {launched.task.key: figures for launched, figures in tasks.values()}
        expected = forecast(self.planned, observation, status.stage, live)
        figures = figures_of(
            self.namespace,
            self.name,
            self.facts.spec,
            observation,
            status,
            progress=expected.progress,
            remaining_seconds=expected.remaining_seconds if tasks else None,
            started={launched.key: launched.started_at for launched, _ in tasks.values()},
        )
        self.moment = Moment(observation, figures, expected, tasks)
        return self.moment

    def samples(self) -> list[Sample]:
        """What was true at the last look: the run, its stages, and each running task with its labels."""
        self.scrapes.note()
        moment = self.moment
        if moment is None:
            return []
        samples = run_samples(moment.run)
        for launched, figures in moment.tasks.values():
            labels = {
                "namespace": self.namespace,
                "run": self.name,
                "stage": str(launched.task.stage),
                "role": KINDS[launched.task.kind].role,
            }
            samples += task_samples(labels, figures)
        return samples


def _progress_of(objects: Objects, launched: Launched) -> TaskFigures | None:
    task = launched.task
    key = layout.progress(task.stage, task.kind.value, task.attempt, launched.writer)
    try:
        data = objects.get(key, limit=PROGRESS_LIMIT)
    except GapoError:
        return None
    progress = None if data is None else task_figures(data, run_id=task.run_id, task_digest=task.digest)
    if progress is None:
        return None
    return replace(progress, started=progress.started or launched.started_at.timestamp())


def _last(before: Mapping[str, tuple[Launched, TaskFigures]], launched: Launched) -> TaskFigures:
    if launched.name in before:
        return before[launched.name][1]
    return TaskFigures(started=launched.started_at.timestamp())

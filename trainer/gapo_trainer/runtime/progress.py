"""What a task tells while it runs: progress.json beside its objects, and `/metrics` on a port of its own.

Both show one account, which is all that the training waits for. Files are written and scrapes answered by threads of
their own, and nothing that fails there is a reason to stop.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from gapo.digest import canonical_json
from gapo.errors import GapoError
from gapo.metrics.catalogue import METRICS, PHASES
from gapo.metrics.figures import TaskFigures
from gapo.metrics.http import SampleCollector, serve
from gapo.metrics.samples import NONFINITE, task_samples
from gapo.store import layout
from gapo.store.objects import Objects
from gapo.tasks import Task
from gapo.telemetry.eta import PACE_SECONDS
from gapo.telemetry.wording import PACE, STEP, STEPS

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
"""Between two writes of progress.json."""
STEP_SECONDS = 5.0
"""Between two of them for mere steps, which bring no new figures."""
CLOSE_SECONDS = 2.0
"""How long the last write may hold up the task's end."""
COUNTED = frozenset(
    {metric.source for metric in METRICS if metric.live and metric.type == "counter"}
    | {f"wall/{phase}" for phase in PHASES}
)
"""Figures of an iteration that are added up; of all others the last is told, but for other clocks."""


class TaskProgress:
    """What a task has told since its attempt began. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self.changed = threading.Event()
        """Set whenever there is something new to tell."""
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._first: tuple[float, float] | None = None
        self._updated = self._started
        self._fraction = 0.0
        self._last: dict[str, float] = {}
        self._totals: dict[str, float] = {NONFINITE: 0.0}
        self._checkpoint: float | None = None
        self._announced_at = 0.0
        self._worked: tuple[float, float] | None = None

    def report(self, update: Mapping[str, Any]) -> None:
        """Takes what `TaskContext.report` is given. The pace counts from the first report: loading is no progress, and
        a resumed task begins in its midst."""
        with self._lock:
            self._updated = self._clock()
            self._fraction = min(max(float(update["fraction"]), 0.0), 1.0)
            if self._first is None:
                self._first = (self._updated, self._fraction)
            metrics: Mapping[str, float] = update.get("metrics", {})
            if metrics:
                self._last = {}
            for name, value in (*metrics.items(), *update.get("running", {}).items()):
                self._take(name, value)
            self._place(update)
            announce = (
                bool(metrics) or "step" not in update or self._updated - self._announced_at >= STEP_SECONDS
            )
            if announce:
                self._announced_at = self._updated
        if announce:
            self.changed.set()

    def checkpointed(self) -> None:
        """A resume point has been stored."""
        with self._lock:
            self._checkpoint = self._clock()
        self.changed.set()

    def figures(self) -> TaskFigures:
        """All of it, as of the last report."""
        with self._lock:
            any_report = self._first is not None
            return TaskFigures(
                progress_percentage=100.0 * self._fraction if any_report else None,
                estimated_remaining_seconds=self._remaining(),
                metrics=self._totals | self._last,
                last_updated=self._updated if any_report else None,
                started=self._started,
                checkpoint=self._checkpoint,
            )

    def _place(self, update: Mapping[str, Any]) -> None:
        """The step, and the pace since the first one of this attempt."""
        for name, key in ((STEP, "step"), (STEPS, "steps")):
            if key in update:
                self._totals[name] = float(update[key])
        if "tokens" not in update:
            return
        tokens = float(update["tokens"])
        if self._worked is None:
            self._worked = (self._updated, tokens)
        began, before = self._worked
        if self._updated - began >= 1.0:
            self._totals[PACE] = (tokens - before) / (self._updated - began)

    def _take(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            self._totals[NONFINITE] += 1
        elif name in COUNTED:
            self._totals[name] = self._totals.get(name, 0.0) + value
        elif not name.startswith("wall/"):
            self._last[name] = float(value)

    def _remaining(self) -> float | None:
        """Seconds from the last report, at the pace since the first; None before there is a pace to rest on."""
        if self._first is None:
            return None
        if self._fraction == 1.0:
            return 0.0
        began, at = self._first
        done, seconds = self._fraction - at, self._updated - began
        return (1.0 - self._fraction) * seconds / done if done > 0 and seconds >= PACE_SECONDS else None


class ProgressFile:
    """Keeps progress.json up with an account, at most twice a second, until it is closed."""

    def __init__(self, objects: Objects, task: Task, writer: str, account: TaskProgress) -> None:
        self._objects, self._task, self._account = objects, task, account
        self._key = layout.progress(task.stage, task.kind.value, task.attempt, writer)
        self._written: TaskFigures | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what was told last; gives up where the store does not answer."""
        self._closing.set()
        self._account.changed.set()
        self._thread.join(CLOSE_SECONDS)

    def _keep_up(self) -> None:
        last = False
        while not last:
            self._account.changed.wait()
            self._account.changed.clear()
            last = self._closing.is_set()
            self._write(self._account.figures())
            self._closing.wait(PROGRESS_SECONDS)

    def _write(self, figures: TaskFigures) -> None:
        if figures.last_updated is None or figures == self._written:
            return
        try:
            self._objects.put(self._key, canonical_json(document(self._task, figures)))
            self._written = figures
        except (GapoError, ValueError) as error:
            log.warning("progress not written: %s", error)


def document(task: Task, figures: TaskFigures) -> dict[str, Any]:
    """progress.json: the field names and types of Kubeflow's KEP-2779, and whose it is. What is not known is left out."""
    percentage, remaining = figures.progress_percentage, figures.estimated_remaining_seconds
    fields: dict[str, Any] = {
        "runID": task.run_id,
        "taskDigest": task.digest,
        "progressPercentage": None if percentage is None else int(percentage + 1e-6),
        "estimatedRemainingSeconds": None if remaining is None else math.ceil(remaining),
        "metrics": [
            {"name": name, "value": f"{value:.12g}"} for name, value in sorted(figures.metrics.items())
        ],
        "lastUpdatedTime": _time(figures.last_updated),
        "startTime": _time(figures.started),
        "checkpointTime": _time(figures.checkpoint),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _time(seconds: float | None) -> str | None:
    """RFC 3339, UTC, whole seconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def served(account: TaskProgress, port: int | None) -> Iterator[None]:
    """`/metrics` on this port of every address that the machine has; a port that is taken is told and no more."""
    with ExitStack() as stack:
        if port is not None:
            collector = SampleCollector(lambda: task_samples({}, account.figures()))
            anywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - a pod's own network
            try:
                stack.enter_context(serve([collector], anywhere, port))
            except OSError as error:
                log.warning("port %d: %s; this task serves no metrics", port, error.strerror or error)
        yield

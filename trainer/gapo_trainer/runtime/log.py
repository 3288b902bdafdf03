"""What a task's log tells while it runs: steps, losses and pace now and then, and never silence for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gapo.metrics.figures import TaskFigures
from gapo.telemetry.wording import IN_LOG, clock, working
from gapo_trainer.runtime.progress import TaskProgress

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Between two lines of a task that gets on."""
SILENT_SECONDS = 25.0
"""After which a task says that it is still at the same step."""
NAMES = (*IN_LOG, "sft/lr", "sft/grad_norm", "rm/lr", "rm/grad_norm", "ppo/lr", "ppo/grad_norm")
"""Figures in a line, the main ones first."""
MOST = 9


class ProgressLog:
    """Lines about an account: one where it has changed, and one where it has not for a while."""

    def __init__(
        self, account: TaskProgress, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._account, self._say, self._now = account, say, now
        self._last_figures: TaskFigures | None = None
        self._began = self._last_line_at = now()
        self._lock = threading.Lock()

    def look(self, *, last: bool = False) -> None:
        """Says what there is to say now; `last` leaves the words about a task that has not got on unsaid."""
        with self._lock:
            self._look(last)

    def _look(self, last: bool) -> None:
        figures = self._account.figures()
        if figures.last_updated is not None and figures != self._last_figures:
            self._line(working(figures, NAMES, most=MOST))
            self._last_figures = figures
        elif not last and self._now() - self._last_line_at >= SILENT_SECONDS:
            since = f"{clock(self._now() - self._began)} after the start"
            any_figures = self._last_figures is not None
            self._line(
                f"still at {working(figures, ())}, {since}" if any_figures else f"no figures yet, {since}"
            )

    def _line(self, text: str) -> None:
        self._last_line_at = self._now()
        self._say(text)


@contextmanager
def log_progress(account: TaskProgress, every: float = LINE_SECONDS) -> Iterator[ProgressLog]:
    """The account in the log, by a thread of its own, until the task is over."""
    talk, over = ProgressLog(account, lambda text: log.info("%s", text)), threading.Event()

    def go_on() -> None:
        while not over.wait(every):
            talk.look()
        talk.look(last=True)

    thread = threading.Thread(target=go_on, name="talk", daemon=True)
    thread.start()
    try:
        yield talk
    finally:
        over.set()
        thread.join()

"""What `gapo run` shows: a live view on a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gapo.cli.inspect import minutes, stage_table
from gapo.local.executor import Launched, View
from gapo.local.watch import Moment, RunWatch
from gapo.planner import Plan, State, Status
from gapo.policies.attempts import Cause
from gapo.store.records import Decision, Ended
from gapo.telemetry.figures import TaskFigures

LOOK_SECONDS = 1.0
LIVE_METRICS = (
    "ppo/reward",
    "ppo/kl",
    "ppo/satisfaction",
    "rm/pair_accuracy",
    "rm/loss",
    "sft/loss",
    "sft/val_loss",
)


class RunView(View):
    """Feeds on the executor's events, and on a look at the running tasks every second where somebody sees it."""

    def __init__(self, console: Console, watch: RunWatch, title: str, *, scraped: bool = False) -> None:
        """`scraped`: the watch's samples are served, so it looks without a terminal too."""
        self.console, self.watch, self.title, self.scraped = console, watch, title, scraped
        self.status: Status | None = None
        self._looked = 0.0
        self._started = time.monotonic()
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> RunView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def planned(self, made: Plan) -> None:
        before, self.status = self.status, made.status
        said = before is not None and before.message == made.status.message
        if not said and made.status.state is State.WAITING:
            self.say(f"{self._clock()} waiting: {made.status.message}")

    def started(self, launched: Launched) -> None:
        task = launched.task
        again = f" (attempt {task.attempt})" if task.attempt else ""
        resumed = ", from its last resume point" if launched.resume_before is not None else ""
        if not self._live or task.attempt:
            self.say(f"{self._clock()} {_name(launched)} starts{again}{resumed}")

    def ended(self, launched: Launched, record: Ended) -> None:
        name = _name(launched)
        if record.cause != Cause.COMMITTED.value:
            why = f": {record.message}" if record.message else ""
            self.say(f"{self._clock()} {name} ended ({record.cause}){why}")
            return
        took = (record.ended_at - record.started_at).total_seconds()
        committed = self.watch.observer.seen().committed.get(launched.task.key)
        figures = committed.metrics if committed else {}
        self.say(f"{self._clock()} {name} done in {took:.1f} s{_headline(figures)}")

    def decided(self, decision: Decision) -> None:
        self.say(f"{self._clock()} A{decision.stage} decided: {decision.verdict} ({decision.reason})")

    def tick(self, running: list[Launched]) -> None:
        now = time.monotonic()
        seen_by_somebody = self._live is not None or self.scraped
        if self.status is None or not seen_by_somebody or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        moment = self.watch.look(self.status, running)
        if self._live is not None:
            self._live.update(self.render(moment), refresh=True)

    def render(self, moment: Moment) -> RenderableType:
        """What a scrape would tell at this moment, for a reader: stages, running tasks, progress and time left."""
        rows: list[RenderableType] = []
        if moment.seen.committed:
            rows.append(stage_table(moment.seen))
        for launched, figures in moment.tasks.values():
            percentage = figures.progress_percentage or 0.0
            line = Table.grid(padding=(0, 1))
            line.add_row(
                Text(_name(launched), style="bold"),
                ProgressBar(total=100.0, completed=percentage, width=30),
                Text(_told(figures)),
            )
            rows.append(line)
        expected = moment.forecast
        rows.append(
            Text(
                f"{int(100 * expected.progress)} % of the run · elapsed {self._clock()} · about "
                f"{minutes(expected.remaining_seconds)} left · Ctrl-C saves and stops",
                style="dim",
            )
        )
        return Panel(Group(*rows), title=self.title, border_style="cyan")

    def _clock(self) -> str:
        return minutes(time.monotonic() - self._started)


def _name(launched: Launched) -> str:
    task = launched.task
    return f"{'A' if task.stage else ''}{task.stage} {task.kind.value}"


HEADLINES = (
    "eval/satisfaction",
    "fidelity/auc",
    "rm/pair_accuracy",
    "ppo/reward",
    "ppo/kl",
    "ppo/satisfaction",
    "sft/val_loss",
    "test/best_satisfaction",
    "test/gain",
)


def _told(figures: TaskFigures) -> str:
    """Such as `45 %, 1:20 left, ppo/reward 0.512`."""
    parts = []
    if figures.progress_percentage is not None:
        parts.append(f"{figures.progress_percentage:.0f} %")
    if figures.estimated_remaining_seconds is not None:
        parts.append(f"{minutes(figures.estimated_remaining_seconds)} left")
    return ", ".join([*parts, *_shown(figures.metrics, LIVE_METRICS)])


def _headline(metrics: Mapping[str, float]) -> str:
    shown = _shown(metrics, HEADLINES)
    return ": " + ", ".join(shown) if shown else ""


def _shown(metrics: Mapping[str, float], names: tuple[str, ...]) -> list[str]:
    return [f"{name} {metrics[name]:.3f}" for name in names if name in metrics][:4]

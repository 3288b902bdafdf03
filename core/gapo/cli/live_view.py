"""What `gapo run` shows: a live view on a terminal; elsewhere a line for each event, and one where none comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gapo.cli.read_commands import stage_table
from gapo.cli.stop_messages import ended_at_once, stopping
from gapo.decision_rules.gate import not_passed
from gapo.local.executor import Launched, View
from gapo.local.run_monitor import Moment, RunWatch
from gapo.metrics.figures import TaskFigures
from gapo.planning.plan import Plan, State, Status
from gapo.store.attempt_end import AttemptEnd, Cause
from gapo.store.records import Decision
from gapo.telemetry.wording import clock, fewer_prompts, left, shown, working

LOOK_SECONDS = 1.0
"""Between two looks where somebody sees each."""
SILENT_SECONDS = 20.0
"""After which something is said where there is no terminal: nobody is to wonder for half a minute."""


class RunView(View):
    """Feeds on the executor's events, and on looks at the running tasks: every second where somebody sees each, else
    before a line that tells of them."""

    def __init__(
        self,
        console: Console,
        watch: RunWatch,
        title: str,
        *,
        scraped: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`scraped`: the watch's samples are served, so it looks every second without a terminal too."""
        self.console, self.watch, self.title, self.scraped, self._now = console, watch, title, scraped, now
        self.status: Status | None = None
        self._looked = 0.0
        self._warned: set[str] = set()
        self._started = self._last_line = now()
        # What is coloured for a reader of a log, or a terminal that cannot move its cursor, is no screen to draw on.
        screen = console.is_interactive and console.file.isatty()
        self._live = Live(console=console, auto_refresh=False, transient=True) if screen else None

    def __enter__(self) -> RunView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._last_line = self._now()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def planned(self, plan: Plan) -> None:
        before, self.status = self.status, plan.status
        repeated = before is not None and before.message == plan.status.message
        if not repeated and plan.status.state is State.WAITING:
            self.say(f"{self._clock()} waiting: {plan.status.message}")

    def started(self, launched: Launched) -> None:
        task = launched.task
        again = f" (attempt {task.attempt})" if task.attempt else ""
        resumed = ", from its last resume point" if launched.resume_before is not None else ""
        if not self._live or task.attempt:
            self.say(f"{self._clock()} {_name(launched)} starts{again}{resumed}")

    def ended(self, launched: Launched, record: AttemptEnd) -> None:
        name = _name(launched)
        if record.cause is not Cause.COMMITTED:
            why = f": {record.message}" if record.message else ""
            self.say(f"{self._clock()} {name} ended ({record.cause}){why}")
            return
        took = (record.ended_at - record.started_at).total_seconds()
        committed = self.watch.observer.observation().committed.get(launched.task.key)
        figures = committed.metrics if committed else {}
        self.say(f"{self._clock()} {name} done in {took:.1f} s{_headline(figures)}")
        for warning in (not_passed(figures, self.watch.facts.spec), fewer_prompts(figures)):
            if warning is not None and warning not in self._warned:
                self._warned.add(warning)
                self.say(f"{self._clock()} warning: {warning}")

    def decided(self, decision: Decision) -> None:
        self.say(f"{self._clock()} A{decision.stage} decided: {decision.verdict} ({decision.reason})")

    def rollout(self, serve: int, wanted: int, log: Path) -> None:
        if wanted == 0:
            self.say(f"{self._clock()} rollout servers ended")
        elif serve == wanted:
            self.say(f"{self._clock()} {_servers(wanted)} {'serves' if wanted == 1 else 'serve'}")
        else:
            self.say(
                f"{self._clock()} {_servers(wanted)} to serve, {serve} ready; a start takes about a minute, log: {log}"
            )

    def stopping(self, running: list[Launched], grace: float | None) -> None:
        now = time.time()
        for launched, figures in self._figures(running):
            self.say(f"{self._clock()} {stopping(launched.task, _name(launched), figures, now, grace)}")

    def ending_at_once(self, running: list[Launched]) -> None:
        now = time.time()
        for launched, figures in self._figures(running):
            self.say(f"{self._clock()} {ended_at_once(_name(launched), figures, now)}")

    def _figures(self, running: list[Launched]) -> list[tuple[Launched, TaskFigures]]:
        """What the running tasks tell just now."""
        return [] if self.status is None else list(self.watch.look(self.status, running).tasks.values())

    def tick(self, running: list[Launched]) -> None:
        now = self._now()
        if self.status is None:
            return
        if (self._live is not None or self.scraped) and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            moment = self.watch.look(self.status, running)
            if self._live is not None:
                self._live.update(self.render(moment), refresh=True)
        if self._live is None and now - self._last_line >= SILENT_SECONDS:
            self.say(self._line(self.status, self.watch.look(self.status, running)))

    def _line(self, status: Status, moment: Moment) -> str:
        """What the live view shows, on one line: running tasks, then the run."""
        tasks = [
            f"{_name(launched)}: {working(figures) or 'has told nothing yet'}"
            for launched, figures in moment.tasks.values()
        ]
        text = "; ".join(tasks) or f"waiting: {status.message}"
        return f"{self._clock()} {text} · {_whole(moment)}"

    def render(self, moment: Moment) -> RenderableType:
        """What a scrape would tell at this moment, for a reader: stages, running tasks, progress and time left."""
        rows: list[RenderableType] = []
        if moment.observation.committed:
            rows.append(stage_table(moment.observation))
        for launched, figures in moment.tasks.values():
            percentage = figures.progress_percentage or 0.0
            line = Table.grid(padding=(0, 1))
            line.add_row(
                Text(_name(launched), style="bold"),
                ProgressBar(total=100.0, completed=percentage, width=30),
                Text(working(figures)),
            )
            rows.append(line)
        rows.append(Text(f"{_whole(moment)} · elapsed {self._clock()} · Ctrl-C saves and stops", style="dim"))
        return Panel(Group(*rows), title=self.title, border_style="cyan")

    def _clock(self) -> str:
        return clock(self._now() - self._started)


def _servers(count: int) -> str:
    return f"{count} rollout server{'' if count == 1 else 's'}"


def _name(launched: Launched) -> str:
    task = launched.task
    return f"{'A' if task.stage else ''}{task.stage} {task.kind.value}"


def _whole(moment: Moment) -> str:
    expected = moment.forecast
    return f"{int(100 * expected.progress)} % of the run, {left(expected.remaining_seconds)}"


def _headline(metrics: Mapping[str, float]) -> str:
    figures = shown(metrics)
    return ": " + ", ".join(figures) if figures else ""

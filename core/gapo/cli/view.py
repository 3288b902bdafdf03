"""What `gapo run` shows: a live view on a terminal, one line an event elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gapo.cli.inspect import stage_table
from gapo.errors import GapoError
from gapo.local.executor import Launched, View
from gapo.observe import Observer
from gapo.planner import Plan
from gapo.policies.attempts import Cause
from gapo.preview import Preview
from gapo.store import layout
from gapo.store.objects import Objects
from gapo.store.records import Decision, Ended

POLL_SECONDS = 1.0
LIVE_METRICS = (
    "ppo/reward",
    "ppo/kl",
    "ppo/satisfaction",
    "rm/pair_accuracy",
    "rm/loss",
    "sft/loss",
    "sft/val_loss",
)
WEIGHTS = {
    "data": 0.3,
    "sft": 2.0,
    "rm-warmup": 3.0,
    "ppo": 2.0,
    "evaluate": 0.7,
    "rm": 0.8,
    "export": 0.7,
    "import": 0.2,
}
"""Relative times of tasks, until some of the kind have been seen."""


@dataclass
class Progress:
    """One running task as its progress.json tells."""

    launched: Launched
    since: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


class RunView(View):
    """Feeds on the executor's events and on the running tasks' progress.json."""

    def __init__(
        self, console: Console, objects: Objects, observer: Observer, shown: Preview, title: str
    ) -> None:
        self.console, self.objects, self.observer, self.title = console, objects, observer, title
        self.remaining = {str(key): key for key in shown.keys}
        self.running: dict[str, Progress] = {}
        self.seconds: dict[str, list[float]] = {}
        self.message = ""
        self._polled = 0.0
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
        if made.status.message != self.message:
            self.message = made.status.message
            if made.status.state.value == "Waiting":
                self.say(f"{self._clock()} waiting: {self.message}")

    def started(self, launched: Launched) -> None:
        self.running[launched.name] = Progress(launched)
        task = launched.task
        again = f" (attempt {task.attempt})" if task.attempt else ""
        resumed = ", from its last resume point" if launched.resume_before is not None else ""
        if not self._live or task.attempt:
            self.say(f"{self._clock()} {_name(launched)} starts{again}{resumed}")

    def ended(self, launched: Launched, record: Ended) -> None:
        progress = self.running.pop(launched.name, None)
        name = _name(launched)
        if record.cause != Cause.COMMITTED.value:
            why = f": {record.message}" if record.message else ""
            self.say(f"{self._clock()} {name} ended ({record.cause}){why}")
            return
        self.remaining.pop(str(launched.task.key), None)
        took = (record.ended_at - record.started_at).total_seconds()
        self.seconds.setdefault(launched.task.kind.value, []).append(took)
        committed = self.observer.seen().committed.get(launched.task.key)
        figures = committed.metrics if committed else (progress.metrics if progress else {})
        self.say(f"{self._clock()} {name} done in {took:.1f} s{_headline(figures)}")

    def decided(self, decision: Decision) -> None:
        self.say(f"{self._clock()} A{decision.stage} decided: {decision.verdict} ({decision.reason})")

    def tick(self, running: list[Launched]) -> None:
        now = time.monotonic()
        if self._live is None or now - self._polled < POLL_SECONDS:
            return
        self._polled = now
        for progress in self.running.values():
            self._poll(progress)
        self._live.update(self._render(), refresh=True)

    def _poll(self, progress: Progress) -> None:
        task = progress.launched.task
        key = layout.progress(task.stage, task.kind.value, task.attempt, progress.launched.writer)
        try:
            data = self.objects.get(key)
            said: dict[str, Any] = json.loads(data) if data else {}
        except (GapoError, ValueError):
            return
        fraction = said.get("fraction")
        progress.fraction = float(fraction) if isinstance(fraction, int | float) else progress.fraction
        metrics = said.get("metrics")
        progress.metrics = metrics if isinstance(metrics, dict) else progress.metrics

    def eta_seconds(self) -> float:
        """Time left, from the tasks that are done and the usual ratios between kinds."""
        unit = self._unit_seconds()
        left = sum(self._expected(key.kind.value, unit) for key in self.remaining.values())
        for progress in self.running.values():
            left -= self._expected(progress.launched.task.kind.value, unit) * progress.fraction
        return max(left, 0.0)

    def _unit_seconds(self) -> float:
        spent = sum(sum(times) for times in self.seconds.values())
        weight = sum(WEIGHTS.get(kind, 1.0) * len(times) for kind, times in self.seconds.items())
        for progress in self.running.values():
            if progress.fraction > 0.05:
                spent += (time.monotonic() - progress.since) / progress.fraction
                weight += WEIGHTS.get(progress.launched.task.kind.value, 1.0)
        return spent / weight if weight else 10.0

    def _expected(self, kind: str, unit: float) -> float:
        times = self.seconds.get(kind)
        return sum(times) / len(times) if times else WEIGHTS.get(kind, 1.0) * unit

    def _render(self) -> RenderableType:
        rows: list[RenderableType] = []
        seen = self.observer.seen()
        if seen.committed:
            rows.append(stage_table(seen))
        for progress in self.running.values():
            line = Table.grid(padding=(0, 1))
            line.add_row(
                Text(_name(progress.launched), style="bold"),
                ProgressBar(total=1.0, completed=progress.fraction, width=30),
                Text(_headline(progress.metrics, LIVE_METRICS).removeprefix(": ")),
            )
            rows.append(line)
        rows.append(
            Text(
                f"elapsed {self._clock()} · about {_minutes(self.eta_seconds())} left · Ctrl-C saves and stops",
                style="dim",
            )
        )
        return Panel(Group(*rows), title=self.title, border_style="cyan")

    def _clock(self) -> str:
        return _minutes(time.monotonic() - self._started)


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


def _headline(metrics: Mapping[str, float], names: tuple[str, ...] = HEADLINES) -> str:
    shown = [f"{name} {metrics[name]:.3f}" for name in names if name in metrics][:4]
    return ": " + ", ".join(shown) if shown else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

"""What a dashboard's panels are drawn from: a Prometheus' answers over a span of time, and events in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charts.dashboards import grafana_emulation
from charts.dashboards.grafana_emulation import Prometheus, Series, Span

EventMarks = Sequence[tuple[str, float]]
"""Colour and minutes since the beginning, of what is drawn over panels with a time axis."""


@dataclass(frozen=True)
class PanelData:
    """Whose answers are drawn, over which time."""

    prometheus: Prometheus
    span: Span
    variables: Mapping[str, str]

    def over_time(self, target: grafana_emulation.Target) -> list[Series]:
        return self.prometheus.range(self.span.filled(target.expression), self.span)

    def at_the_end(self, target: grafana_emulation.Target) -> list[Series]:
        """As an instant query; of a run that is over, the last that was known."""
        step = self.span.step
        last = Span(self.span.end - 60 * step, self.span.end, step, self.span.scrape)
        now = self.prometheus.instant(self.span.filled(target.expression), self.span.end)
        if now:
            return now
        series = self.prometheus.range(self.span.filled(target.expression), last)
        return [Series(one.labels, one.points[-1:]) for one in series]

    def minutes(self, moment: float) -> float:
        return (moment - self.span.start) / 60

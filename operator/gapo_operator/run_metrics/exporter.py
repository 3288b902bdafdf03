"""What passes have to tell of runs, handed on to whoever is asked for it: scrapes, and the reader of ended runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydantic import ValidationError

from gapo.api.run import GapoRunSpec
from gapo.api.status import GapoRunStatus
from gapo.metrics.figures import RunFigures
from gapo.store.records import Decision
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.operator_metrics import OperatorMetrics
from gapo_operator.run_metrics.backfill import Backfill, Entry, last_decided
from gapo_operator.run_metrics.run_series import RunSeries
from gapo_operator.run_metrics.status_usage import FINISHED, figures_of_status

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunExporter:
    """Used from one event loop."""

    metrics: OperatorMetrics
    series: RunSeries
    backfill: Backfill

    def show(self, run: Body, spec: GapoRunSpec | None, figures: RunFigures | None) -> None:
        """A run as it stands. `figures` are from its storage, None where that has not been read yet."""
        key, stored = _key(run), run.get("status") or {}
        if figures is not None:
            conditions = {one["type"]: one["status"] for one in stored.get("conditions") or []}
            figures = replace(figures, state=stored.get("state") or figures.state, conditions=conditions)
        else:
            status = _status(run)
            if status is None:
                return
            figures = figures_of_status(key.namespace, key.name, status, spec)
        self.series.put(key, run["metadata"]["uid"], figures)

    def show_existing(self, run: Body, spec: GapoRunSpec) -> None:
        """A run that was there before this process: what its status says is shown now, what it has committed once the
        reader has read that."""
        self.show(run, spec, None)
        status = _status(run)
        if status is not None and (status.state in FINISHED or last_decided(status) is not None):
            self.backfill.want(Entry(_key(run), run["metadata"]["uid"], spec, status))

    def forget(self, key: RunKey) -> None:
        self.series.drop(key)
        self.backfill.drop(key)

    def count_decisions(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self.metrics.transitions.labels(decision.verdict).inc()


def _key(run: Body) -> RunKey:
    return RunKey(run["metadata"]["namespace"], run["metadata"]["name"])


def _status(run: Body) -> GapoRunStatus | None:
    try:
        return GapoRunStatus.model_validate(run.get("status") or {})
    except ValidationError as error:
        log.warning("%s: its status is another release's: %s", _key(run), error)
        return None

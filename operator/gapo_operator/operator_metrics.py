"""What the operator tells of itself. What runs have reached is in `run_metrics/run_series.py`, from their committed metrics."""

from __future__ import annotations

from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

import gapo
from gapo.store.records import StageVerdict

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FAILURES = ("kubernetes", "storage", "internal")
"""What a pass may fail at."""
VERDICTS: tuple[str, ...] = get_args(StageVerdict)
UNANSWERED = "0"
"""The code of a request to the API server that got no answer."""


class OperatorMetrics:
    """Names follow Prometheus' guide: base units, `_total` for counters. Every label is a closed set.

    `__init__` is long because it is the list of them all.
    """

    def __init__(self) -> None:
        # No `_created` beside each count: nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.passes = self._histogram("gapo_reconcile_duration_seconds", "Time of one pass over one run")
        self.errors = Counter(
            "gapo_reconcile_errors_total",
            "Passes that ended in an error, by what failed: kubernetes, storage, or internal",
            ["kind"],
            registry=self.registry,
        )
        self.waited = self._histogram(
            "gapo_queue_wait_seconds", "Time from when a run's pass was due until it began"
        )
        self.waiting = self._gauge("gapo_queue_depth", "Runs that wait for their next pass, due or not")
        self.active = self._gauge("gapo_reconcile_active", "Passes under way")
        self.runs = Gauge("gapo_runs", "GapoRuns by state", ["status"], registry=self.registry)
        self.unread = self._gauge(
            "gapo_runs_unread", "Finished runs whose figures are still to be read from storage after a start"
        )
        self.resynced = self._gauge(
            "gapo_resync_timestamp_seconds", "When everything was last listed anew; every 5 minutes"
        )
        self.leading = self._gauge("gapo_leader", "1 where this process holds the Lease")
        self.transitions = Counter(
            "gapo_decisions_total",
            "Stages that this process decided, by verdict",
            ["reason"],
            registry=self.registry,
        )
        self.store_requests = self._histogram(
            "gapo_object_store_request_duration_seconds",
            "Time of a request to object storage with its retries, by operation and how it ended: ok, absent, exists, "
            "unchanged, refused, or failed",
            ("op", "code"),
        )
        self.store_waits = self._histogram(
            "gapo_object_store_wait_seconds",
            "Time that work waited for one of its storage location's threads",
        )
        self.paused = self._gauge(
            "gapo_object_store_paused_locations",
            "Storage locations that are left alone for a while because they failed",
        )
        self.kubernetes_requests = self._histogram(
            "gapo_kubernetes_request_duration_seconds",
            "Time of a request to the API server, by verb and HTTP status, 0 where there was no answer; watches are "
            "not counted",
            ("op", "code"),
        )
        build = Gauge(
            "gapo_build_info", "1, with the version as a label", ["version"], registry=self.registry
        )
        build.labels(gapo.__version__).set(1)
        # A series that appears with its first event hides that event from rate().
        for kind in FAILURES:
            self.errors.labels(kind)
        for verdict in VERDICTS:
            self.transitions.labels(verdict)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def store_request(self, operation: str, result: str, seconds: float) -> None:
        """Listens to `gapo.store.objects.Objects`; from any thread."""
        self.store_requests.labels(operation, result).observe(seconds)

    def kubernetes_request(self, verb: str, code: str, seconds: float) -> None:
        self.kubernetes_requests.labels(verb, code).observe(seconds)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)

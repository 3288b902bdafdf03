"""What the operator tells of itself. What runs have reached is exported from their committed metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import gapo

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Names follow Prometheus' guide: base units, `_total` for counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Histogram(
            "gapo_reconcile_duration_seconds",
            "Time of one pass over one run",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.errors = Counter(
            "gapo_reconcile_errors_total",
            "Passes that ended in an error, by what failed",
            ["kind"],
            registry=self.registry,
        )
        self.waiting = Gauge("gapo_queue_depth", "Runs that wait for their next pass", registry=self.registry)
        self.leading = Gauge("gapo_leader", "1 where this process holds the Lease", registry=self.registry)
        build = Gauge(
            "gapo_build_info", "1, with the version as a label", ["version"], registry=self.registry
        )
        build.labels(gapo.__version__).set(1)

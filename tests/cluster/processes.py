"""Processes that live as long as a test's `with` block, and end with the tests even where those are killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = float(os.environ.get("GAPO_TEST_PATIENCE", "120"))
"""Seconds that something may take to become ready."""


@dataclass(frozen=True)
class Process:
    """What to run; its output goes to `<name>.log`."""

    name: str
    command: Sequence[object]
    end: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Running:
    """A process that was started."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    def tail(self) -> str:
        return f"--- {self.log}\n{self.log.read_text(errors='replace')[-3000:]}"


@contextmanager
def running(process: Process, folder: Path) -> Iterator[Running]:
    """The process, its log in `folder`; it gets a signal to end, and after 20 s is killed."""
    log = folder / f"{process.name}.log"
    command = ["setpriv", "--pdeathsig", "KILL", "--", *(str(part) for part in process.command)]
    with log.open("wb") as out:
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Running(process.name, log, popen)
    finally:
        popen.send_signal(process.end)
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def wait_until(
    holds: Callable[[], bool],
    what: str,
    needed: Sequence[Running] = (),
    *,
    every: float = 0.1,
    patience: float = PATIENCE,
) -> None:
    """Polls until `holds`, after so many seconds each. Fails with the logs where it takes longer than it may, or a
    process needed for it ends."""
    deadline = time.monotonic() + patience
    while not holds():
        ended = [one.name for one in needed if one.popen.poll() is not None]
        logs = "\n".join(one.tail() for one in needed)
        assert not ended, f"{', '.join(ended)} ended before {what}\n{logs}"
        assert time.monotonic() < deadline, f"after {patience:.0f} s it is not so that {what}\n{logs}"
        time.sleep(every)


PORTS = range(10_000, 30_000)
"""Below those that kernels give to connections, so that none takes a port between its finding and its use."""


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Chosen at random, for other tests may look for some at the same moment."""
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = secrets.choice(PORTS)
            one = held.enter_context(socket.socket())
            with suppress(OSError):
                one.bind((address, port))
                ports.append(port)
        return ports

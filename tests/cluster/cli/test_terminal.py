"""`gapo status --watch` on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.cluster.cli.room import NAMESPACE, Gapo, Room, manifest

pytestmark = pytest.mark.cluster

HEEDING_CTRL_C = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
"""Starts a command as a terminal would: what a shell runs in the background ignores Ctrl-C, and so do its children."""


@dataclass
class Terminal:
    """A command on a terminal of its own."""

    process: subprocess.Popen[bytes]
    screen: bytearray

    def shows(self, words: str) -> Callable[[], bool]:
        return lambda: words.encode() in self.screen

    def end(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture
def terminal(room: Room) -> Iterator[Callable[..., Terminal]]:
    ours: list[Terminal] = []

    def start(*arguments: str, kubeconfig: Path = room.cluster.kubeconfig) -> Terminal:
        master, slave = pty.openpty()
        gapo = str(Path(sys.executable).with_name("gapo"))
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "COLUMNS": "120", "TERM": "xterm"}
        process = subprocess.Popen(
            [sys.executable, "-c", HEEDING_CTRL_C, gapo, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        terminal = Terminal(process, bytearray())

        def read() -> None:
            with contextlib.suppress(OSError):  # the other end is closed
                while chunk := os.read(master, 4096):
                    terminal.screen.extend(chunk)
            os.close(master)

        threading.Thread(target=read, daemon=True).start()
        ours.append(terminal)
        return terminal

    yield start
    for one in ours:
        one.process.kill()
        one.process.wait()


def test_on_a_terminal_the_view_changes_with_the_run_and_ctrl_c_leaves_the_run_alone(
    room: Room, gapo_: Gapo, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    assert gapo_(f"submit {manifest(tmp_path, 'viewed', seed=6, suspend=True)} -n cli").code == 0
    left, stays = (terminal("status", "viewed", "-n", NAMESPACE, "-w") for _ in range(2))
    for one in (left, stays):
        room.operator.wait_until(one.shows("Suspended"), "it shows the state")
    left.process.send_signal(signal.SIGINT)
    assert left.end() == 130
    assert b"Traceback" not in left.screen
    assert room.status("viewed")["state"] == "Suspended"
    assert gapo_("resume viewed -n cli").code == 0
    assert stays.end() == 0
    room.operator.wait_until(stays.shows("all 1 stages are done"), "it shows the end")


class Wire:
    """Carries bytes to the API server and back, until it is cut."""

    def __init__(self, port: int) -> None:
        self.upstream, self.cut, self.open = port, False, 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        started = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0))
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            self._loop.run_forever()

        threading.Thread(target=serve, daemon=True).start()
        started.wait(10)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.close()
            return
        self.open += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        self._writers |= {writer, back}
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def break_(self) -> None:
        self.cut = True
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in self._writers])

    def close(self) -> None:
        self.break_()
        self._loop.call_soon_threadsafe(self._loop.stop)


def test_a_view_outlives_an_api_server_that_is_away_for_a_while(
    room: Room, gapo_: Gapo, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    document = yaml.safe_load(room.cluster.kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    wire = Wire(int(cluster["server"].rpartition(":")[2]))
    cluster["server"] = f"https://127.0.0.1:{wire.port}"
    file = tmp_path / "by-wire"
    file.write_text(yaml.safe_dump(document))
    assert gapo_(f"submit {manifest(tmp_path, 'wired', seed=8, suspend=True)} -n cli").code == 0
    view = terminal("status", "wired", "-n", NAMESPACE, "-w", kubeconfig=file)
    room.operator.wait_until(view.shows("Suspended"), "it shows the state")
    wire.break_()
    assert gapo_("resume wired -n cli").code == 0
    room.wait_for("Succeeded", "wired")
    assert view.process.poll() is None
    opened, wire.cut = wire.open, False
    assert view.end() == 0
    wire.close()
    assert wire.open > opened
    room.operator.wait_until(view.shows("all 1 stages are done"), "it shows what it had missed")

"""A program in the place of a vLLM server: it answers /health, and what it does otherwise is said by files beside it.

`room/mode`: `serve` (also where there is no such file), `fail` (a last line and exit code 1), `missing` (exit code 3).
`room/child`: where it is there, it starts a process that outlives SIGTERM. `room/shut`: /health answers 503.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tests.cluster.processes import wait_until

from gapo.local.rollout_servers import LocalRolloutServers
from gapo.planning.plan import RolloutServers
from gapo.store.records import ManifestRef

PROGRAM = textwrap.dedent("""
    import ctypes, json, os, pathlib, subprocess, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    ctypes.CDLL(None).prctl(1, 9)  # ends with the tests, whatever ends them (PR_SET_PDEATHSIG, SIGKILL)
    room = pathlib.Path(sys.argv[1])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    child = None
    if (room / "child").exists():
        sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", sleep], stdout=subprocess.PIPE)
        process.stdout.readline()
        child = process.pid
    start = {
        "pid": os.getpid(),
        "child": child,
        "port": port,
        "arguments": sys.argv[2:],
        "token": pathlib.Path(os.environ["GAPO_ROLLOUT_TOKEN_FILE"]).read_text(),
    }
    with (room / "starts").open("a") as file:
        file.write(json.dumps(start) + "\\n")
    mode = (room / "mode").read_text() if (room / "mode").exists() else "serve"
    if mode != "serve":
        print("loading the model", flush=True)
        print("no room is left on the device" if mode == "fail" else "vllm is not installed", flush=True)
        sys.exit(1 if mode == "fail" else 3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served = self.path == "/health" and not (room / "shut").exists()
            self.send_response(200 if served else 503)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
""")
PLACE = {"uri": "file:///runs/r1", "run_id": "r1", "endpoint": None, "region": "eu-central-1"}


def wanted(replicas: int = 1) -> RolloutServers:
    return RolloutServers(replicas, ManifestRef(key="stages/0/sft/manifest-0.json", sha256="a" * 64))


def soon(holds: Callable[[], bool], what: str) -> None:
    wait_until(holds, what, every=0.02)


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class ServerRoom:
    """A folder with the program, and the servers that are started of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.work = folder / "work"
        command = [sys.executable, str(folder / "program.py"), str(folder)]
        self.servers = LocalRolloutServers(self.work, command=command)

    def put(self, name: str, text: str = "") -> None:
        """Says what the program is to do from now on."""
        (self.folder / name).write_text(text)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What each process of the program has noted of itself, in the order of their starts."""
        file = self.folder / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def want(self, replicas: int = 1, threads: int | None = None) -> None:
        self.servers.want(wanted(replicas), PLACE, threads)

    def looked_at(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """The condition, asked for after the servers have been wanted once more, as an executor does."""

        def holds() -> bool:
            self.want(len(self.servers.access["urls"]) if self.servers.access else 1)
            return condition()

        return holds

    def serve(self, replicas: int = 1) -> list[dict[str, Any]]:
        """Has servers until all of them serve."""
        self.want(replicas)
        soon(self.looked_at(lambda: self.servers.ready), "all servers serve")
        return self.starts

    def serve_anew(self, after: int) -> dict[str, Any]:
        """Waits for another process than the `after` that there have been, and until it serves."""
        soon(self.looked_at(lambda: len(self.starts) > after and self.servers.ready), "a new process serves")
        return self.starts[-1]


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

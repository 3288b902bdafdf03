"""A process that has imported torch once and forks a task whenever it is told to.

Requests come as one JSON object a line on standard input; `{"event": "started"|"exited", "name", "pid", "code"}`
go out on standard output. No tensor is made and no store is opened before a fork: threads do not survive one.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import sys
from typing import Any

from gapo_trainer.worker.runner import Request, run_request

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None) -> None:
    """On Linux this process is killed when its parent ends; elsewhere the closed pipe must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os._exit(1)  # it ended before the request took effect


def serve() -> None:
    """Serves requests until standard input closes, then ends with all tasks that still run."""
    expected = os.environ.get("GAPO_PARENT")
    die_with_parent(int(expected) if expected else None)
    warm_up()
    children: dict[int, str] = {}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(reader, selectors.EVENT_READ)
    buffer = b""
    while True:
        for key, _ in selector.select():
            if key.fd == reader:
                os.read(reader, 4096)
                _reap(children)
                continue
            data = os.read(0, 65536)
            if not data:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                _fork(json.loads(line), children)


def warm_up() -> None:
    """Imports what every task needs, so that a fork starts with it."""
    import torch  # noqa: F401
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertModel, LlamaForCausalLM  # noqa: F401

    import gapo_trainer.tasks.handlers  # noqa: F401


def _fork(message: dict[str, Any], children: dict[int, str]) -> None:
    name = message.pop("name")
    parent = os.getpid()
    pid = os.fork()
    if pid:
        children[pid] = name
        _say({"event": "started", "name": name, "pid": pid})
        return
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        _redirect(message.pop("log"))
        code = run_request(Request(**message))
    finally:
        os._exit(code)  # never back into the server's loop


def _redirect(log: str) -> None:
    os.makedirs(os.path.dirname(log), exist_ok=True)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)


def _reap(children: dict[int, str]) -> None:
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            name = children.pop(pid)
            _say({"event": "exited", "name": name, "pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(event: dict[str, Any]) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")

"""How a task that failed is told: what is tried again is a closed list, and the last words fit where they are left."""

from __future__ import annotations

import errno
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
import requests
import torch

from gapo.decision_rules.attempts import Exit
from gapo.decision_rules.retries import Fail, classify, next_attempt
from gapo.digest import sha256_hex
from gapo.errors import DataError, FencedError, InvariantError, StoreError
from gapo.store.attempt_end import AttemptEnd
from gapo.tasks import Kind, Task
from gapo_trainer.runtime.errors import as_gapo_error, leave_last_words
from gapo_trainer.worker.runner import Request, run_request

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Panic(BaseException):
    """Rust's panics reach Python as no Exception."""


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StoreError("storage does not answer"), 75, "StoreUnavailable"),
        (FencedError("another executor"), 75, "Fenced"),
        (OSError(errno.ENOSPC, "No space left on device"), 75, "DiskFull"),
        (OSError(errno.EIO, "Input/output error"), 75, "Retryable"),
        (OSError(errno.EMFILE, "Too many open files"), 75, "Retryable"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), 75, "Retryable"),
        (TimeoutError("timed out"), 75, "Retryable"),
        (requests.ConnectionError("no route"), 75, "Retryable"),
        (requests.ReadTimeout("slow"), 75, "Retryable"),
        (httpx2.ConnectError("no route"), 75, "Retryable"),
        (httpx2.ReadTimeout("slow"), 75, "Retryable"),
        (httpx2.RemoteProtocolError("peer closed connection without sending complete message body"), 75, "Retryable"),
        (httpx2.TooManyRedirects("exceeded maximum allowed redirects"), 70, "Unforeseen"),
        (MemoryError(), 75, "OutOfMemory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 75, "OutOfMemory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), 75, "OutOfMemory"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), 75, "DeviceFailed"),
        (RuntimeError("CUDA error: unspecified launch failure"), 75, "DeviceFailed"),
        (DataError("rows.jsonl: line 3: is not JSON"), 65, "InvalidData"),
        (InvariantError("not a finite number"), 70, "InvariantBroken"),
        (RuntimeError("CUDA error: device-side assert triggered"), 70, "Unforeseen"),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), 70, "Unforeseen"),
        (ValueError("The generation config instance is invalid"), 70, "Unforeseen"),
        (KeyError("data"), 70, "Unforeseen"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "tokenizer.json"), 70, "Unforeseen"),
        (PermissionError(errno.EACCES, "Permission denied", "/models"), 70, "Unforeseen"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), 70, "Unforeseen"),
        (RecursionError("maximum recursion depth exceeded"), 70, "Unforeseen"),
        (ImportError("sentencepiece"), 70, "Unforeseen"),
        (Panic("index out of bounds: the len is 3 but the index is 7"), 70, "Unforeseen"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_only_what_may_pass_by_itself_is_tried_again(error: BaseException, code: int, reason: str) -> None:
    failure = as_gapo_error(error)
    assert (failure.code, failure.reason) == (code, reason)


def test_an_error_that_nobody_foresaw_comes_once_and_says_where_it_was_met(tmp_path: Path) -> None:
    task = Task(run_id="r", stage=0, kind=Kind.DATA, params={}, seed=0, attempt=0)
    run = tmp_path / "run"
    key = "stages/0/data/0/task.json"
    (run / key).parent.mkdir(parents=True)
    (run / key).write_bytes(task.document)
    request = Request(
        run=str(run),
        task=key,
        sha256=sha256_hex(task.document),
        writer="w",
        scratch=str(tmp_path / "scratch"),
    )
    code = run_request(request)
    termination = json.loads((tmp_path / "scratch" / "termination.json").read_text())
    assert (code, termination["code"], termination["reason"]) == (70, 70, "Unforeseen")
    assert termination["message"].startswith("KeyError: 'data' in data.py, line ")
    assert "\n" not in termination["message"]
    verdict = classify(Exit(code, termination["reason"]), resume_before=None, resume_after=None)
    end = AttemptEnd(
        attempt=0,
        cause=verdict.cause,
        charged=verdict.charged,
        exit_code=code,
        message=termination["message"],
        started_at=NOW,
        ended_at=NOW,
    )
    assert isinstance(next_attempt([end], kind="data", now=NOW), Fail)


def test_requests_to_the_hub_are_no_lines_of_a_tasks_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run_request(
        Request(run=str(tmp_path), task="none", sha256="", writer="w", scratch=str(tmp_path / "scratch"))
    )
    logging.getLogger("httpx2").info("HTTP Request: GET https://huggingface.co")
    assert "HTTP Request" not in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        "\n".join(f"data.sources.0: rows.jsonl: line {n}: is not JSON, or so it seems" for n in range(400)),
        "\n".join(["行" * 90] * 60),
        "行" * 5000,
        '"\\\n' * 3000,
        "\x01" * 9000,
    ],
    ids=[
        "many lines",
        "many lines of three bytes a letter",
        "one long line",
        "escapes",
        "control characters",
    ],
)
def test_last_words_fit_into_what_a_pod_has_for_them_and_are_whole(tmp_path: Path, message: str) -> None:
    leave_last_words(tmp_path, DataError(message))
    data = (tmp_path / "termination.json").read_bytes()
    assert len(data) <= 4096
    termination = json.loads(data)
    first = message.split("\n")[0]
    assert termination["message"].startswith(first[:50])


def test_of_many_lines_as_many_as_fit_are_left_and_the_others_counted(tmp_path: Path) -> None:
    leave_last_words(tmp_path, DataError("\n".join(f"line {n} " + "x" * 90 for n in range(100))))
    lines = json.loads((tmp_path / "termination.json").read_bytes())["message"].split("\n")
    assert len(lines) > 30
    assert lines[-1] == f"and {100 - (len(lines) - 1)} more lines; the task's log has them all"
    assert lines[-2].startswith(f"line {len(lines) - 2} ")

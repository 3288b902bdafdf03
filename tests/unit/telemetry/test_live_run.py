from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.local.machine import COMMAND, ENVIRONMENT, ROOT, manifest

import gapo.cli
from gapo.local.processes import TrainerServer

PATIENCE = 120.0
Series = dict[tuple[str, str], float]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def scrape(port: int) -> Series:
    """(name, stage) → value."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except urllib.error.URLError:
        return {}
    return {
        (s.name, s.labels.get("stage", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


class Scraper(threading.Thread):
    """Scrapes until the lingering task has told how far it is, then interrupts the run as Ctrl-C does."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.found: Series = {}

    def run(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and ("gapo_task_progress_ratio", "1") not in self.found:
            self.found = scrape(self.port)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`gapo run` over tasks that take milliseconds, but for the first ppo, which goes on until it is stopped."""
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(manifest(stages=1)))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GAPO_INSTANT", json.dumps({"1/ppo/0": "linger"}))
    monkeypatch.setattr("gapo.cli.run.TrainerServer", lambda log: TrainerServer(log, command=COMMAND))
    return ["gapo", "run", str(file), "--location", f"local={tmp_path / 'store'}", "--no-report"]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        gapo.cli.main()
    return ended.value.code


@pytest.mark.slow
def test_gapo_run_serves_its_figures_while_it_lasts(
    command_line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    scraper = Scraper(port)
    scraper.start()
    code = run([*command_line, "--metrics-port", str(port)], monkeypatch)
    scraper.join()
    assert code == 130
    assert f"metrics on http://127.0.0.1:{port}/metrics" in capsys.readouterr().out
    assert 0.25 <= scraper.found["gapo_task_progress_ratio", "1"] <= 0.75
    assert scraper.found["gapo_task_kl_nats", "1"] in (0.01, 0.02, 0.03)
    assert scraper.found["gapo_stage_satisfaction_ratio", "0"] == 0.4
    assert scraper.found["gapo_run_stages_max", ""] == 1
    assert 0 < scraper.found["gapo_run_progress_ratio", ""] < 1
    assert scrape(port) == {}, "nobody serves any more"


class Follower(threading.Thread):
    """Scrapes as long as somebody answers, and keeps the last answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.last = ""

    def run(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                    self.last = answer.read().decode()
            except OSError:
                if self.last:
                    return


@pytest.mark.slow
def test_the_end_of_a_run_is_seen_by_whoever_scrapes_it(
    command_line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAPO_INSTANT", "{}")
    port = free_port()
    follower = Follower(port)
    follower.start()
    code = run([*command_line, "--metrics-port", str(port)], monkeypatch)
    follower.join()
    assert code == 0
    assert "waiting for whoever scrapes" in capsys.readouterr().out
    (line,) = (one for one in follower.last.splitlines() if 'status="Succeeded"' in one)
    assert line.endswith(" 1.0")
    assert "gapo_stage_satisfaction_ratio" in follower.last


def test_a_port_that_is_taken_is_said_before_anything_runs(
    command_line: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run([*command_line, "--metrics-port", str(port)], monkeypatch) == 64
    said = capsys.readouterr().err
    assert f"--metrics-port {port}: Address already in use; give a port of 127.0.0.1 that is free" in said
    assert not list(tmp_path.glob("store/**/task.json"))

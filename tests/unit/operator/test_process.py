from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from gapo_operator.__main__ import JsonLines, main
from gapo_operator.http import STUCK_SECONDS, Health


def test_a_configuration_that_is_wrong_is_told_in_one_line_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storageLocations: [{name: team, uri: ftp://x}]\ntrainer: {imagee: x}\n")
    monkeypatch.setattr(sys, "argv", ["gapo_operator", "--config", str(config)])
    assert main() == 64
    lines = capsys.readouterr().err.splitlines()
    assert any("storageLocations.0.uri" in line for line in lines)
    assert any("trainer.imagee" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_an_operator_that_finds_no_cluster_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storageLocations: [{name: team, uri: s3://x}]\ntrainer: {image: x}\n")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    ports = ["--health-port", "0", "--metrics-port", "0"]
    monkeypatch.setattr(sys, "argv", ["gapo_operator", "--config", str(config), *ports])
    assert main() == 69
    stderr = capsys.readouterr().err
    assert f"no kubeconfig at {tmp_path / 'none'}; set KUBECONFIG, or run the operator in a cluster" in stderr
    assert "Traceback" not in stderr


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("gapo_operator", logging.INFO, "", 0, "two\nlines of %s", ("run",), None)
    formatted = JsonLines().format(record)
    assert "\n" not in formatted
    assert json.loads(formatted)["message"] == "two\nlines of run"


def test_an_api_server_that_does_not_answer_fails_readiness_and_a_stuck_loop_liveness() -> None:
    now = 0.0
    health = Health(lambda: now)
    assert health.ready() == "the watches are not established yet"
    health.watching = True
    assert health.ready() is None
    health.unreachable = "the API server did not answer"
    assert (health.ready(), health.live()) == ("the API server did not answer", None)
    now = STUCK_SECONDS - 1
    assert health.live() is None
    now = STUCK_SECONDS + 1
    assert "stuck" in str(health.live())
    health.beat()
    assert health.live() is None

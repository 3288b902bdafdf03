"""A whole run whose samples come from a vLLM server, by the `gapo` command, while its processes are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.processes import wait_until
from tests.slow.gapo_command import Bench, Process, bench, descendants, gone, manifest

pytestmark = pytest.mark.vllm
MINUTES = 600.0
SPEC: dict[str, Any] = {
    "generator": {"fromScratch": {"heads": 2}},  # 32 wide each
    "data": {"generate": {"size": 500}},
    "sft": {"steps": 40},
    "rewardModel": {"warmup": {"steps": 40}},
    "stages": {"max": 2, "iterations": 60},
    "evaluation": {"prompts": 60, "samples": 1, "testPrompts": 60},
    "rollout": {"engine": "vllm", "hold": "run"},
}


def server_pid(run: Process) -> int | None:
    """The API server's own process: the first of those that share its log."""
    for pid in descendants(run.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"vllm.entrypoints.openai.api_server" in command:
            return pid
    return None


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone([pid]), f"process {pid} is gone")


def iterations(folder: Bench, stage: int) -> int:
    """How many a running PPO task has told of."""
    done = [0]
    for path in (folder.folder / "runs").glob(f"default/smoke/*/stages/{stage}/ppo/*/*/progress.json"):
        figures = {row["name"]: float(row["value"]) for row in json.loads(path.read_text())["metrics"]}
        done.append(int(figures.get("task/step", 0)))
    return max(done)


def test_a_run_goes_on_whose_trainer_server_and_command_are_killed(tmp_path: Path) -> None:
    with bench(tmp_path / "bench") as room:
        file = room.write(manifest(**SPEC))
        run = room.start("run", file, "--no-report")

        # The server dies in the middle of a stage: it is started anew, given the weights, and the same attempt ends.
        wait_until(lambda: iterations(room, 1) >= 1, "stage 1 has begun", patience=MINUTES)
        first = server_pid(run)
        assert first is not None
        killed(first)
        wait_until(lambda: server_pid(run) not in (None, first), "another server starts", patience=MINUTES)

        # The trainer dies: another attempt goes on from its resume point, on the same server.
        before = iterations(room, 1)
        wait_until(lambda: iterations(room, 1) > before, "stage 1 goes on", patience=MINUTES)
        killed(run.tasks()["1-ppo-0"])
        wait_until(lambda: "1-ppo-1" in run.tasks(), "another attempt begins", patience=MINUTES)
        second = server_pid(run)

        # Everything dies at once. What was started by the command ends with it.
        left = descendants(run.pid)
        killed(run.pid)
        wait_until(lambda: gone(left), "the server and the trainer end with the command", patience=60)
        assert second in left

        # The same command goes on, and the run ends as any other.
        ended = room.start("run", file, "--no-report").finish()
        assert ended.code == 0, ended.err + ended.out
        assert "1 rollout server serves" in ended.out
        storage = room.storage()
        assert {"1/ppo", "2/ppo", "2/evaluate", "2/export"} <= storage.manifests().keys()
        assert storage.causes("1/ppo")[-1] == "committed"
        assert len(storage.attempts("2/ppo")) == 1
        rows = [
            json.loads(line) for line in storage.object("1/ppo", "metrics.jsonl").read_text().splitlines()
        ]
        assert len(rows) == SPEC["stages"]["iterations"]
        assert max(row["ppo/mismatch_p99"] for row in rows) < 1e-4
        assert list(room.folder.rglob("rollout-token")) == []

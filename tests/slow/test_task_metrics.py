"""A real task's process as a pod runs it, watched through its `/metrics` and its progress.json."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore
from prometheus_client.parser import text_string_to_metric_families
from tests.slow.gapo_command import PATIENCE, ROOT
from tests.unit.ppo.tiny_ppo import tiny_folder

from gapo.digest import sha256_hex
from gapo.store.commit import commit_manifest
from gapo.store.objects import Objects
from gapo.store.records import Manifest, ManifestRef
from gapo.tasks import Kind, Task

pytestmark = pytest.mark.slow

RUN_ID = "0123456789ab"
ITERATIONS, ROLLOUTS = 40, 16
PARAMS: dict[str, Any] = {
    "generator": {"fromScratch": {}},
    "rewardModel": {"source": "verifier"},
    "stages": {"iterations": ITERATIONS, "rolloutsPerIteration": ROLLOUTS},
    "ppo": {"miniBatch": 8, "actorLr": 1e-3, "criticLr": 1e-3, "reward": {"saturationStd": 0}},
    "generation": {"maxNewTokens": 6},
    "adversarial": {"samplesPerStage": 20},
}
Scrape = dict[str, float]
"""Series as they are written → value."""


@dataclass
class World:
    """A run's folder with a committed data set and start, and a stage of PPO that is handed over."""

    run: Path
    inputs: dict[str, ManifestRef]

    @staticmethod
    def make(root: Path) -> World:
        run, data, start = root / "default" / "tiny" / RUN_ID, root / "data", tiny_folder(root / "sft")
        run.mkdir(parents=True)
        data.mkdir()
        prompts = [
            {
                "promptId": f"p{i}",
                "prompt": " ".join("abcdefgh"[: 1 + i % 7]),
                "constraints": [{"family": "keywords.forbidden_words", "params": {"words": ["b"]}}],
                "context": {},
            }
            for i in range(24)
        ]
        (data / "prompts-train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
        objects = Objects(LocalStore(run))
        sft = _committed(objects, "sft", start)
        return World(run, {"data": _committed(objects, "data", data), "generator": sft, "reference": sft})

    def hand_over(self, attempt: int) -> list[str]:
        """Arguments of the process."""
        task = Task(
            run_id=RUN_ID,
            stage=1,
            kind=Kind.PPO,
            inputs=self.inputs,
            params=PARAMS,
            seed=0,
            attempt=attempt,
            threads=1,
            checkpoint_interval=0.2,
        )
        path = self.folder(attempt) / "task.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(task.document)
        return ["--task", str(path), "--sha256", sha256_hex(task.document), "--writer", "w"]

    def folder(self, attempt: int) -> Path:
        return self.run / "stages" / "1" / "ppo" / str(attempt)

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.run / "stages/1/ppo/manifest-0.json").read_text())
        return manifest

    def rows(self) -> list[dict[str, float]]:
        path = self.run / self.manifest["objects"]["metrics.jsonl"]["key"]
        return [json.loads(line) for line in path.read_text().splitlines()]

    def progress(self, attempt: int) -> dict[str, Any]:
        progress: dict[str, Any] = json.loads((self.folder(attempt) / "w" / "progress.json").read_text())
        return progress


def _committed(objects: Objects, kind: str, folder: Path) -> ManifestRef:
    now = datetime.now(UTC)
    stored = objects.upload_folder(folder, f"stages/0/{kind}/0/w/out")
    manifest = Manifest(
        run_id=RUN_ID,
        stage=0,
        kind=kind,
        generation=0,
        attempt=0,
        writer="w",
        task_digest="0" * 64,
        objects=stored,
        started_at=now,
        finished_at=now,
    )
    committed = commit_manifest(objects, manifest).committed
    return ManifestRef(key=committed.key, sha256=committed.sha256)


@contextmanager
def process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("core", "trainer")),
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "gapo_trainer", *arguments],
            stdout=file,
            stderr=file,
            env=environment,
            cwd=log.parent,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> Scrape | None:
    """None while nothing listens there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        f"{one.name}{one.labels['kind']}"
        if one.labels.keys() == {"kind"}
        else one.name + str(one.labels or ""): one.value
        for one in samples
    }


def watched(running: subprocess.Popen[bytes], port: int, *, until: int | None = None) -> list[Scrape]:
    """One scrape after another until the process ends, or has done so many iterations."""
    deadline, scrapes = time.monotonic() + PATIENCE, []
    while running.poll() is None:
        assert time.monotonic() < deadline
        series = scrape(port)
        if series is not None:
            scrapes.append(series)
            if until is not None and series.get("gapo_task_rollouts_total", 0) >= until * ROLLOUTS:
                break
        time.sleep(0.03)  # looking must not slow down what is watched
    return scrapes


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[Scrape]]:
    """A stage from beginning to end, and what was scraped of it."""
    root, port = tmp_path_factory.mktemp("ran"), free_port()
    world = World.make(root)
    with process([*world.hand_over(0), "--metrics-port", str(port)], root / "log") as running:
        scrapes = watched(running, port)
        assert running.wait(PATIENCE) == 0, (root / "log").read_text()
    assert scrape(port) is None
    return world, scrapes


def test_every_scrape_tells_exactly_the_iterations_that_were_done_by_then(
    ran: tuple[World, list[Scrape]],
) -> None:
    world, scrapes = ran
    rows, done = world.rows(), []
    for one in scrapes:
        count = one.get("gapo_task_rollouts_total", 0) / ROLLOUTS
        assert count == int(count)
        first = rows[: int(count)]
        done.append(len(first))
        if not first:
            continue
        for name in ("generated_tokens", "trained_tokens", "skipped_updates"):
            assert one[f"gapo_task_{name}_total"] == sum(row[f"ppo/{name}"] for row in first)
        for phase in ("rollout", "score", "forward", "update"):
            spent = math.fsum(row[f"wall/{phase}"] for row in first)
            assert one[f"gapo_task_phase_seconds_total{phase}"] == pytest.approx(spent)
        for name, source in (
            ("reward_mean", "ppo/reward"),
            ("kl_nats", "ppo/kl"),
            ("entropy_nats", "ppo/entropy"),
            ("rollout_satisfaction_ratio", "ppo/satisfaction"),
            ("explained_variance_ratio", "critic/explained_variance"),
        ):
            assert one[f"gapo_task_{name}"] == first[-1][source]
        assert one["gapo_task_progress_ratio"] == pytest.approx(count / (ITERATIONS + 1))
        # Nothing is foretold from a pace that was seen for a moment only.
        assert one.get("gapo_task_remaining_seconds", 1.0) > 0
        assert one["gapo_task_nonfinite_total"] == 0
    assert done == sorted(done)
    assert len(set(done)) >= 5


def test_no_series_has_a_label_of_its_own_but_the_phase(ran: tuple[World, list[Scrape]]) -> None:
    names = {name for one in ran[1] for name in one}
    assert all(re.fullmatch(r"gapo_task_[a-z_]+", name) for name in names)


def test_a_checkpoint_is_told_once_it_is_stored(ran: tuple[World, list[Scrape]]) -> None:
    world, scrapes = ran
    times = [one.get("gapo_task_checkpoint_timestamp_seconds") for one in scrapes]
    assert times[0] is None
    assert times[-1] is not None
    assert scrapes[0]["gapo_task_start_timestamp_seconds"] < times[-1]
    progress = world.progress(0)
    # A point may be stored beside the training, after the last that was told of it.
    assert progress["startTime"] <= min(progress["checkpointTime"], progress["lastUpdatedTime"])


def test_progress_ends_with_what_the_manifest_holds(ran: tuple[World, list[Scrape]]) -> None:
    world, _ = ran
    progress, manifest = world.progress(0), world.manifest
    assert (progress["runID"], progress["taskDigest"]) == (RUN_ID, manifest["taskDigest"])
    assert progress["progressPercentage"] == 97  # 40 of 41 parts; the last are the final samples
    metrics = {one["name"]: float(one["value"]) for one in progress["metrics"]}
    for name in ("ppo/rollouts", "ppo/generated_tokens", "ppo/trained_tokens", "ppo/skipped_updates"):
        assert metrics[name] == manifest["metrics"][name]
    assert metrics["wall/update"] == pytest.approx(manifest["metrics"]["wall/update"])
    assert metrics["ppo/reward"] == pytest.approx(world.rows()[-1]["ppo/reward"])


def test_a_stopped_task_counts_anew_in_its_next_attempt_and_commits_the_same(
    ran: tuple[World, list[Scrape]], tmp_path: Path
) -> None:
    port, world = free_port(), World.make(tmp_path)
    with process([*world.hand_over(0), "--metrics-port", str(port)], tmp_path / "log-0") as running:
        watched(running, port, until=10)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 143, (tmp_path / "log-0").read_text()
    resumed = re.compile(r"resuming after iteration (\d+)")
    with socket.socket() as other:  # that nobody can be asked changes nothing
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with process([*world.hand_over(1), "--metrics-port", str(port)], tmp_path / "log-1") as running:
            assert running.wait(PATIENCE) == 0, (tmp_path / "log-1").read_text()
    log = (tmp_path / "log-1").read_text()
    assert f"port {port}: " in log
    match = resumed.search(log)
    assert match is not None
    done = int(match[1])
    assert 10 <= done < ITERATIONS
    metrics = {one["name"]: float(one["value"]) for one in world.progress(1)["metrics"]}
    assert metrics["ppo/rollouts"] == ROLLOUTS * (ITERATIONS - done)
    assert content(world) == content(ran[0])


def content(world: World) -> dict[str, Any]:
    """What was committed, but for clocks."""
    manifest = world.manifest
    return {
        "metrics": {k: v for k, v in manifest["metrics"].items() if not k.startswith("wall/")},
        "objects": {k: v["sha256"] for k, v in manifest["objects"].items() if k != "metrics.jsonl"},
    }

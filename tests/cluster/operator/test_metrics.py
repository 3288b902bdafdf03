"""What the operator's real process tells Prometheus of runs, beside what lies in a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.operator.room import Room
from tests.cluster.operator_process import OperatorProcess, operator

from gapo.tasks import Kind, Task

pytestmark = pytest.mark.cluster

Labels = frozenset[tuple[str, str]]
Scrape = dict[tuple[str, Labels], float]

COPIED = {
    "gapo_stage_satisfaction_ratio": "eval/satisfaction",
    "gapo_stage_fidelity_auc_ratio": "fidelity/auc",
    "gapo_stage_rm_pair_accuracy_ratio": "rm/pair_accuracy",
    "gapo_stage_reward_mean": "ppo/reward",
    "gapo_stage_kl_nats": "ppo/kl",
    "gapo_stage_entropy_nats": "ppo/entropy",
}
"""Series of a stage → the metric of a manifest that it must equal."""


def measured(task: Task) -> dict[str, float]:
    """Figures that tell every stage, task, family, class and opponent from every other."""
    k = task.stage
    if task.kind is Kind.EVALUATE:
        rivals = {f"crossplay/auc/{rm}/{k}": 0.9 - 0.1 * rm - 0.01 * k for rm in range(k)}
        return {
            "eval/satisfaction": 0.401 + 0.03 * k,
            "eval/satisfaction_lo": 0.391 + 0.03 * k,
            "eval/satisfaction_n": 2000.0,
            "fidelity/auc": 0.812 - 0.01 * k,
            "eval/family/length.words": 0.5 + 0.01 * k,
            "scores/generated/le_0.2": 0.125,
            "scores/generated/le_0.95": 0.875,
            "wall/seconds": 20.25,
            **rivals,
        }
    if task.kind in (Kind.RM, Kind.RM_WARMUP):
        return {"rm/pair_accuracy": 0.903 - 0.01 * k, "scores/accepted/le_0.4": 0.3, "wall/seconds": 10.5}
    if task.kind is Kind.PPO:
        return {"ppo/reward": 0.11 * k, "ppo/kl": 0.017 * k, "ppo/entropy": 2.5 / k, "wall/seconds": 100.125}
    if task.kind is Kind.EXPORT:
        return {
            "export/stage": float(k),
            "test/best_satisfaction": 0.71,
            "test/gain": 0.33,
            "wall/seconds": 1.0,
        }
    return {"wall/seconds": 5.0}


@pytest.fixture(autouse=True)
def figures(room: Room) -> None:
    room.pods.metrics = measured


def scrape(process: OperatorProcess) -> Scrape:
    status, text = process.get("/metrics", port=process.metrics_port)
    assert status in (0, 200)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_runs(samples: Scrape, name: str | None = None, prefix: str = "gapo_") -> Scrape:
    return {
        (series, labels): value
        for (series, labels), value in samples.items()
        if series.startswith(prefix) and dict(labels).get("run", "") == (name or dict(labels).get("run"))
    }


def of(run: str, room: Room, **labels: str) -> Labels:
    return frozenset({"namespace": room.namespace, "run": run, **labels}.items())


def state_of(room: Room, state: str, name: str = "run") -> float | None:
    return scrape(room.operator).get(("gapo_run_state", of(name, room, status=state)))


def manifests(room: Room, name: str = "run") -> Iterator[Mapping[str, Any]]:
    root = room.s3.folder / room.status(name)["location"].removeprefix(f"{room.s3.uri}/")
    for path in sorted(root.glob("stages/*/*/manifest-*.json")):
        yield json.loads(path.read_text())


def test_series_of_stages_equal_the_manifests(room: Room) -> None:
    room.apply(stages={"max": 3})
    room.wait_for_state("Succeeded")
    room.wait(lambda: state_of(room, "Succeeded") == 1, "a scrape says so")
    samples = scrape(room.operator)

    def value(name: str, **labels: str) -> float | None:
        return samples.get((name, of("run", room, **labels)))

    seconds: dict[str, float] = {}
    for manifest in manifests(room):
        stage, metrics = str(manifest["stage"]), manifest["metrics"]
        for series, source in COPIED.items():
            if source in metrics:
                assert value(series, stage=stage) == metrics[source], (series, stage)
        for source, figure in metrics.items():
            match source.split("/"):
                case ["eval", "family", family]:
                    name = "gapo_stage_family_satisfaction_ratio"
                    assert value(name, stage=stage, family=family) == figure
                case ["scores", group, bound]:
                    bounds = {"class": group, "le": bound.removeprefix("le_")}
                    assert value("gapo_stage_score_share_ratio", stage=stage, **bounds) == figure
                case ["crossplay", "auc", rm, generator]:
                    assert value("gapo_stage_crossplay_auc_ratio", stage=generator, rm_stage=rm) == figure
        if manifest["kind"] != "export":
            seconds[stage] = seconds.get(stage, 0.0) + metrics["wall/seconds"]
    assert len(seconds) == 4
    for stage, total in seconds.items():
        assert value("gapo_stage_duration_seconds", stage=stage) == total
    assert value("gapo_run_test_gain_ratio") == 0.33
    assert value("gapo_run_state", status="Running") == 0
    assert value("gapo_run_condition", type="Succeeded", status="True") == 1
    assert value("gapo_run_progress_ratio") == 1
    ended, tasks = of("run", room, reason="committed"), len(list(manifests(room)))
    room.wait(
        lambda: scrape(room.operator)["gapo_run_attempts_ended_total", ended] == tasks,
        "the end of every attempt is recorded",
    )
    assert samples["gapo_runs", frozenset({("status", "Succeeded")})] == 1


def test_a_restarted_operator_serves_the_same_stages_within_ten_seconds_for_a_few_reads(room: Room) -> None:
    room.apply("done", stages={"max": 3})
    room.wait(lambda: state_of(room, "Succeeded", "done") == 1, "the first run is done")
    room.wait(lambda: not room.status("done").get("tasks"), "the end of its last attempt is recorded")
    room.pods.misbehave["2/ppo/0"] = "hang"
    room.apply("live", stages={"max": 3})
    room.wait(lambda: "2/ppo/0" in room.pods.started, "stage 2 is trained")
    room.wait(lambda: room.status("live").get("progress") == "A2/3 ppo", "the status tells so")
    before = scrape(room.operator)
    stages = of_runs(before, prefix="gapo_stage_")
    assert {dict(labels).get("run") for _, labels in stages} == {"done", "live"}
    room.operator.kill()
    asked = len(room.proxy.seen)
    began = time.monotonic()
    room.operator.start()
    room.wait(
        lambda: of_runs(scrape(room.operator), prefix="gapo_stage_") == stages, "the same series are served"
    )
    assert time.monotonic() - began < 10
    requests = [(method, path) for method, path in room.proxy.seen[asked:] if "/done/" in path]
    assert 2 <= len(requests) <= 4, requests
    assert {method for method, _ in requests} <= {"GET", "HEAD"}
    after = of_runs(scrape(room.operator), "done", "gapo_run_")
    assert after == of_runs(before, "done", "gapo_run_")


def test_what_is_decided_of_a_run_that_lives_is_told_before_its_scan(room: Room) -> None:
    room.pods.misbehave["2/ppo/0"] = "hang"
    room.apply(stages={"max": 3})
    room.wait(lambda: "2/ppo/0" in room.pods.started, "stage 2 is trained")
    room.wait(lambda: room.status().get("progress") == "A2/3 ppo", "the status tells so")
    room.operator.kill()
    asked, scan = len(room.proxy.seen), threading.Event()

    def hold_the_scan(method: str, path: str) -> None:
        if path.endswith("/run.json"):
            scan.wait(60)

    room.proxy.instead = hold_the_scan
    room.operator.start()
    satisfaction = ("gapo_stage_satisfaction_ratio", of("run", room, stage="1"))
    room.wait(lambda: satisfaction in scrape(room.operator), "stage 1 is told of")
    assert scrape(room.operator)[satisfaction] == pytest.approx(0.431)
    assert not [path for _, path in room.proxy.seen[asked:] if "/stages/" in path]
    scan.set()


def test_a_failed_run_keeps_the_stage_in_which_it_failed(room: Room) -> None:
    room.pods.misbehave["2/evaluate/0"] = "exit:65"
    room.apply(stages={"max": 3})
    room.wait(lambda: state_of(room, "Failed") == 1, "it has failed")
    stages = of_runs(scrape(room.operator), prefix="gapo_stage_")
    assert stages["gapo_stage_kl_nats", of("run", room, stage="2")] == 0.034
    room.operator.kill()
    room.operator.start()
    room.wait(
        lambda: of_runs(scrape(room.operator), prefix="gapo_stage_") == stages, "the same series are served"
    )


def test_a_deleted_run_is_gone_from_the_next_scrape_and_another_of_that_name_begins_anew(room: Room) -> None:
    room.apply()
    room.wait(lambda: state_of(room, "Succeeded") == 1, "it has succeeded")
    assert of_runs(scrape(room.operator), "run", "gapo_stage_")
    room.pods.paused.set()
    room.kubectl("delete", "gaporun", "run")
    room.wait(lambda: not of_runs(scrape(room.operator), "run"), "its series are gone")
    room.apply(runID="another")
    room.wait(lambda: bool(of_runs(scrape(room.operator), "run")), "the next one is told of")
    assert not of_runs(scrape(room.operator), "run", "gapo_stage_")


def test_a_run_that_another_controller_manages_has_no_series(room: Room) -> None:
    room.apply("theirs", scheduling={"managedBy": "example.com/other"})
    room.apply("ours")
    room.wait(lambda: state_of(room, "Succeeded", "ours") == 1, "ours has succeeded")
    samples = scrape(room.operator)
    assert of_runs(samples, "ours")
    assert not of_runs(samples, "theirs")
    assert sum(value for (name, _), value in samples.items() if name == "gapo_runs") == 1


@contextmanager
def standby(room: Room, folder: Path) -> Iterator[OperatorProcess]:
    lease = ("--lease-namespace", room.namespace)
    with operator(
        folder, room.cluster.kubeconfig, room.config, "--namespace", room.namespace, *lease
    ) as process:
        process.wait_until_ready()
        yield process


def test_whoever_does_not_hold_the_lease_tells_of_no_run(room: Room, tmp_path: Path) -> None:
    room.apply()
    room.wait_for_state("Succeeded")
    assert room.operator.stop() == 0
    os.makedirs(tmp_path / "first")
    os.makedirs(tmp_path / "second")
    with standby(room, tmp_path / "first") as first:
        first.wait_until(lambda: bool(of_runs(scrape(first), "run", "gapo_stage_")), "the holder tells of it")
        with standby(room, tmp_path / "second") as second:
            second.wait_until(
                lambda: ("gapo_leader", frozenset()) in scrape(second), "the other one is scraped"
            )
            samples = scrape(second)
            assert samples["gapo_leader", frozenset()] == 0
            assert not of_runs(samples, "run")
            assert "gapo_runs" not in {name for name, _ in samples}
            shown = of_runs(scrape(first), "run", "gapo_stage_")
            assert first.stop() == 0
            second.wait_until(
                lambda: of_runs(scrape(second), "run", "gapo_stage_") == shown, "the successor tells of it"
            )


def said_by(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_task_that_tells_how_far_it_is_is_shown_and_told_again_only_when_it_has_news(room: Room) -> None:
    room.pods.misbehave["0/data/0"] = "pending:ContainerCreating"
    room.apply(stages={"max": 2})
    room.wait(lambda: bool(room.kubectl("get", "pods", "-o", "name").split()), "its first pod is there")
    pod = json.loads(room.kubectl("get", "pods", "-o", "json"))["items"][0]["metadata"]
    objects = room.objects()
    handed_over = objects.get("stages/0/data/0/task.json")
    assert handed_over is not None
    task = Task.model_validate_json(handed_over)
    progress = {
        "runID": task.run_id,
        "taskDigest": task.digest,
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 73,
        "metrics": [{"name": "sft/loss", "value": "1.25"}],
        "lastUpdatedTime": "2026-01-01T12:00:00Z",
        "startTime": "2026-01-01T11:59:00Z",
    }
    objects.put(f"stages/0/data/0/{pod['uid']}/progress.json", json.dumps(progress).encode())
    running = json.dumps({"status": {"phase": "Running"}})
    room.kubectl("patch", "pod", pod["name"], "--subresource=status", "--type=merge", "-p", running)
    room.wait(lambda: room.status().get("progress") == "0/2 data 45 %", "progress is shown")
    status = room.status()
    assert status["trainerStatus"] == {
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 73,
        "metrics": [{"name": "sft/loss", "value": "1.25"}],
        "lastUpdatedTime": "2026-01-01T12:00:00Z",
    }
    assert status["tasks"][0]["progressPercentage"] == 45
    assert 0 < status["progressPercentage"] < 20
    assert "estimatedRemainingSeconds" not in status, (
        "no other task has run, so that nothing tells how long they take"
    )
    shown = said_by(
        "gapo", "status", "run", "-n", room.namespace, "--kubeconfig", str(room.cluster.kubeconfig)
    )
    assert "Running, 0/2 data 45 %" in shown
    assert f"{status['progressPercentage']} % of the run" in shown
    assert "task: about 73 s left · sft/loss 1.25" in shown
    version = room.get()["metadata"]["resourceVersion"]

    def passes() -> float:
        return scrape(room.operator)["gapo_reconcile_duration_seconds_count", frozenset()]

    before = passes()
    room.wait(lambda: passes() >= before + 2, "it was looked at twice more")
    assert room.get()["metadata"]["resourceVersion"] == version
    assert "45 %" in room.kubectl("get", "gaporuns")


def test_the_operator_tells_of_its_own_requests_and_decisions(room: Room) -> None:
    room.apply(stages={"max": 2})
    room.wait_for_state("Succeeded")
    samples = scrape(room.operator)

    def counted(name: str, **labels: str) -> float:
        return samples.get((name, frozenset(labels.items())), 0.0)

    store, kubernetes = (
        "gapo_object_store_request_duration_seconds",
        "gapo_kubernetes_request_duration_seconds",
    )
    assert counted(f"{store}_count", op="get", code="ok") > 10
    assert counted(f"{store}_count", op="get", code="absent") > 10
    assert counted(f"{store}_count", op="create", code="ok") > 10
    assert counted(f"{kubernetes}_count", op="create", code="201") >= 11
    assert counted(f"{kubernetes}_count", op="patch", code="200") >= 5
    assert counted(f"{kubernetes}_count", op="list", code="200") == 3
    assert counted("gapo_decisions_total", reason="continue") == 2
    assert counted("gapo_reconcile_errors_total", kind="storage") == 0
    assert counted("gapo_queue_wait_seconds_count") > 10
    assert counted("process_resident_memory_bytes") > 1e7
    room.proxy.instead = lambda method, path: (503, b"")
    room.apply("later")
    room.wait(
        lambda: scrape(room.operator).get(("gapo_object_store_paused_locations", frozenset())) == 1,
        "the location is left alone",
    )
    assert scrape(room.operator)["gapo_reconcile_errors_total", frozenset({("kind", "storage")})] >= 1

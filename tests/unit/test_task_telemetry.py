"""What a task tells while it runs: the account, progress.json, and the scrape."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore
from prometheus_client.parser import text_string_to_metric_families

from gapo.digest import canonical_json
from gapo.errors import StoreError
from gapo.metrics.figures import TaskFigures
from gapo.metrics.progress_file import task_figures
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task
from gapo_trainer.runtime.progress import ProgressFile, TaskProgress, document, served

KEY = "stages/2/ppo/1/w/progress.json"


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def task() -> Task:
    return Task(run_id="run", stage=2, kind=Kind.PPO, inputs={}, params={}, seed=0, attempt=1)


def iteration(**figures: float) -> dict[str, float]:
    named = {name.replace("__", "/"): value for name, value in figures.items()}
    return {"ppo/rollouts": 16.0, "ppo/generated_tokens": 90.0, "wall/rollout": 0.25, **named}


def test_counts_are_added_up_and_other_figures_are_the_last_iterations() -> None:
    account = TaskProgress()
    account.report({"fraction": 0.1, "metrics": iteration(ppo__reward=0.2, ppo__skipped_updates=1.0)})
    account.report({"fraction": 0.2, "metrics": iteration(ppo__reward=0.5, ppo__generated_tokens=110.0)})
    assert account.figures().metrics == {
        "ppo/rollouts": 32.0,
        "ppo/generated_tokens": 200.0,
        "ppo/skipped_updates": 1.0,
        "wall/rollout": 0.5,
        "ppo/reward": 0.5,
        "task/nonfinite": 0.0,
    }


def test_a_figure_that_the_last_iteration_lacks_is_not_told() -> None:
    account = TaskProgress()
    account.report({"fraction": 0.1, "metrics": iteration(ppo__policy_loss=0.3)})
    account.report({"fraction": 0.2, "metrics": iteration()})
    assert "ppo/policy_loss" not in account.figures().metrics
    account.report({"fraction": 0.3, "metrics": {}})
    assert account.figures().metrics["ppo/rollouts"] == 32.0


def test_figures_that_are_no_finite_number_are_counted_and_not_told() -> None:
    account = TaskProgress()
    bad = iteration(ppo__reward=float("nan"), ppo__kl=float("-inf"), ppo__generated_tokens=float("nan"))
    account.report({"fraction": 0.1, "metrics": bad})
    account.report({"fraction": 0.2, "metrics": iteration(ppo__kl=float("inf"))})
    metrics = account.figures().metrics
    assert metrics["task/nonfinite"] == 4.0
    assert metrics["ppo/generated_tokens"] == 90.0
    assert not {"ppo/reward", "ppo/kl"} & metrics.keys()


def test_clocks_that_are_no_phase_are_not_told() -> None:
    account = TaskProgress()
    account.report({"fraction": 0.1, "metrics": {"wall/seconds": 3.0, "wall/iteration": 2.0, "rm/loss": 0.7}})
    assert account.figures().metrics == {"rm/loss": 0.7, "task/nonfinite": 0.0}


def test_the_pace_counts_from_the_first_report_not_from_the_start() -> None:
    clock = Clock(1000.0)
    account = TaskProgress(clock)
    clock.now = 1060.0  # a minute of loading
    account.report({"fraction": 0.5, "metrics": {}})  # resumed in the middle
    assert account.figures().estimated_remaining_seconds is None
    clock.now = 1070.0
    account.report({"fraction": 0.6, "metrics": {}})
    # A tenth in 10 s: four tenths are left.
    figures = account.figures()
    assert figures.estimated_remaining_seconds == pytest.approx(40.0)
    assert figures.progress_percentage == pytest.approx(60.0)
    assert (figures.started, figures.last_updated, figures.checkpoint) == (1000.0, 1070.0, None)
    clock.now = 1085.0
    account.checkpointed()
    assert account.figures().checkpoint == 1085.0
    assert account.figures().last_updated == 1070.0


def test_a_first_step_of_a_third_of_a_second_foretells_nothing() -> None:
    clock = Clock(0.0)
    account = TaskProgress(clock)
    account.report({"fraction": 0.0, "metrics": {}})
    clock.now = 0.3
    account.report({"fraction": 0.001, "metrics": {}})
    assert account.figures().estimated_remaining_seconds is None
    clock.now = 3.0
    account.report({"fraction": 0.01, "metrics": {}})
    assert account.figures().estimated_remaining_seconds == pytest.approx(297.0)


def test_a_finished_task_has_nothing_left() -> None:
    clock = Clock(0.0)
    account = TaskProgress(clock)
    account.report({"fraction": 0.0, "metrics": {}})
    clock.now = 5.0
    account.report({"fraction": 1.0, "metrics": {}})
    assert account.figures().estimated_remaining_seconds == 0.0


def test_before_anything_is_told_only_the_start_is_known() -> None:
    figures = TaskProgress(Clock(7.0)).figures()
    assert figures == TaskFigures(metrics={"task/nonfinite": 0.0}, started=7.0)


def test_progress_has_the_fields_and_types_of_kep_2779_and_says_whose_it_is() -> None:
    figures = TaskFigures(
        progress_percentage=41.7,
        estimated_remaining_seconds=12.1,
        metrics={"ppo/reward": 0.25, "ppo/generated_tokens": 1234567.0, "ppo/kl": 1e-07},
        last_updated=1_790_000_000.9,
        started=1_789_999_000.0,
        checkpoint=1_789_999_500.0,
    )
    assert document(task(), figures) == {
        "runID": "run",
        "taskDigest": task().digest,
        "progressPercentage": 41,
        "estimatedRemainingSeconds": 13,
        "metrics": [
            {"name": "ppo/generated_tokens", "value": "1234567"},
            {"name": "ppo/kl", "value": "1e-07"},
            {"name": "ppo/reward", "value": "0.25"},
        ],
        "lastUpdatedTime": "2026-09-21T14:13:20Z",
        "startTime": "2026-09-21T13:56:40Z",
        "checkpointTime": "2026-09-21T14:05:00Z",
    }


def test_readers_take_what_tasks_write() -> None:
    figures = TaskFigures(
        progress_percentage=57 / 0.57,
        estimated_remaining_seconds=0.0,
        metrics={"a": -1e-07, "b": 1e15, "c": 123456789.0, "d": 1 / 3, "e": 0.0},
        last_updated=2000.0,
        started=1000.0,
        checkpoint=1500.0,
    )
    data = canonical_json(document(task(), figures))
    assert task_figures(data, run_id="run", task_digest=task().digest) == TaskFigures(
        progress_percentage=100.0,
        estimated_remaining_seconds=0.0,
        metrics={"a": -1e-07, "b": 1e15, "c": 123456789.0, "d": 0.333333333333, "e": 0.0},
        last_updated=2000.0,
        started=1000.0,
        checkpoint=1500.0,
    )


def test_what_is_not_known_is_left_out_of_progress() -> None:
    fields = document(task(), TaskFigures(progress_percentage=0.0, last_updated=1.0))
    assert fields.keys() == {"runID", "taskDigest", "progressPercentage", "metrics", "lastUpdatedTime"}


class Watched(Objects):
    """Objects in a folder that tell of every write, and refuse as many as asked."""

    def __init__(self, folder: Path, refuse: int = 0) -> None:
        super().__init__(LocalStore(folder))
        self.written = threading.Semaphore(0)
        self.refuse = refuse

    def put(self, key: str, data: bytes) -> None:
        try:
            if self.refuse:
                self.refuse -= 1
                raise StoreError("the store is away")
            super().put(key, data)
        finally:
            self.written.release()


def progress_in(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / KEY).read_text())
    return fields


def test_progress_is_written_beside_the_training_and_once_more_at_the_end(tmp_path: Path) -> None:
    account, objects = TaskProgress(), Watched(tmp_path)
    progress = ProgressFile(objects, task(), "w", account)
    account.report({"fraction": 0.25, "metrics": {"ppo/reward": 0.5}})
    assert objects.written.acquire(timeout=30)
    assert progress_in(tmp_path)["progressPercentage"] == 25
    account.report({"fraction": 0.5, "metrics": {}})  # within half a second of the first
    account.checkpointed()
    progress.close()
    fields = progress_in(tmp_path)
    assert fields["progressPercentage"] == 50
    assert "checkpointTime" in fields
    assert {"name": "ppo/reward", "value": "0.5"} in fields["metrics"]


def test_however_often_it_is_told_progress_is_written_twice_a_second_at_most(tmp_path: Path) -> None:
    account, objects = TaskProgress(), Watched(tmp_path)
    progress = ProgressFile(objects, task(), "w", account)
    began = time.monotonic()
    for done in range(4):
        for _ in range(100):
            account.report({"fraction": done / 4, "metrics": {"ppo/rollouts": 1.0}})
        assert objects.written.acquire(timeout=30)
    assert time.monotonic() - began >= 1.4  # the fourth write
    progress.close()
    assert {"name": "ppo/rollouts", "value": "400"} in progress_in(tmp_path)["metrics"]


def test_a_store_that_is_away_stops_nothing_and_the_next_write_lands(tmp_path: Path) -> None:
    account, objects = TaskProgress(), Watched(tmp_path, refuse=1)
    progress = ProgressFile(objects, task(), "w", account)
    account.report({"fraction": 0.25, "metrics": {}})
    assert objects.written.acquire(timeout=30)
    assert not (tmp_path / KEY).exists()
    account.report({"fraction": 0.5, "metrics": {}})
    progress.close()
    assert progress_in(tmp_path)["progressPercentage"] == 50


def test_a_store_that_never_answers_does_not_hold_up_the_end(tmp_path: Path) -> None:
    class Stuck(Objects):
        answer = threading.Event()

        def put(self, key: str, data: bytes) -> None:
            self.answer.wait()

    objects = Stuck(LocalStore(tmp_path))
    account = TaskProgress()
    progress = ProgressFile(objects, task(), "w", account)
    account.report({"fraction": 0.25, "metrics": {}})
    progress.close()
    assert not (tmp_path / KEY).exists()
    objects.answer.set()


def test_a_task_that_told_nothing_writes_nothing(tmp_path: Path) -> None:
    ProgressFile(Objects(LocalStore(tmp_path)), task(), "w", TaskProgress()).close()
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_tells_the_account_as_it_is_then_without_labels_of_the_run() -> None:
    account, port = TaskProgress(Clock(1000.0)), free_port()
    with served(account, port):
        assert scrape(port) == {
            ("gapo_task_start_timestamp_seconds", ()): 1000.0,
            ("gapo_task_nonfinite_total", ()): 0.0,
        }
        account.report({"fraction": 0.25, "metrics": iteration(ppo__reward=0.5)})
        account.report({"fraction": 0.25, "metrics": iteration(ppo__reward=float("nan"), ppo__kl=0.125)})
        assert scrape(port) == {
            ("gapo_task_start_timestamp_seconds", ()): 1000.0,
            ("gapo_task_progress_ratio", ()): 0.25,
            ("gapo_task_nonfinite_total", ()): 1.0,
            ("gapo_task_kl_nats", ()): 0.125,
            ("gapo_task_rollouts_total", ()): 32.0,
            ("gapo_task_generated_tokens_total", ()): 180.0,
            ("gapo_task_phase_seconds_total", (("kind", "rollout"),)): 0.5,
        }


def test_a_port_that_is_taken_is_told_and_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with served(TaskProgress(), port):
            assert f"port {port}: Address already in use; this task serves no metrics" in caplog.text


def test_without_a_port_nothing_listens_and_after_the_task_nothing_does() -> None:
    port, before = free_port(), threading.active_count()
    with served(TaskProgress(), None):
        assert threading.active_count() == before
    with served(TaskProgress(), port):
        scrape(port)
    with pytest.raises(OSError, match="refused"):
        scrape(port)

"""Runs that ended before the operator began: few requests, the same series, and nobody is kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from tests.unit.operator.played import loaded, play
from tests.unit.store.s3_servers import FaultProxy

from gapo.api.load import LoadedRun
from gapo.api.status import GapoRunStatus
from gapo.metrics.figures import RunFigures
from gapo.metrics.samples import run_samples
from gapo.store.objects import Objects
from gapo_operator import storage_pool as stores
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.objects import RunKey
from gapo_operator.reconcile.status import Findings, status_of
from gapo_operator.run_metrics import backfill
from gapo_operator.run_metrics.backfill import Backfill, Entry, read
from gapo_operator.storage_pool import StoragePool

KEY = RunKey("red", "run")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ended(objects: Objects, run: LoadedRun, failing: str = "", name: str = "run") -> tuple[Entry, RunFigures]:
    """A run that has ended as the operator that drove it left it, and the figures that it showed last."""
    outcome = play(objects, run, failing=failing)
    assert outcome.figures is not None
    findings = Findings(
        generation=1,
        run_id=run.run_id,
        location=f"s3://runs/red/{name}/{run.run_id}",
        spec=run.spec,
        status=outcome.plan.status,
        observation=outcome.observation,
        figures=outcome.figures,
    )
    status = GapoRunStatus.model_validate(status_of(findings, None, NOON))
    return Entry(KEY, "uid", run.spec, status), outcome.figures


def series(figures: RunFigures, prefix: str) -> dict[str, float]:
    samples = [sample for sample in run_samples(figures) if sample.name.startswith(prefix)]
    return {f"{sample.name}{sorted(sample.labels.items())}": sample.value for sample in samples}


@pytest.mark.parametrize(
    "spec",
    [
        {"stages": {"max": 3}},
        {"stages": {"max": 3}, "adversarial": {"finalRm": True}},
        {"stages": {"max": 14}},
    ],
    ids=["plain", "final reward model", "many stages"],
)
def test_a_succeeded_run_is_told_from_a_few_records_as_it_was_told_while_it_ran(
    spec: dict[str, object],
) -> None:
    objects = Objects(MemoryStore())
    run, shown = ended(objects, loaded(**spec))
    requests: list[str] = []
    figures = read(Objects(objects.store, listener=lambda op, _result, _seconds: requests.append(op)), run)
    assert len(requests) <= 5
    assert len(series(shown, "gapo_stage_")) > 30
    assert series(figures, "gapo_stage_") == series(shown, "gapo_stage_")
    without_conditions = {
        k: v for k, v in series(figures, "gapo_run_").items() if "gapo_run_condition" not in k
    }
    assert without_conditions == series(shown, "gapo_run_")


def test_a_failed_run_is_told_from_a_scan_as_it_was_told_while_it_ran() -> None:
    objects = Objects(MemoryStore())
    run, shown = ended(objects, loaded(), failing="2/evaluate")
    assert run.status.state == "Failed"
    figures = read(objects, run)
    assert series(figures, "gapo_stage_") == series(shown, "gapo_stage_")
    assert figures.stages[2]["ppo/kl"] == 0.02
    assert figures.attempts_ended["permanent"] == 1


def test_of_a_run_that_lives_what_is_decided_is_told_for_one_request() -> None:
    objects = Objects(MemoryStore())
    run, _ = ended(objects, loaded(stages={"max": 3}))
    status = run.status.model_copy(update={"state": "Running", "stage": 3})
    status = status.model_copy(update={"stages": [row for row in status.stages if row.stage < 3]})
    requests: list[str] = []
    figures = read(
        Objects(objects.store, listener=lambda op, _result, _seconds: requests.append(op)),
        replace(run, status=status),
    )
    assert requests == ["get"]
    satisfied = {k: metrics["eval/satisfaction"] for k, metrics in figures.stages.items()}
    assert satisfied == pytest.approx({0: 0.4, 1: 0.43, 2: 0.46})
    assert figures.stages[1]["rm/pair_accuracy"] == 0.9
    assert "rm/pair_accuracy" not in figures.stages[2], (
        "it was retrained after the decision: a scan tells of it"
    )
    assert figures.state == "Running"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.slow
def test_runs_are_read_through_failures_of_storage_and_those_that_are_gone_meanwhile_are_not_told(
    proxy: FaultProxy, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(stores, "PAUSE_SECONDS", 0.05)
    kl_of_runs: dict[str, float] = {}
    where = {"name": "red", "uri": "s3://runs", "endpoint": proxy.url, "region": "us-east-1"}
    config = OperatorConfig.model_validate({"storageLocations": [where], "trainer": {"image": "trainer"}})
    run = loaded(storage={"location": "red"})

    async def story() -> None:
        opened = StoragePool(credentials)
        entry = await opened.call(
            config.storage_locations[0],
            f"red/kept/{run.run_id}",
            lambda objects: ended(objects, run, name="kept")[0],
        )
        reader = Backfill(opened, config)
        for name in ("gone", "kept"):
            reader.want(replace(entry, key=RunKey("red", name)))
        reader.drop(RunKey("red", "gone"))
        assert len(reader) == 1
        failed = len(proxy.seen) + 12  # more than the client tries by itself
        proxy.instead = lambda method, path: (503, b"") if len(proxy.seen) < failed else None
        reading = asyncio.create_task(
            reader.run(lambda one, figures: kl_of_runs.update({one.key.name: figures.stages[2]["ppo/kl"]}))
        )
        await _until(lambda: len(reader) == 0)
        reading.cancel()
        opened.close()

    asyncio.run(story())
    assert kl_of_runs == {"kept": 0.02}
    assert not any("/gone/" in path for _, path in proxy.seen)

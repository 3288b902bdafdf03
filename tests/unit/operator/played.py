"""A whole run in storage, made by the operator's own passes: its tasks commit at once, with figures that a test knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.unit.planner.world import START

from gapo.api.load import LoadedRun, load_document
from gapo.decision_rules.attempts import Exit
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.store.commit import commit_manifest
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task, manifest_of
from gapo_operator.kube.job_states import AttemptJob, JobState
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.run_pass import RunPass

SECONDS = 100.0
"""Of every task."""
FAMILIES = ("length.words", "keyword.include", 'odd"family\\')
OPPONENTS = 3


def manifest(name: str = "run", namespace: str = "red", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
            "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
            "stages": {"max": 2},
            "storage": {"location": "local"},
            **spec,
        },
    }


def loaded(name: str = "run", namespace: str = "red", **spec: Any) -> LoadedRun:
    return load_document(manifest(name, namespace, **spec), where="test", base=Path())


def metrics_of(task: Task) -> dict[str, float]:
    """What each task measures. Satisfaction rises by 3 points a stage, so that no run converges early."""
    k, wall = task.stage, {"wall/seconds": SECONDS}
    if task.kind is Kind.EVALUATE:
        families = {f"eval/family/{name}": 0.5 + 0.01 * k for name in FAMILIES}
        scores = {
            f"scores/generated/le_{bound}": share
            for bound, share in zip(("0.2", "0.4", "0.6", "0.8", "0.95", "1.0"), SHARES, strict=True)
        }
        cells = {f"crossplay/auc/{rm}/{k}": 0.9 - 0.01 * rm for rm in range(max(0, k - OPPONENTS), k)}
        own = {
            "eval/satisfaction": 0.4 + 0.03 * k,
            "eval/satisfaction_n": 2000.0,
            "fidelity/auc": 0.8 - 0.01 * k,
        }
        return {**own, **families, **scores, **cells, **wall}
    if task.kind in (Kind.RM, Kind.RM_WARMUP):
        accepted = {f"scores/accepted/le_{bound}": 0.25 for bound in ("0.2", "0.95")}
        return {"rm/pair_accuracy": 0.9, **accepted, **wall}
    if task.kind is Kind.PPO:
        return {"ppo/rollouts": 64.0, "ppo/reward": 0.1 * k, "ppo/kl": 0.01 * k, "ppo/entropy": 2.0, **wall}
    if task.kind is Kind.EXPORT:
        return {"export/stage": float(k), "test/best_satisfaction": 0.7, "test/gain": 0.3, **wall}
    return wall


SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


Measure = Callable[[Task], dict[str, float]]


def commit(objects: Objects, task: Task, metrics: Measure = metrics_of) -> None:
    commit_manifest(
        objects,
        manifest_of(
            task,
            writer="w",
            metrics=metrics(task),
            started_at=START,
            finished_at=START + timedelta(seconds=SECONDS),
        ),
    )


def play(objects: Objects, run: LoadedRun, *, failing: str = "", metrics: Measure = metrics_of) -> Outcome:
    """Passes until the run has ended; `failing` is `<stage>/<kind>` of a task that fails for good. Every pod ran for
    SECONDS."""
    storage = RunPass("uid-1", lambda: START)
    attempt_jobs: dict[AttemptKey, AttemptJob] = {}
    for _ in range(1000):
        outcome = storage.advance(objects, run, attempt_jobs, "image:1", {})
        if outcome.plan.status.state in (State.SUCCEEDED, State.FAILED):
            return outcome
        attempt_jobs = {}
        for task in outcome.create:
            failed = f"{task.stage}/{task.kind.value}" == failing
            if not failed:
                commit(objects, task, metrics)
            attempt_jobs[AttemptKey(task.key, task.attempt)] = _ended(task, failed)
    raise AssertionError("the run does not end")


def _ended(task: Task, failed: bool) -> AttemptJob:
    return AttemptJob(
        AttemptKey(task.key, task.attempt),
        f"job-{task.key}",
        JobState.FAILED if failed else JobState.SUCCEEDED,
        "job-uid",
        started_at=START,
        ended_at=START + timedelta(seconds=SECONDS),
        exit=Exit(code=65, reason="InvalidData") if failed else None,
    )

"""A run's storage and what a cluster shows of it, for passes that are played by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore
from tests.unit.planner.world import START

from gapo.api.load import LoadedRun, load_document
from gapo.planning.observation import AttemptKey
from gapo.store.commit import commit_manifest
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task, TaskKey, manifest_of
from gapo_operator.kube.job_states import AttemptJob, JobState
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.run_pass import (
    RunPass,
)

DATA = AttemptKey(TaskKey(0, Kind.DATA), 0)


class Room:
    """One run's storage, an operator's passes over it, and a clock that the test moves."""

    def __init__(self) -> None:
        self.objects = Objects(MemoryStore())
        self.seconds = 0.0
        self.storage = self.operator("uid-1")

    def operator(self, uid: str) -> RunPass:
        return RunPass(uid, lambda: START + timedelta(seconds=self.seconds), lambda: self.seconds)

    def loaded(self, **spec: Any) -> LoadedRun:
        document = {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": "run", "namespace": "red"},
            "spec": {
                "data": {"generate": {"grammar": "micro", "size": 100}},
                "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
                "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
                "stages": {"max": 2},
                **spec,
            },
        }
        return load_document(document, where="test", base=Path())

    def advance(
        self,
        attempt_jobs: Mapping[AttemptKey, AttemptJob] | None = None,
        waited: Mapping[str, float] | None = None,
        storage: RunPass | None = None,
        **spec: Any,
    ) -> Outcome:
        return (storage or self.storage).advance(
            self.objects, self.loaded(**spec), attempt_jobs or {}, "image:1", waited or {}
        )

    def commit(self, task: Task) -> None:
        commit_manifest(
            self.objects,
            manifest_of(
                task,
                writer="w",
                started_at=START,
                finished_at=START,
            ),
        )


def attempt_job(attempt: AttemptKey, state: JobState, **more: Any) -> dict[AttemptKey, AttemptJob]:
    return {attempt: AttemptJob(attempt, f"job-{attempt.task.kind.value}", state, "job-uid", **more)}


def started(outcome: Outcome) -> list[AttemptKey]:
    return [AttemptKey(task.key, task.attempt) for task in outcome.create]


def causes(outcome: Outcome, key: TaskKey = DATA.task) -> list[str]:
    return [a.ended.cause.value if a.ended else "none" for a in outcome.observation.attempts.get(key, ())]

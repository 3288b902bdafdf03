"""Executors with tasks that take milliseconds, over a folder for storage."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gapo.api.load import LoadedRun, load_document
from gapo.local.executor import Executor, Place, View
from gapo.local.processes import TrainerServer
from gapo.local.run_location import parse_locations, place_of
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts, Status
from gapo.run.reader import Observer
from gapo.tasks import Kind, TaskKey

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tests.unit.local.instant"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/core:{ROOT}/trainer"}


def manifest(stages: int = 2, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "instant"},
        "spec": {
            "runID": "r1",
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": stages},
            "checkpoint": {"interval": "0.001s"},
            **spec,
        },
    }


class Machine:
    """A folder for storage, and executors over it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
        self.monkeypatch.chdir(ROOT)

    def loaded(self, **spec: Any) -> LoadedRun:
        return load_document(manifest(**spec), where="test", base=self.folder)

    def place(self, **spec: Any) -> Place:
        locations = parse_locations([f"local={self.folder / 'store'}"], endpoint=None, region=None)
        return place_of(self.loaded(**spec), locations)

    def executor(self, view: View | None = None, **spec: Any) -> Executor:
        loaded = self.loaded(**spec)
        work = self.folder / "work"
        server = TrainerServer(work / "logs" / "server.log", command=COMMAND)
        facts = RunFacts(loaded.run_id, loaded.spec)
        return Executor(facts, self.place(**spec), server, work=work, view=view)

    def run(self, view: View | None = None, **spec: Any) -> Status:
        return self.executor(view, **spec).run()

    def misbehave(self, what: dict[str, str]) -> None:
        self.monkeypatch.setenv("GAPO_INSTANT", json.dumps(what))

    def observation(self) -> Observation:
        observer = Observer(self.place().objects, "r1")
        observer.scan()
        return observer.observation()

    def causes(self, stage: int, kind: Kind) -> list[str]:
        attempts = self.observation().attempts[TaskKey(stage, kind)]
        return [a.ended.cause.value if a.ended else "none" for a in attempts]

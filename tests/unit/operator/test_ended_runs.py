"""The status of a run that has ended stays as it is, whatever befalls its storage afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.unit.operator.passes import Desk
from tests.unit.operator.played import loaded
from tests.unit.planner.world import START, spec_of

from gapo.errors import StoreError
from gapo.store.objects import Objects
from gapo_operator.reconcile.status import Findings, status_of

TASK = {"name": "run-0-export-0", "kind": "export", "attempt": 0, "state": "Running"}


def ended(state: str = "Succeeded", *, tasks: bool = False, **spec: Any) -> Desk:
    """A run that an earlier process left so; nothing of it is in storage any more."""
    desk = Desk(**spec)
    desk.server.run["status"] = {
        "observedGeneration": 1,
        "runID": loaded(**spec).run_id,
        "location": f"s3://runs/red/run/{loaded(**spec).run_id}",
        "state": state,
        "stage": 2,
        "tasks": [TASK] if tasks else [],
        "conditions": [
            {
                "type": "Succeeded",
                "status": "True" if state == "Succeeded" else "False",
                "reason": "StagesCompleted",
                "message": "",
                "lastTransitionTime": START.isoformat(),
                "observedGeneration": 1,
            }
        ],
    }
    desk.restart()
    return desk


def a_job_of(desk: Desk) -> None:
    """One that has not ended yet."""
    labels = {
        "gapo.dev/run": "run", "gapo.dev/run-id": desk.server.run["status"]["runID"],
        "gapo.dev/stage": "2", "gapo.dev/kind": "export", "gapo.dev/attempt": "0",
    }  # fmt: skip
    owner = {"kind": "GapoRun", "controller": True, "uid": "uid-1"}
    metadata = {
        "name": "job", "namespace": "red", "uid": "job-uid", "resourceVersion": "1", "labels": labels,
        "ownerReferences": [owner],
    }  # fmt: skip
    desk.server.jobs["job"] = {"metadata": metadata, "spec": {}, "status": {}}


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
def test_tasks_that_an_earlier_release_left_in_a_status_go_and_nothing_else_of_it(state: str) -> None:
    desk = ended(state, tasks=True, scheduling={"ttlSecondsAfterFinished": 100})
    before = copy.deepcopy(desk.server.run["status"])
    assert desk.look() == 100  # of its time to live; its folder is not missed
    assert desk.server.run["status"] == {**before, "tasks": []}
    desk.look()
    assert desk.server.status_writes == 1


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
def test_a_run_that_ended_is_not_stalled_by_what_becomes_of_its_location(state: str) -> None:
    desk = ended(state, scheduling={"ttlSecondsAfterFinished": 100})
    desk.server.run["status"]["location"] = "s3://where/it/was"
    a_job_of(desk)  # so that there is something to look at
    before = copy.deepcopy(desk.server.run["status"])
    assert desk.look() is not None
    assert desk.server.run["status"] == before
    desk.seconds = 101.0
    desk.look()
    assert "deletionTimestamp" in desk.server.run["metadata"]


def test_a_run_that_ended_is_not_stalled_by_an_operator_that_does_not_know_a_field_of_it() -> None:
    desk = ended()
    desk.server.run["spec"]["ofALaterRelease"] = 1
    desk.restart()
    desk.look()
    assert desk.server.status_writes == 0


def test_a_failed_run_whose_manifest_was_changed_is_told_that_its_location_has_moved() -> None:
    desk = ended("Failed")
    desk.server.run["status"]["location"] = "s3://where/it/was"
    desk.server.change(scheduling={"maxFailures": 9})
    desk.look()
    assert desk.condition("Stalled")["reason"] == "StorageMoved"
    assert desk.server.run["status"]["state"] == "Stalled"


def test_a_failed_run_whose_manifest_was_changed_has_not_ended_while_its_storage_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise StoreError("no answer")

    desk = ended("Failed")
    desk.server.change(scheduling={"maxFailures": 9})
    monkeypatch.setattr(Objects, "get", fails)
    for _ in range(2):
        assert desk.look() is not None  # it is tried again
        assert desk.server.run["status"]["state"] == "Pending"
        assert desk.condition("StorageReady")["status"] == "False"


def test_what_ended_by_this_manifest_stays_so_while_storage_is_not_read() -> None:
    before = {"observedGeneration": 2, "state": "Failed"}
    assert status_of(Findings(2, spec=spec_of()), before, START)["state"] == "Failed"
    assert status_of(Findings(3, spec=spec_of()), before, START)["state"] == "Pending"

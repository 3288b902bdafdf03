"""A run on one machine, with tasks that take milliseconds: its end, its failures, what it keeps."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.local.machine import Machine

from gapo.errors import DiskFullError, StoreRefusedError
from gapo.local.executor import View
from gapo.planning.plan import State
from gapo.store import layout
from gapo.tasks import Kind, TaskKey

pytestmark = pytest.mark.slow


def test_a_run_goes_from_nothing_to_its_export_and_a_second_run_starts_nothing(machine: Machine) -> None:
    status = machine.run()
    assert status.state is State.SUCCEEDED
    assert status.message == "all 2 stages are done; exported stage 2"
    before = machine.observation().attempts
    assert machine.run().state is State.SUCCEEDED
    assert machine.observation().attempts == before
    assert all(len(group) == 1 for group in before.values())


def test_every_start_of_an_executor_takes_a_new_claim(machine: Machine) -> None:
    machine.run(stages=0)
    machine.run(stages=0)
    objects = machine.place().objects
    assert objects.exists(layout.claim(1))
    assert not objects.exists(layout.claim(2))


def test_a_killed_task_is_charged_and_tried_again_after_a_pause(machine: Machine) -> None:
    machine.misbehave({"0/sft/0": "sigkill"})
    waiting_messages: list[str] = []

    class Watch(View):
        def planned(self, plan: Any) -> None:
            if plan.status.state is State.WAITING:
                waiting_messages.append(plan.status.message)

    executor = machine.executor(Watch(), stages=0)
    clock = executor.clock
    executor.clock = lambda: clock() + timedelta(minutes=10) * bool(waiting_messages)
    assert executor.run().state is State.SUCCEEDED
    assert machine.causes(0, Kind.SFT) == ["killed", "committed"]
    assert "sft failed (killed), 1 of 3 allowed" in waiting_messages[0]


def test_bad_data_ends_the_run_at_once_with_the_tasks_own_words(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "exit:65"})
    status = machine.run()
    assert status.state is State.FAILED
    assert status.message == "data failed for good with exit 65: rows.jsonl line 3: label is missing"


def test_a_full_disk_ends_the_executor_at_once_and_the_next_one_goes_on(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "full"})
    with pytest.raises(DiskFullError, match=r"the disk is full: .*out.*; free some space, then run the same"):
        machine.run(stages=0)
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["retryable", "committed"]


def test_denied_access_ends_the_executor_at_once_and_the_next_one_goes_on(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "denied"})
    with pytest.raises(
        StoreRefusedError, match="AccessDenied; put that right, then run the same command again"
    ):
        machine.run(stages=0)
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["noAccess", "committed"]


def test_a_failed_run_that_is_started_again_tries_the_failed_task_anew(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "exit:65"})
    assert machine.run(stages=0).state is State.FAILED
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["permanent", "committed"]


def test_a_gate_that_is_not_passed_ends_the_run_and_names_the_family(machine: Machine) -> None:
    machine.misbehave({"0/rm-warmup/0": "exit:73"})
    status = machine.run()
    assert status.state is State.FAILED
    assert "keywords.forbidden_words 0.51" in status.message


def test_a_corrupt_input_is_made_again_once_and_the_run_goes_on(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "badinput:rm"})
    assert machine.run().state is State.SUCCEEDED
    observation = machine.observation()
    assert observation.committed[TaskKey(0, Kind.RM_WARMUP)].generation == 1
    assert observation.committed[TaskKey(0, Kind.SFT)].generation == 0
    assert len(observation.attempts[TaskKey(0, Kind.DATA)]) == 1


def test_an_unforeseen_error_names_the_log(machine: Machine) -> None:
    machine.misbehave({f"0/data/{n}": "raise" for n in range(9)})
    status = machine.run(scheduling={"maxFailures": 0})
    assert status.state is State.FAILED
    assert "RuntimeError: a bug" in status.message
    log = (machine.folder / "work" / "logs" / "0-data-0.log").read_text()
    assert "Traceback" in log


def test_after_each_decision_only_what_the_run_may_still_need_is_kept(machine: Machine) -> None:
    assert machine.run(stages=4).state is State.SUCCEEDED
    root = machine.folder / "store" / "default" / "instant" / "r1"

    def kept(stage: int, kind: str) -> set[str]:
        return {path.parent.name for path in (root / f"stages/{stage}/{kind}").rglob("weights")}

    everything = {"generator", "rm", "critic", "state", "model"}
    assert kept(0, "sft") == everything
    assert kept(1, "ppo") == kept(2, "ppo") == {"rm", "model"}
    assert kept(3, "ppo") == kept(4, "ppo") == everything
    assert kept(1, "rm") >= {"rm"}
    assert list(root.glob("stages/1/ppo/0/*/out/samples.jsonl"))
    assert not list(root.glob("stages/1/ppo/0/*/resume-*/count"))
    recorded = json.loads((root / "retired" / "4.json").read_text())["keys"]
    assert not any((root / key).exists() for key in recorded)
    assert machine.run(stages=4).state is State.SUCCEEDED
    assert all(len(group) == 1 for group in machine.observation().attempts.values())


def test_nothing_is_removed_where_retention_is_off(machine: Machine) -> None:
    machine.run(stages=4, retention={"enabled": False})
    root = machine.folder / "store" / "default" / "instant" / "r1"
    assert not (root / "retired").exists()
    assert list((root / "stages/1/ppo").rglob("critic/weights"))
